import type { PoolConfig } from '../domain/config.ts';
import type { PoolLimits } from './pool.ts';

/** The part of a pool's config that dispatch uses. */
export function limitsOf(pool: PoolConfig): PoolLimits {
  return {
    maxQueuedRequests: pool.queue.maxRequests,
    maxQueuedBytes: pool.queue.maxBytes,
    requestTimeoutMs: pool.request.timeoutMs,
    maxAttempts: pool.request.maxAttempts,
    killAfterMs: pool.request.killAfterMs,
    affinity: pool.request.affinity,
    keepMs: pool.request.keep.forMs,
    keepMax: pool.request.keep.maxResults,
    poison: pool.poison,
  };
}
