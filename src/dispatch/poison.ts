/**
 * Remembers requests that were running in workers when they crashed, by fingerprint. A request that was there several times and was
 * never answered is considered the cause.
 */
export interface Poison {
  /** Whether any request is suspected. If none is, answered requests need no fingerprint. */
  readonly suspects: boolean;
  /** The request was answered, so it does not crash workers. */
  answered(fingerprint: string): void;
  /** Whether any request is refused now. If none is, new requests need no fingerprint. */
  readonly any: boolean;
  /** The request was running in a worker that crashed. True: it has done so too often, and is refused from now on. */
  crashed(fingerprint: string, nowMs: number): boolean;
  /** How many workers the request has crashed, if it is refused for that; 0: it is not refused. */
  crashesOf(fingerprint: string, nowMs: number): number;
}

export interface PoisonLimits {
  /** The number of crashes after which a request is refused; 0: never. */
  readonly after: number;
  readonly forMs: number;
}

/** How many fingerprints are remembered. The oldest is forgotten first. */
const remembered = 1_000;

interface Suspect {
  readonly crashes: number;
  readonly lastAtMs: number;
}

export function createPoison(limits: () => PoisonLimits): Poison {
  const suspects = new Map<string, Suspect>();
  let poisonous = 0;
  /** The value of `limits().after` with which `poisonous` was counted. */
  let countedAfter = -1;
  /** A reload may have changed `after`. */
  const recount = (): void => {
    if (limits().after === countedAfter) return;
    countedAfter = limits().after;
    poisonous = 0;
    for (const suspect of suspects.values()) if (isPoison(suspect)) poisonous += 1;
  };
  const isPoison = (suspect: Suspect): boolean => limits().after > 0 && suspect.crashes >= limits().after;
  const forget = (fingerprint: string, suspect: Suspect): void => {
    suspects.delete(fingerprint);
    if (isPoison(suspect)) poisonous -= 1;
  };
  return {
    get suspects() {
      recount();
      return suspects.size > poisonous;
    },
    answered: (fingerprint) => {
      recount();
      const suspect = suspects.get(fingerprint);
      if (suspect !== undefined) forget(fingerprint, suspect);
    },
    get any() {
      recount();
      return poisonous > 0;
    },
    crashed: (fingerprint, nowMs) => {
      const { after, forMs } = limits();
      if (after === 0) return false;
      recount();
      let before = suspects.get(fingerprint);
      if (before !== undefined) forget(fingerprint, before);
      if (before !== undefined && nowMs - before.lastAtMs > forMs) before = undefined;
      const suspect = { crashes: (before?.crashes ?? 0) + 1, lastAtMs: nowMs };
      suspects.set(fingerprint, suspect);
      if (isPoison(suspect)) poisonous += 1;
      for (const [oldest, old] of suspects) {
        if (suspects.size <= remembered && nowMs - old.lastAtMs <= forMs) break;
        forget(oldest, old);
      }
      return isPoison(suspect);
    },
    crashesOf: (fingerprint, nowMs) => {
      recount();
      const suspect = suspects.get(fingerprint);
      if (suspect === undefined || !isPoison(suspect)) return 0;
      if (nowMs - suspect.lastAtMs < limits().forMs) return suspect.crashes;
      forget(fingerprint, suspect);
      return 0;
    },
  };
}
