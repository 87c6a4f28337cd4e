import type { KeptExit } from '../domain/evidence.ts';

/** How workers ended, the newest of each pool; they stay when the pool goes, up to as many pools as there are names for. */
export interface Exits {
  keep(exit: KeptExit): void;
  /** Newest first; of all pools where none is named. */
  list(pool: string): readonly KeptExit[];
}

/** Kept of one pool. */
const keptPerPool = 200;
/** Of those, the newest with evidence: up to some 30 KiB each. */
const evidencePerPool = 20;
/** Pools that are kept; of one that came and went its exits go when this many others have had some since. */
const poolsMax = 100;

export function createExits(): Exits {
  const ofPool = new Map<string, KeptExit[]>();
  return {
    keep: (exit) => {
      const exits = ofPool.get(exit.pool) ?? [];
      exits.push(exit);
      if (exit.evidence !== null) forgetOldEvidence(exits);
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

function forgetOldEvidence(exits: KeptExit[]): void {
  const withEvidence = exits.flatMap((exit, index) => (exit.evidence === null ? [] : [index]));
  for (const index of withEvidence.slice(0, -evidencePerPool)) {
    const exit = exits[index];
    if (exit !== undefined) exits[index] = { ...exit, evidence: null };
  }
}
