import type { Histogram, Registry } from 'prom-client';

/** A histogram of one pool. prom-client's own histograms cost more per request than dispatch itself. */
export class BucketCounts {
  readonly counts: number[];
  sum = 0;
  readonly bounds: readonly number[];
  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.counts = [...bounds, Number.POSITIVE_INFINITY].map(() => 0);
  }
  observe(value: number): void {
    const { bounds, counts } = this;
    let index = 0;
    while (index < bounds.length && value > (bounds[index] ?? 0)) index += 1;
    counts[index] = (counts[index] ?? 0) + 1;
    this.sum += value;
  }
}

/** One histogram with the label `pool`. */
export interface PoolHistogram {
  of(pool: string): BucketCounts;
  forget(pool: string): void;
}

export function createPoolHistogram(registry: Registry, name: string, help: string, bounds: number[]): PoolHistogram {
  const pools = new Map<string, BucketCounts>();
  // The part of a metric that the registry uses in a scrape.
  const metric = {
    name,
    reset: () => pools.clear(),
    get: async () => ({
      name,
      help,
      type: 'histogram',
      aggregator: 'sum',
      values: [...pools].flatMap(([pool, counts]) => seriesOfHistogram(name, pool, counts)),
    }),
  };
  registry.registerMetric(metric as unknown as Histogram);
  return {
    of: (pool) => {
      let counts = pools.get(pool);
      if (counts === undefined) {
        counts = new BucketCounts(bounds);
        pools.set(pool, counts);
      }
      return counts;
    },
    forget: (pool) => pools.delete(pool),
  };
}

/** Buckets are cumulative: each counts all values up to its bound. */
function seriesOfHistogram(name: string, pool: string, { bounds, counts, sum }: BucketCounts) {
  let total = 0;
  const buckets = counts.map((count, index) => {
    total += count;
    return { metricName: `${name}_bucket`, labels: { pool, le: bounds[index] ?? '+Inf' }, value: total };
  });
  const rest = { sum, count: total };
  const totals = Object.entries(rest).map(([what, value]) => ({
    metricName: `${name}_${what}`,
    labels: { pool },
    value,
  }));
  return [...buckets, ...totals];
}
