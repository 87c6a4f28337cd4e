import type { AppReport, DropReason, Measured, MeasuringWorker } from '../domain/app-telemetry.ts';
import { dropReasons } from '../domain/app-telemetry.ts';
import { readSpans, readTelemetry, telemetryBytesPerS } from '../grpc/worker-link/telemetry.ts';
import { renderApps } from './app-exposition.ts';
import { PoolSeries } from './app-series.ts';

/** What applications measure with `emit` and `span`, added up over the workers of each pool. A new agent begins with nothing. */
export interface AppMetrics {
  /** `maxSeries`: how many lines of /metrics the pool may have. */
  setPool(pool: string, limits: { readonly maxSeries: number; readonly size: number }): void;
  forgetPool(pool: string): void;
  workerGone(workerId: string): void;
  /** A worker's serialized Telemetry. It is not read if the worker has sent too many bytes lately. */
  receive(worker: MeasuringWorker, bytes: Buffer): void;
  /** Calls `listener` with what each report added, until the returned function is called. */
  follow(listener: (report: AppReport) => void): () => void;
  numbers(): ReadonlyMap<string, AppNumbers>;
  /** In the text format of Prometheus. */
  render(): string;
}

/** The numbers of one pool. */
export interface AppNumbers {
  readonly series: number;
  readonly maxSeries: number;
  readonly measurements: number;
  readonly dropped: Readonly<Record<DropReason, number>>;
}

export interface AppMetricsParts {
  nowMs(): number;
  warn(message: string): void;
}

interface AppPool {
  readonly series: PoolSeries;
  measurements: number;
  readonly dropped: Record<DropReason, number>;
  /** When the next line about a reason may be logged, and how much was dropped since the last. */
  readonly silent: Map<DropReason, { untilMs: number; unsaid: number }>;
}

/** A worker may save up this much of its share, because its reports come in bursts. */
const allowanceMaxBytes = 4 * telemetryBytesPerS;
/** At most one line of the log for each pool and reason in this time. */
const warnEveryMs = 60_000;

const explained: Readonly<Record<DropReason, string>> = {
  worker_series: 'a worker held too many series at once',
  value: 'a value was no finite number, or a counter was negative',
  max_series: 'the pool has as many series as telemetry.max_series allows',
  slot_share: "one slot's workers brought half of the series that telemetry.max_series allows",
  kind: 'a name was used before as another kind',
  bytes: `a worker sent more than ${telemetryBytesPerS} bytes of telemetry a second (each report counts as one)`,
  malformed: 'a worker sent telemetry that the protocol does not allow',
};

export function createAppMetrics({ nowMs, warn }: AppMetricsParts): AppMetrics {
  const pools = new Map<string, AppPool>();
  const listeners = new Set<(report: AppReport) => void>();
  /** How many bytes each worker may send at a time. */
  const allowances = new Map<string, { bytes: number; atMs: number }>();

  const drop = (pool: AppPool, { pool: name, workerId }: MeasuringWorker, reason: DropReason, count: number): void => {
    pool.dropped[reason] += count;
    const silent = pool.silent.get(reason) ?? { untilMs: Number.NEGATIVE_INFINITY, unsaid: 0 };
    pool.silent.set(reason, silent);
    silent.unsaid += count;
    if (nowMs() < silent.untilMs) return;
    warn(`pool ${name}: measurements dropped: ${silent.unsaid}, the last of ${workerId}: ${explained[reason]}`);
    silent.untilMs = nowMs() + warnEveryMs;
    silent.unsaid = 0;
  };
  /** False: it was dropped. */
  const add = (pool: AppPool, worker: MeasuringWorker, measured: Measured): boolean => {
    const reason = pool.series.add(worker, measured);
    if (reason === undefined) pool.measurements += measured.count;
    else drop(pool, worker, reason, measured.count);
    return reason === undefined;
  };
  const publish = (worker: MeasuringWorker, measured: readonly Measured[], spanBytes: Uint8Array): void => {
    if (listeners.size === 0) return;
    const { spans, leftOut: spansLeftOut } = readSpans(spanBytes);
    for (const listener of listeners) listener({ worker, measured, spans, spansLeftOut });
  };
  /** Whether the worker may send so many bytes now. */
  const allows = (workerId: string, bytes: number): boolean => {
    const allowance = allowances.get(workerId) ?? { bytes: allowanceMaxBytes, atMs: nowMs() };
    allowances.set(workerId, allowance);
    const earned = ((nowMs() - allowance.atMs) / 1000) * telemetryBytesPerS;
    allowance.bytes = Math.min(allowanceMaxBytes, allowance.bytes + earned);
    allowance.atMs = nowMs();
    if (bytes > allowance.bytes) return false;
    allowance.bytes -= bytes;
    return true;
  };

  return {
    setPool: (name, { maxSeries, size }) => {
      let pool = pools.get(name);
      if (pool === undefined) {
        pool = { series: new PoolSeries(name), measurements: 0, dropped: noDrops(), silent: new Map() };
        pools.set(name, pool);
      }
      pool.series.limit(maxSeries, size);
    },
    forgetPool: (name) => pools.delete(name),
    workerGone: (workerId) => {
      allowances.delete(workerId);
      for (const { series } of pools.values()) series.removeGaugesOf(workerId);
    },
    receive: (worker, bytes) => {
      const pool = pools.get(worker.pool);
      // The pool was removed, or its telemetry is off and the worker does not know yet.
      if (pool === undefined || pool.series.maxLines === 0) return;
      if (!allows(worker.workerId, bytes.length)) return drop(pool, worker, 'bytes', 1);
      const { measured, drops, spans } = readTelemetry(bytes);
      const added = measured.filter((each) => add(pool, worker, each));
      for (const [reason, count] of drops) drop(pool, worker, reason, count);
      publish(worker, added, spans);
    },
    follow: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    numbers: () => new Map([...pools].map(([name, pool]) => [name, numbersOf(pool)])),
    render: () => renderApps([...pools.values()].map(({ series }) => series)),
  };
}

function noDrops(): Record<DropReason, number> {
  return Object.fromEntries(dropReasons.map((reason) => [reason, 0])) as Record<DropReason, number>;
}

function numbersOf({ series, measurements, dropped }: AppPool): AppNumbers {
  return { series: series.lines, maxSeries: series.maxLines, measurements, dropped };
}
