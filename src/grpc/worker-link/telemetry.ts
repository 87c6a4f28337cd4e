import type { DropReason, EndedSpan, Measured } from '../../domain/app-telemetry.ts';
import { boundsOf, measurementKinds } from '../../domain/app-telemetry.ts';
import { printableLine } from '../../domain/printable.ts';
import { requestIdMaxBytes } from '../../domain/text-bounds.ts';
import { cutBytes } from '../cut-text.ts';
import { decodeSpans, decodeTelemetry, UnreadableMessage } from '../proto.ts';
import { whole } from './sanitize.ts';

/** Most bytes of telemetry that a worker may send in a second; `telemetry_bytes_per_s` of link.proto. */
export const telemetryBytesPerS = 64 * 1024;

export const measuredNameMaxLength = 100;
export const labelNameMaxLength = 64;
export const labelValueMaxBytes = 128;
export const labelsMax = 8;
/** Names and values of all labels of one series. */
export const labelsMaxBytes = 512;

const namePattern = /^[a-zA-Z_][a-zA-Z0-9_]*$/;
/** Prometheus gives these endings a meaning. With them two names of applications could become one series. */
const reservedEnding = /_(?:total|bucket|sum|count|created|info)$/;
const reservedLabels: readonly string[] = ['pool', 'worker', 'slot', 'le', 'quantile'];

/** Telemetry of link.proto, as protobufjs decodes it. */
interface Telemetry {
  readonly series: readonly Series[];
  readonly drops: readonly { readonly reason: string; readonly count: number }[];
  readonly spans: Uint8Array;
}

/** TelemetrySpans of link.proto. */
interface Spans {
  readonly spans: readonly {
    readonly name: string;
    readonly labels: Series['labels'];
    readonly request_id: string;
    readonly began_at_ms: number | { toNumber(): number };
    readonly duration_us: number | { toNumber(): number };
    readonly error_type: string;
  }[];
  readonly left_out: number;
}

interface Series {
  readonly name: string;
  readonly kind: string;
  readonly labels: readonly { readonly name: string; readonly value: string }[];
  readonly count: number;
  readonly value: number;
  readonly buckets: readonly number[];
}

/** What one Telemetry of a worker says. */
export interface TelemetryReport {
  readonly measured: readonly Measured[];
  readonly drops: readonly (readonly [reason: DropReason, count: number])[];
  /** A serialized TelemetrySpans, for `readSpans`. */
  readonly spans: Uint8Array;
}

/** Reads a worker's telemetry. Workers are not trusted: what does not keep to link.proto is left out and counted as dropped. */
export function readTelemetry(bytes: Buffer): TelemetryReport {
  const decoded = decodeTelemetry(bytes) as Telemetry | UnreadableMessage;
  if (decoded instanceof UnreadableMessage) return { measured: [], drops: [['malformed', 1]], spans: Buffer.alloc(0) };
  const measured: Measured[] = [];
  const drops: [DropReason, number][] = [];
  for (const series of decoded.series) {
    const checked = checkSeries(series);
    if (typeof checked === 'string') drops.push([checked, Math.max(1, series.count)]);
    else measured.push(checked);
  }
  for (const { reason, count } of decoded.drops) {
    drops.push([reason === 'worker_series' || reason === 'value' ? reason : 'malformed', count]);
  }
  return { measured, drops, spans: decoded.spans };
}

/** Reads the spans of a report. Those that do not keep to link.proto are left out. */
export function readSpans(bytes: Uint8Array): { readonly spans: readonly EndedSpan[]; readonly leftOut: number } {
  const decoded = decodeSpans(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)) as Spans | UnreadableMessage;
  if (decoded instanceof UnreadableMessage) return { spans: [], leftOut: 0 };
  const valid = decoded.spans.filter(({ name, labels }) => isMeasuredName(name) && areLabels(labels));
  const spans = valid.map((span) => ({
    name: span.name,
    labels: shownLabels(span.labels),
    requestId: shown(span.request_id, requestIdMaxBytes),
    beganAtMs: Math.max(0, whole(span.began_at_ms)),
    durationUs: whole(span.duration_us),
    errorType: shown(span.error_type, labelValueMaxBytes),
  }));
  return { spans, leftOut: decoded.left_out };
}

function checkSeries({ name, kind: word, labels, count, value, buckets }: Series): Measured | DropReason {
  const kind = measurementKinds.find((each) => each === word);
  if (kind === undefined || count < 1 || !isMeasuredName(name) || !areLabels(labels)) return 'malformed';
  if (!Number.isFinite(value) || (kind === 'counter' && value < 0)) return 'value';
  if (kind === 'histogram' ? !areBuckets(name, buckets, count) : buckets.length > 0) return 'malformed';
  return { name, kind, labels: shownLabels(labels), count, value, buckets };
}

function isMeasuredName(name: string): boolean {
  return name.length <= measuredNameMaxLength && namePattern.test(name) && !reservedEnding.test(name);
}

function areLabels(labels: Series['labels']): boolean {
  if (labels.length > labelsMax) return false;
  let bytes = 0;
  let before = '';
  for (const { name, value } of labels) {
    if (name.length > labelNameMaxLength || !namePattern.test(name) || name.startsWith('__')) return false;
    // Sorted, so that no label comes twice and equal sets of labels have equal texts.
    if (reservedLabels.includes(name) || name <= before) return false;
    const valueBytes = Buffer.byteLength(value);
    if (valueBytes > labelValueMaxBytes) return false;
    bytes += name.length + valueBytes;
    before = name;
  }
  return bytes <= labelsMaxBytes;
}

function areBuckets(name: string, buckets: Series['buckets'], count: number): boolean {
  if (buckets.length > boundsOf(name).length + 1) return false;
  return buckets.reduce((sum, each) => sum + each, 0) === count;
}

function shownLabels(labels: Series['labels']): Measured['labels'] {
  return labels.map(({ name, value }) => [name, shown(value, labelValueMaxBytes)] as const);
}

/** Cuts before, as a text may be long, and after: escapes are longer. */
function shown(text: string, maxBytes: number): string {
  return cutBytes(printableLine(cutBytes(text, maxBytes)), maxBytes);
}
