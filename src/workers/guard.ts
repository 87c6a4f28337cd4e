import type { WorkerHandle } from './handle.ts';
import type { WorkerParts } from './parts.ts';

/**
 * Makes the guardian kill the worker if this agent dies, no other takes over, and the worker does not exit by itself.
 */
export function guard({ guardian }: Pick<WorkerParts, 'guardian'>, handle: WorkerHandle): void {
  const { identity, workerId, pool, cgroup } = handle;
  const limitMs = pool.orphanTimeoutMs + pool.drain.timeoutMs + pool.drain.killAfterMs;
  if (identity !== null) guardian.watch(identity, workerId, limitMs, cgroup?.path ?? null);
}
