import { join } from 'node:path';
import protobuf from 'protobufjs';
import { createAppMetrics } from '../../src/telemetry/app-metrics.ts';

const root = new protobuf.Root();
root.loadSync(join(import.meta.dirname, '../../proto/pitwarden/v1/link.proto'), { keepCase: true });
const telemetry = root.lookupType('pitwarden.v1.Telemetry');
const spansType = root.lookupType('pitwarden.v1.TelemetrySpans');

export type Words = Readonly<Record<string, unknown>>;

/** A serialized Telemetry, as a worker sends it. */
export function report(
  series: readonly Words[],
  drops: readonly Words[] = [],
  spans: Uint8Array = Buffer.alloc(0),
): Buffer {
  // Absent as workers leave it.
  return Buffer.from(telemetry.encode({ series, drops, ...(spans.length > 0 ? { spans } : {}) }).finish());
}

/** A serialized TelemetrySpans. */
export function spansOf(spans: readonly Words[], left_out = 0): Buffer {
  return Buffer.from(spansType.encode({ spans, left_out }).finish());
}

export function counter(name: string, value: number, labels: Readonly<Record<string, string>> = {}): Words {
  return { name, kind: 'counter', count: 1, value, labels: labelsOf(labels) };
}

export function gauge(name: string, value: number, labels: Readonly<Record<string, string>> = {}): Words {
  return { ...counter(name, value, labels), kind: 'gauge' };
}

/** `buckets`: how many values each bucket has. */
export function histogram(name: string, sum: number, buckets: readonly number[]): Words {
  const count = buckets.reduce((total, each) => total + each, 0);
  return { name, kind: 'histogram', count, value: sum, buckets, labels: [] };
}

function labelsOf(labels: Readonly<Record<string, string>>): readonly Words[] {
  return Object.entries(labels).map(([name, value]) => ({ name, value }));
}

/** The metrics of two pools, a clock that stands until `later`, and what was logged. */
export function appScene(limits = { maxSeries: 1_000, size: 2 }) {
  let nowMs = 0;
  const warnings: string[] = [];
  const apps = createAppMetrics({ nowMs: () => nowMs, warn: (message) => warnings.push(message) });
  apps.setPool('text', limits);
  apps.setPool('other', limits);
  const from =
    (pool: string, slot: number, workerId = `${pool}-${slot}`) =>
    (...series: readonly Words[]) =>
      apps.receive({ workerId, pool, slot }, report(series));
  const dropped = (pool: string): Record<string, number> => {
    const all = Object.entries(apps.numbers().get(pool)?.dropped ?? {});
    return Object.fromEntries(all.filter(([, count]) => count > 0));
  };
  const later = (ms: number): void => {
    nowMs += ms;
  };
  const lines = (): string[] =>
    apps
      .render()
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'));
  return { apps, warnings, from, dropped, later, lines };
}
