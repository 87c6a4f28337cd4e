/** The result of one measurement of one subject; each suite fills in what it measures. */
export type Measured = Readonly<Record<string, number>>;

export interface Spread {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

export interface Case {
  readonly name: string;
  measure(): Promise<Measured>;
}

/** One case's measurements, one of each round. */
export type Rounds = readonly Measured[];

/**
 * Measures all cases in each round, forwards and backwards in turn, so that what the machine does meanwhile meets all of
 * them alike.
 */
export async function alternate(cases: readonly Case[], rounds: number): Promise<Map<string, Rounds>> {
  const found = new Map<string, Measured[]>(cases.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round += 1) {
    const order = round % 2 === 0 ? cases : [...cases].reverse();
    for (const { name, measure } of order) found.get(name)?.push(await measure());
  }
  return found;
}

export function spreadOf(rounds: Rounds, key: string): Spread {
  return spread(rounds.flatMap((measured) => measured[key] ?? []));
}

/** Ours by theirs, round by round: a slow moment of the machine is in both. */
export function ratioOf(ours: Rounds, theirs: Rounds, key: string): Spread {
  return spread(
    ours.flatMap((measured, round) => {
      const [a, b] = [measured[key], theirs[round]?.[key]];
      return a === undefined || b === undefined || b === 0 ? [] : [a / b];
    }),
  );
}

export function spread(values: readonly number[]): Spread {
  if (values.length === 0) return { median: Number.NaN, low: Number.NaN, high: Number.NaN };
  return { median: percentile(values, 50), low: Math.min(...values), high: Math.max(...values) };
}

/** By the nearest rank. */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? Number.NaN;
}
