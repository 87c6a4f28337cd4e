import type { AppReport, EndedSpan, Measured, MeasuringWorker } from '../../domain/app-telemetry.ts';
import { bytesAtMost } from './view-bounds.ts';

/** Bounds of one message. Both texts are in control.proto. */
const measurementsMax = 2_000;
const spansMax = 1_000;
/** Bytes of the measurements of a message, and of its spans: together less than the 4 MiB that every client accepts. */
const measurementBytesMax = 1024 * 1024;
const spanBytesMax = 512 * 1024;

/** One Measurement of control.proto. */
interface MeasurementView {
  readonly name: string;
  readonly kind: string;
  count: number;
  value: number;
  readonly buckets: number[];
}

/** Adds up what workers report for one stream until its next message. What does not fit into a message is counted. */
export class TelemetryBatch {
  readonly #pool: string;
  readonly #names: ReadonlySet<string>;
  #measurements = new Map<string, MeasurementView>();
  #measurementBytes = 0;
  #measurementsDropped = 0;
  #spans: object[] = [];
  #spanBytes = 0;
  #spansLeftOut = 0;

  /** An empty pool or no names: all. */
  constructor(pool: string, names: readonly string[]) {
    this.#pool = pool;
    this.#names = new Set(names);
  }

  get isEmpty(): boolean {
    return this.#measurements.size + this.#measurementsDropped + this.#spans.length + this.#spansLeftOut === 0;
  }

  add({ worker, measured, spans, spansLeftOut }: AppReport): void {
    if (this.#pool !== '' && worker.pool !== this.#pool) return;
    let anySpan = this.#names.size === 0;
    for (const each of measured) {
      if (!this.#wants(each.name)) continue;
      anySpan ||= each.name.endsWith('_seconds');
      this.#addMeasured(worker, each);
    }
    for (const span of spans) if (this.#wants(span.name)) this.#addSpan(worker, span);
    // The names of those that the worker left out are not known.
    if (anySpan) this.#spansLeftOut += spansLeftOut;
  }

  /** The fields of the next message. The batch is empty then. */
  take(): object {
    const taken = {
      measurements: [...this.#measurements.values()],
      spans: this.#spans,
      measurements_dropped: this.#measurementsDropped,
      spans_left_out: this.#spansLeftOut,
    };
    this.#measurements = new Map();
    this.#spans = [];
    this.#measurementBytes = 0;
    this.#spanBytes = 0;
    this.#measurementsDropped = 0;
    this.#spansLeftOut = 0;
    return taken;
  }

  #wants(name: string): boolean {
    return this.#names.size === 0 || this.#names.has(name);
  }

  #addMeasured({ workerId, pool }: MeasuringWorker, measured: Measured): void {
    const { name, kind, labels, count, value, buckets } = measured;
    // Values of labels have no control characters.
    const key = [workerId, name, kind, ...labels.flat()].join('\n');
    const known = this.#measurements.get(key);
    if (known !== undefined) return addTo(known, measured);
    const all = { pool, worker_id: workerId, name, kind, labels: labelViews(labels), count, value };
    const view = { ...all, buckets: [...buckets] };
    // Later reports may fill further buckets.
    const bytes = bytesAtMost(view) + (kind === 'histogram' ? bytesAtMost(new Array(32).fill(0)) : 0);
    if (this.#measurements.size >= measurementsMax || this.#measurementBytes + bytes > measurementBytesMax) {
      this.#measurementsDropped += count;
      return;
    }
    this.#measurements.set(key, view);
    this.#measurementBytes += bytes;
  }

  #addSpan({ workerId, pool }: MeasuringWorker, span: EndedSpan): void {
    const view = {
      pool,
      worker_id: workerId,
      name: span.name,
      labels: labelViews(span.labels),
      request_id: span.requestId,
      began_at_ms: span.beganAtMs,
      duration_us: span.durationUs,
      error_type: span.errorType,
    };
    const bytes = bytesAtMost(view);
    if (this.#spans.length >= spansMax || this.#spanBytes + bytes > spanBytesMax) {
      this.#spansLeftOut += 1;
      return;
    }
    this.#spans.push(view);
    this.#spanBytes += bytes;
  }
}

function addTo(known: MeasurementView, { kind, count, value, buckets }: Measured): void {
  known.count += count;
  if (kind === 'gauge') {
    known.value = value;
    return;
  }
  const sum = known.value + value;
  known.value = Number.isFinite(sum) ? sum : known.value;
  for (const [index, each] of buckets.entries()) known.buckets[index] = (known.buckets[index] ?? 0) + each;
}

function labelViews(labels: Measured['labels']): readonly object[] {
  return labels.map(([name, value]) => ({ name, value }));
}
