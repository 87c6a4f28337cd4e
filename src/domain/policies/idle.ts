import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** A worker that has never served holds no more memory than a new one, so it is not replaced. */
export const idle: Policy = (_worker, pool, counters, nowMs) => {
  const { maxIdleMs } = pool.recycle;
  if (maxIdleMs === 0 || counters.inFlight > 0 || counters.lastEvidenceAtMs === 0) return never;
  const atMs = counters.lastEvidenceAtMs + maxIdleMs;
  if (nowMs < atMs) return { atMs };
  return { now: 'idle', detail: `without requests for ${Math.round(nowMs - counters.lastEvidenceAtMs)} ms` };
};
