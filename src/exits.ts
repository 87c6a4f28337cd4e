import type { ExitRecord } from './domain/action.ts';

/** How workers ended, the newest of each pool; they stay when the pool goes, up to as many pools as there are names for. */
export interface Exits {
  keep(exit: ExitRecord): void;
  /** Newest first; of all pools where none is named. */
  list(pool: string): readonly ExitRecord[];
}

/** Kept of one pool. */
const keptPerPool = 200;
/** Pools that are kept; of one that came and went its exits go when this many others have had some since. */
const poolsMax = 100;

export function createExits(): Exits {
  const ofPool = new Map<string, ExitRecord[]>();
  return {
    keep: (exit) => {
      const exits = ofPool.get(exit.pool) ?? [];
      exits.push(exit);
      if (exits.length > keptPerPool) exits.shift();
      ofPool.delete(exit.pool);
      ofPool.set(exit.pool, exits);
      for (const oldest of ofPool.keys()) {
        if (ofPool.size <= poolsMax) break;
        ofPool.delete(oldest);
      }
    },
    list: (pool) => {
      const found = pool === '' ? [...ofPool.values()].flat() : [...(ofPool.get(pool) ?? [])];
      return found.sort((a, b) => b.exitedAtMs - a.exitedAtMs);
    },
  };
}
