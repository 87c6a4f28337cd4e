import type { DropReason, Measured, MeasurementKind, MeasuringWorker } from '../domain/app-telemetry.ts';
import { boundsOf } from '../domain/app-telemetry.ts';

export interface AppSeries {
  /** The inside of the braces in the text format, such as `pool="text",model="small"`. */
  readonly labels: string;
  /** Of a counter or histogram the sum of all workers' measurements, of a gauge the last measurement. */
  value: number;
  /** Of a histogram: how many values each bucket has, not cumulative; else empty. */
  readonly buckets: number[];
  /** The slot whose worker was the first to report the series. */
  readonly createdBy: number;
  /** Of a gauge: the worker whose measurement it shows. */
  owner: string;
}

export interface AppFamily {
  readonly name: string;
  readonly kind: MeasurementKind;
  /** How many lines of /metrics one of its series has. */
  readonly linesEach: number;
  readonly series: Map<string, AppSeries>;
}

/**
 * What the applications of one pool have measured. How many lines of /metrics that may be is bounded, and also how many of them the
 * workers of one slot may have brought, so that one worker with ever new labels leaves room for those of the others.
 */
export class PoolSeries {
  readonly families = new Map<string, AppFamily>();
  readonly #pool: string;
  readonly #linesBySlot = new Map<number, number>();
  #lines = 0;
  #maxLines = 0;
  #maxLinesOfSlot = 0;

  constructor(pool: string) {
    this.#pool = pool;
  }

  get lines(): number {
    return this.#lines;
  }

  get maxLines(): number {
    return this.#maxLines;
  }

  /** Existing series stay, also beyond the limits. `size`: how many slots the pool has. */
  limit(maxLines: number, size: number): void {
    this.#maxLines = maxLines;
    this.#maxLinesOfSlot = size > 1 ? Math.ceil(maxLines / 2) : maxLines;
  }

  /** Adds a worker's measurements. Returns why they were dropped; undefined: they were not. */
  add(worker: MeasuringWorker, measured: Measured): DropReason | undefined {
    const { name, kind, value, buckets } = measured;
    const family = this.families.get(name) ?? newFamily(name, kind);
    if (family.kind !== kind) return 'kind';
    const key = keyOf(measured, worker.slot);
    let series = family.series.get(key);
    if (series === undefined) {
      const refusal = this.#refuses(family, worker.slot);
      if (refusal !== undefined) return refusal;
      series = this.#open(family, key, worker, measured);
    }
    series.owner = worker.workerId;
    if (kind === 'gauge') {
      series.value = value;
      return undefined;
    }
    // Two sums of a worker may each be finite, and their sum not.
    if (!Number.isFinite(series.value + value)) return 'value';
    series.value += value;
    for (const [index, count] of buckets.entries()) series.buckets[index] = (series.buckets[index] ?? 0) + count;
    return undefined;
  }

  /** The worker has ended, so its gauges say nothing any more. Sums stay. */
  removeGaugesOf(workerId: string): void {
    for (const family of this.families.values()) {
      if (family.kind !== 'gauge') continue;
      for (const [key, { owner, createdBy }] of family.series) {
        if (owner !== workerId) continue;
        family.series.delete(key);
        this.#count(createdBy, -family.linesEach);
      }
      if (family.series.size === 0) this.families.delete(family.name);
    }
  }

  #refuses({ linesEach }: AppFamily, slot: number): DropReason | undefined {
    if (this.#lines + linesEach > this.#maxLines) return 'max_series';
    if ((this.#linesBySlot.get(slot) ?? 0) + linesEach > this.#maxLinesOfSlot) return 'slot_share';
    return undefined;
  }

  #open(family: AppFamily, key: string, { slot, workerId }: MeasuringWorker, { labels, name }: Measured): AppSeries {
    const all = [['pool', this.#pool], ...(family.kind === 'gauge' ? [['slot', String(slot)]] : []), ...labels];
    const series: AppSeries = {
      labels: all.map(([label, value = '']) => `${label}="${escaped(value)}"`).join(','),
      value: 0,
      buckets: family.kind === 'histogram' ? new Array(boundsOf(name).length + 1).fill(0) : [],
      createdBy: slot,
      owner: workerId,
    };
    family.series.set(key, series);
    this.families.set(name, family);
    this.#count(slot, family.linesEach);
    return series;
  }

  #count(slot: number, lines: number): void {
    this.#lines += lines;
    const ofSlot = (this.#linesBySlot.get(slot) ?? 0) + lines;
    if (ofSlot > 0) this.#linesBySlot.set(slot, ofSlot);
    else this.#linesBySlot.delete(slot);
  }
}

function newFamily(name: string, kind: MeasurementKind): AppFamily {
  // The buckets, the one without a bound, the sum and the count.
  const linesEach = kind === 'histogram' ? boundsOf(name).length + 3 : 1;
  return { name, kind, linesEach, series: new Map() };
}

/** A gauge has a series for each slot: the last measurement of any worker would jump between those of all workers. */
function keyOf({ labels, kind }: Measured, slot: number): string {
  // Values have no control characters.
  const text = labels.map(([name, value]) => `${name}\n${value}\n`).join('');
  return kind === 'gauge' ? `${slot}\n${text}` : text;
}

/** As the text format of Prometheus wants it. */
function escaped(value: string): string {
  return /["\\\n]/.test(value) ? value.replace(/[\\"]/g, '\\$&').replaceAll('\n', '\\n') : value;
}
