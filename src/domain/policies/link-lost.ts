import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** A link that closed nearly always means that the process just died; if its exit does not follow, it is of no use. */
export const linkLost: Policy = (worker, pool, _counters, nowMs) => {
  if (worker.linkLostAtMs === 0) return never;
  const atMs = worker.linkLostAtMs + pool.heartbeat.timeoutMs;
  return nowMs >= atMs ? { now: 'link_lost', detail: 'its link closed and it did not exit' } : { atMs };
};
