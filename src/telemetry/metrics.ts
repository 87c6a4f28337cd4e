import type { Histogram } from 'prom-client';
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { Outcome } from '../dispatch/dispatch.ts';
import type { NodeRecord } from '../domain/action.ts';
import { dueReasons, reasons } from '../domain/reason.ts';
import type { RefusalReason } from '../grpc/worker-link/source.ts';
import { refusalReasons } from '../grpc/worker-link/source.ts';
import { version } from '../version.ts';
import type { GaugesSource } from './gauges.ts';
import { addGauges } from './gauges.ts';

export interface Metrics {
  /** A configuration was accepted at this unix time. */
  configApplied(atMs: number): void;
  /** What happened to workers and files that an earlier agent left. */
  adoption(outcome: 'adopted' | 'unwanted' | 'dead' | 'unproven' | 'set_aside', count: number): void;
  /** A hello on the workers' socket was refused. */
  linkRefusal(reason: RefusalReason): void;
  record(record: NodeRecord): void;
  outcome(outcome: Outcome): void;
  ping(pool: string, roundTripSeconds: number): void;
  missedPings(pool: string, count: number): void;
  /** Starts the pool's series, each with 0: if the first crash created its series, it would not show as an increase. */
  addPool(pool: string): void;
  /** Ends the pool's series: its label must not stay forever. */
  forgetPool(pool: string): void;
  /** Adds the metrics that are read from the state at each scrape. Call it once. */
  addGauges(source: GaugesSource): void;
  render(): Promise<{ readonly contentType: string; readonly body: string }>;
}

/** gRPC status codes as values of the label `outcome`; 0 is a successful answer. */
const outcomes: readonly string[] = [
  'ok',
  'cancelled',
  'unknown',
  'invalid_argument',
  'deadline_exceeded',
  'not_found',
  'already_exists',
  'permission_denied',
  'resource_exhausted',
  'failed_precondition',
  'aborted',
  'out_of_range',
  'unimplemented',
  'internal',
  'unavailable',
  'data_loss',
  'unauthenticated',
];

const unknownOutcome = outcomes.indexOf('unknown');

/** From a quarter of a millisecond, the duration of a trivial command, to the minutes of a long one. */
const requestBuckets = [
  0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
];
const pingBuckets = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5, 10];

const agentPrefix = 'pitwarden_agent_';
/** Gauges that prom-client names like counters. */
const misnamed = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total'];

/** All series are described in docs/metrics.md. Each has the label `pool`, whose values the config bounds. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: agentPrefix });
  for (const name of misnamed) registry.removeSingleMetric(`${agentPrefix}${name}`);
  const counter = (name: string, help: string, labels: string[]) =>
    new Counter({ name, help, labelNames: labels, registers: [registry] });
  const gauge = (name: string, help: string, labels: string[]) =>
    new Gauge({ name, help, labelNames: labels, registers: [registry] });

  const starts = counter('pitwarden_worker_starts_total', 'Workers started.', ['pool']);
  const exits = counter('pitwarden_worker_exits_total', 'Workers that ended, by reason.', ['pool', 'reason']);
  const recycles = counter('pitwarden_worker_recycles_total', 'Planned replacements, by reason.', ['pool', 'reason']);
  const adoptions = gauge('pitwarden_adoptions', "What became of an earlier agent's workers when this agent started.", [
    'outcome',
  ]);
  const configAppliedAt = gauge(
    'pitwarden_config_last_reload_success_timestamp_seconds',
    'When the configuration in force was read.',
    [],
  );
  gauge('pitwarden_build_info', 'Versions of the agent and of the Node.js that runs it; always 1.', [
    'version',
    'node_version',
  ]).set({ version, node_version: process.versions.node }, 1);
  const refusals = counter('pitwarden_link_refusals_total', "Hellos refused on the workers' socket.", ['reason']);
  for (const reason of refusalReasons) refusals.inc({ reason }, 0);
  const missed = counter('pitwarden_pings_missed_total', 'Pings not answered within heartbeat.timeout.', ['pool']);
  const roundTrip = histogram(registry, 'pitwarden_ping_round_trip_seconds', 'From a ping to its pong.', pingBuckets);
  const runTime = histogram(
    registry,
    'pitwarden_request_seconds',
    'From sending a request to its end.',
    requestBuckets,
  );
  const queueTime = histogram(
    registry,
    'pitwarden_queue_seconds',
    'From the arrival of a request to its sending.',
    requestBuckets,
  );
  const ofPool = new Map<string, PoolSeries>();
  const seriesOf = (pool: string): PoolSeries => {
    let series = ofPool.get(pool);
    if (series === undefined) {
      series = { outcomes: outcomes.map(() => 0), runTime: runTime.of(pool), queueTime: queueTime.of(pool) };
      ofPool.set(pool, series);
    }
    return series;
  };
  new Counter({
    name: 'pitwarden_requests_total',
    help: 'Requests that ended, by outcome.',
    labelNames: ['pool', 'outcome'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [pool, series] of ofPool) {
        for (const [code, count] of series.outcomes.entries()) {
          this.inc({ pool, outcome: outcomes[code] ?? 'unknown' }, count);
        }
      }
    },
  });

  return {
    addGauges: (source) => addGauges(registry, source),
    configApplied: (atMs) => configAppliedAt.set(atMs / 1000),
    adoption: (outcome, count) => adoptions.set({ outcome }, count),
    linkRefusal: (reason) => refusals.inc({ reason }),
    record: (record) => {
      const { pool, kind, reason } = record;
      if (pool === undefined) return;
      if (kind === 'worker_started') starts.inc({ pool });
      if (kind === 'worker_exited' && reason !== undefined) exits.inc({ pool, reason });
      if (kind === 'worker_due' && reason !== undefined) recycles.inc({ pool, reason });
    },
    outcome: ({ pool, code, refused, queuedMs, ranMs }) => {
      const series = seriesOf(pool);
      const known = code < outcomes.length ? code : unknownOutcome;
      series.outcomes[known] = (series.outcomes[known] ?? 0) + 1;
      // A request that was refused at once did not wait: its 0 would make a full queue look short.
      if (!refused) series.queueTime.observe(queuedMs / 1000);
      if (ranMs > 0) series.runTime.observe(ranMs / 1000);
    },
    ping: (pool, seconds) => roundTrip.of(pool).observe(seconds),
    missedPings: (pool, count) => missed.inc({ pool }, count),
    addPool: (pool) => {
      seriesOf(pool);
      roundTrip.of(pool);
      for (const series of [starts, missed]) series.inc({ pool }, 0);
      for (const reason of reasons) exits.inc({ pool, reason }, 0);
      for (const reason of dueReasons) recycles.inc({ pool, reason }, 0);
    },
    forgetPool: (pool) => {
      ofPool.delete(pool);
      for (const series of [roundTrip, runTime, queueTime]) series.forget(pool);
      for (const series of [starts, missed]) series.remove({ pool });
      for (const reason of reasons) for (const series of [exits, recycles]) series.remove({ pool, reason });
    },
    render: async () => ({ contentType: registry.contentType, body: await registry.metrics() }),
  };
}

/** Numbers that every request updates; a scrape turns them into series. */
interface PoolSeries {
  /** Indexed by status code. */
  readonly outcomes: number[];
  readonly runTime: Observations;
  readonly queueTime: Observations;
}

/** A histogram of one pool. prom-client's own histograms cost more per request than dispatch itself. */
class Observations {
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

interface PoolHistogram {
  of(pool: string): Observations;
  forget(pool: string): void;
}

function histogram(registry: Registry, name: string, help: string, bounds: number[]): PoolHistogram {
  const pools = new Map<string, Observations>();
  // The part of a metric that the registry uses in a scrape.
  const metric = {
    name,
    reset: () => pools.clear(),
    get: async () => ({
      name,
      help,
      type: 'histogram',
      aggregator: 'sum',
      values: [...pools].flatMap(([pool, observations]) => seriesOfHistogram(name, pool, observations)),
    }),
  };
  registry.registerMetric(metric as unknown as Histogram);
  return {
    of: (pool) => {
      let observations = pools.get(pool);
      if (observations === undefined) {
        observations = new Observations(bounds);
        pools.set(pool, observations);
      }
      return observations;
    },
    forget: (pool) => pools.delete(pool),
  };
}

/** Buckets are cumulative: each counts all values up to its bound. */
function seriesOfHistogram(name: string, pool: string, { bounds, counts, sum }: Observations) {
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
