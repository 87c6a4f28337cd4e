import type { PoolConfig } from '../config.ts';
import type { Limits } from '../state.ts';

/**
 * Draws a worker's own limits, up to `jitter` below the configured ones, which are the maximum. Slot k of N draws from
 * the k-th part of that range, so that workers started together do not become due together.
 */
export function drawLimits(pool: PoolConfig, rank: number, size: number, random: () => number): Limits {
  const share = (rank + random()) / Math.max(size, rank + 1);
  const factor = 1 - pool.recycle.jitter * share;
  return {
    maxAgeMs: pool.recycle.maxAgeMs * factor,
    maxRequests: pool.recycle.maxRequests === 0 ? 0 : Math.max(1, Math.round(pool.recycle.maxRequests * factor)),
  };
}
