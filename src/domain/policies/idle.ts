import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** One that has never served holds nothing that a new one would not. */
export const idle: Policy = (_worker, pool, counters, nowMs) => {
  const { maxIdleMs } = pool.recycle;
  if (maxIdleMs === 0 || counters.inFlight > 0 || counters.lastEvidenceAtMs === 0) return never;
  const atMs = counters.lastEvidenceAtMs + maxIdleMs;
  if (nowMs < atMs) return { atMs };
  return { now: 'idle', detail: `without requests for ${Math.round(nowMs - counters.lastEvidenceAtMs)} ms` };
};
