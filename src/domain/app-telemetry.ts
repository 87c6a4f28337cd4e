/** What applications measure with `emit` and `span`: the kinds, the buckets of histograms, and the words for what was dropped. */

export const measurementKinds = ['counter', 'gauge', 'histogram'] as const;
export type MeasurementKind = (typeof measurementKinds)[number];

/** All measurements of one name with one set of labels since the worker's previous report. */
export interface Measured {
  /** Without the prefix and without the suffix of its kind. */
  readonly name: string;
  readonly kind: MeasurementKind;
  /** Sorted by name. */
  readonly labels: readonly (readonly [name: string, value: string])[];
  readonly count: number;
  /** Of a gauge the last one, else the sum. */
  readonly value: number;
  /** Of a histogram: how many values each bucket has, not cumulative. */
  readonly buckets: readonly number[];
}

/** One span that ended. */
export interface EndedSpan {
  readonly name: string;
  readonly labels: Measured['labels'];
  /** The request that ran; empty: none. */
  readonly requestId: string;
  /** Unix time by the worker's clock. */
  readonly beganAtMs: number;
  readonly durationUs: number;
  /** The type of the exception that ended it; empty: none. */
  readonly errorType: string;
}

/** Which worker measured something. */
export interface MeasuringWorker {
  readonly workerId: string;
  readonly pool: string;
  readonly slot: number;
}

/** What one report of a worker added to the metrics. */
export interface AppReport {
  readonly worker: MeasuringWorker;
  readonly measured: readonly Measured[];
  /** Some of the spans. */
  readonly spans: readonly EndedSpan[];
  /** How many others there were. */
  readonly spansLeftOut: number;
}

const secondsBounds: readonly number[] = [
  0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
];
/** 1 and 3 times each power of ten. */
const otherBounds: readonly number[] = [
  ...[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300],
  ...[1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9],
];

/** The upper bounds of a histogram's buckets, but the last, which has none. link.proto lists them for workers. */
export function boundsOf(name: string): readonly number[] {
  return name.endsWith('_seconds') ? secondsBounds : otherBounds;
}

/**
 * Why measurements were dropped; values of the label `reason` of pitwarden_telemetry_dropped_total. docs/metrics.md explains each.
 * The first two are said by the worker itself.
 */
export const dropReasons = [
  ...(['worker_series', 'value'] as const),
  ...(['max_series', 'slot_share', 'kind', 'bytes', 'malformed'] as const),
] as const;
export type DropReason = (typeof dropReasons)[number];
