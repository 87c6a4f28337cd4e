import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { Outcome } from '../dispatch/dispatch.ts';
import type { NodeRecord } from '../domain/action.ts';
import { dueReasons, reasons } from '../domain/reason.ts';
import type { RefusalReason } from '../grpc/worker-link/source.ts';
import { refusalReasons } from '../grpc/worker-link/source.ts';
import { version } from '../version.ts';
import type { AppMetrics } from './app-metrics.ts';
import type { GaugesSource } from './gauges.ts';
import { addAppGauges, addGauges } from './gauges.ts';
import { createPoolHistogram } from './pool-histogram.ts';
import { createRequestMetrics } from './request-metrics.ts';

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
  /** Adds what applications measure, and what was dropped of it. Call it once. */
  addApps(apps: AppMetrics): void;
  render(): Promise<{ readonly contentType: string; readonly body: string }>;
}

const pingBuckets = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5, 10];

const agentPrefix = 'pitwarden_agent_';
/** Gauges that prom-client names like counters. */
const misnamed = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total'];

/**
 * All metrics. Those of requests are in request-metrics.ts; those that are read from the state at each scrape are in gauges.ts.
 * docs/metrics.md describes each. The config bounds the values of the label `pool`.
 */
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
  const roundTrip = createPoolHistogram(
    registry,
    'pitwarden_ping_round_trip_seconds',
    'From a ping to its pong.',
    pingBuckets,
  );
  const requests = createRequestMetrics(registry);
  let renderApps = (): string => '';

  return {
    addGauges: (source) => addGauges(registry, source),
    addApps: (apps) => {
      addAppGauges(registry, apps);
      renderApps = apps.render;
    },
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
    outcome: requests.outcome,
    ping: (pool, seconds) => roundTrip.of(pool).observe(seconds),
    missedPings: (pool, count) => missed.inc({ pool }, count),
    addPool: (pool) => {
      requests.addPool(pool);
      roundTrip.of(pool);
      for (const series of [starts, missed]) series.inc({ pool }, 0);
      for (const reason of reasons) exits.inc({ pool, reason }, 0);
      for (const reason of dueReasons) recycles.inc({ pool, reason }, 0);
    },
    forgetPool: (pool) => {
      requests.forgetPool(pool);
      roundTrip.forget(pool);
      for (const series of [starts, missed]) series.remove({ pool });
      for (const reason of reasons) for (const series of [exits, recycles]) series.remove({ pool, reason });
    },
    render: async () => ({
      contentType: registry.contentType,
      body: `${await registry.metrics()}${renderApps()}`,
    }),
  };
}
