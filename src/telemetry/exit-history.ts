import type { KeptExit } from '../domain/evidence.ts';

/** How workers ended: the newest exits of each pool. They stay when the pool is removed, for up to `poolsMax` pools. */
export interface Exits {
  keep(exit: KeptExit): void;
  /** Newest first; of all pools if `pool` is empty. */
  list(pool: string): readonly KeptExit[];
}

/** Exits kept per pool. */
const keptPerPool = 200;
/** Exits per pool that keep their evidence, which takes up to about 30 KiB each. */
const evidencePerPool = 20;
/** Pools whose exits are kept. The pool whose last exit is the oldest is dropped first. */
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
