import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** How often a worker that uses CPU is checked again. */
const lookAgainMs = 1_000;

/**
 * A closed link nearly always means that the process or its agent has just died. A live worker dials again several
 * times a second. One that does not is useless, unless it uses CPU: C code that holds the GIL lets no thread dial.
 */
export const linkLost: Policy = (worker, pool, _counters, nowMs) => {
  if (worker.linkLostAtMs === 0) return never;
  const { timeoutMs, busyLimitMs } = pool.heartbeat;
  const atMs = worker.linkLostAtMs + timeoutMs;
  if (nowMs < atMs) return { atMs };
  const limitAtMs = worker.linkLostAtMs + Math.max(timeoutMs, busyLimitMs);
  const advances = worker.usage.cpuAdvancedAtMs > 0 && nowMs - worker.usage.cpuAdvancedAtMs < timeoutMs;
  if (advances && nowMs < limitAtMs) return { atMs: Math.min(limitAtMs, nowMs + lookAgainMs) };
  return { now: 'link_lost', detail: 'its link closed, and it neither exited nor dialled again' };
};
