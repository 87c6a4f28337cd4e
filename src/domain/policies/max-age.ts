import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** Age counts from readiness, so a slow start does not shorten a worker's life. */
export const maxAge: Policy = (worker, _pool, _counters, nowMs) => {
  if (worker.limits.maxAgeMs === 0 || worker.readyAtMs === 0) return never;
  const atMs = worker.readyAtMs + worker.limits.maxAgeMs;
  return nowMs >= atMs ? { now: 'ttl', detail: `ready for ${Math.round(nowMs - worker.readyAtMs)} ms` } : { atMs };
};
