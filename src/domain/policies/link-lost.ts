import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** A look at one that burns cpu is taken this often. */
const lookAgainMs = 1_000;

/**
 * A link that closed nearly always means that the process just died, or that its agent did. A worker dials again several
 * times a second; one that does not is of no use, unless it burns cpu: C code that holds the GIL lets no thread dial.
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
