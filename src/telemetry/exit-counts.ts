import type { Reason } from '../domain/reason.ts';

/** How many workers of each pool have ended since the agent started, by reason. */
export interface ExitCounts {
  count(pool: string, reason: Reason): void;
  of(pool: string): ReadonlyMap<Reason, number>;
  forgetPool(pool: string): void;
}

const none: ReadonlyMap<Reason, number> = new Map();

export function createExitCounts(): ExitCounts {
  const ofPool = new Map<string, Map<Reason, number>>();
  return {
    count: (pool, reason) => {
      const counts = ofPool.get(pool) ?? new Map<Reason, number>();
      ofPool.set(pool, counts.set(reason, (counts.get(reason) ?? 0) + 1));
    },
    of: (pool) => ofPool.get(pool) ?? none,
    forgetPool: (pool) => void ofPool.delete(pool),
  };
}
