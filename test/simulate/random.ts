/** Chance that is the same for the same seed. */
export interface Random {
  /** 0 ≤ x < 1. */
  next(): number;
  /** A whole number, `least` to `most`. */
  int(least: number, most: number): number;
  chance(share: number): boolean;
  pick<T>(items: readonly T[]): T;
  /** Times between events that come by chance, so many ms apart on average. */
  gapMs(averageMs: number): number;
}

/** mulberry32 by Tommy Ettinger (public domain): 32 bits of state, a period of 2^32, and passes gjrand's tests. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    next,
    int: (least, most) => least + Math.floor(next() * (most - least + 1)),
    chance: (share) => next() < share,
    pick: <T>(items: readonly T[]): T => {
      if (items.length === 0) throw new Error('pick: expected at least one item, got none');
      return items[Math.floor(next() * items.length)] as T;
    },
    gapMs: (averageMs) => -Math.log(1 - next()) * averageMs,
  };
}
