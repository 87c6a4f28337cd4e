import type { PoolConfig } from '../config.ts';
import type { Limits } from '../state.ts';

/**
 * A worker's own limits: up to `jitter` below the configured ones, which stay the most that is allowed. Slot k of N
 * takes its own share of that range, so that workers born together do not fall due together.
 */
export function drawLimits(pool: PoolConfig, rank: number, size: number, random: () => number): Limits {
  const share = (rank + random()) / Math.max(size, rank + 1);
  const factor = 1 - pool.recycle.jitter * share;
  return {
    maxAgeMs: pool.recycle.maxAgeMs * factor,
    maxRequests: pool.recycle.maxRequests === 0 ? 0 : Math.max(1, Math.round(pool.recycle.maxRequests * factor)),
  };
}
