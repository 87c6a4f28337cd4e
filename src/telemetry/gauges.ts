import type { Registry } from 'prom-client';
import { Counter, Gauge } from 'prom-client';
import { memoryBytes } from '../domain/policies/memory.ts';
import { slotsBackingOff } from '../domain/policies/restart.ts';
import { rollProgress } from '../domain/roll.ts';
import type { Health, NodeStatus, Phase, Pool, State, Worker } from '../domain/state.ts';
import { rollPhases } from '../domain/state.ts';
import type { ConnectionNumbers } from '../grpc/connection-limit.ts';
import type { AppMetrics, AppNumbers } from './app-metrics.ts';
import type { TlsNumbers } from './tls-gauges.ts';
import { tlsGauges } from './tls-gauges.ts';

/** The numbers that the gauges read at each scrape. */
export interface GaugesSource {
  state(): State;
  poolNumbers(pool: string): {
    readonly queued: number;
    readonly queuedBytes: number;
    readonly inFlight: number;
    readonly capacity: number;
  };
  /** Ages in ms of the oldest waiting and the oldest running request; 0 if there is none. */
  oldestRequest(pool: string): { readonly queuedMs: number; readonly runningMs: number };
  /** Events that could not be stored in the history. */
  eventsDropped(): number;
  readonly budgets: Readonly<Record<BudgetSide, BudgetNumbers>>;
  /** `http` is null while the HTTP server is not listening. */
  connections(): Readonly<Record<'grpc' | 'control_socket' | 'worker_link' | 'http', ConnectionNumbers | null>>;
  /** Null: `tls` is not configured. */
  tls(): TlsNumbers | null;
}

/** For whom the agent holds messages. `unproven`: processes that have not proven to be workers. */
export type BudgetSide = 'callers' | 'workers' | 'unproven';

/** The numbers of one memory budget. */
export interface BudgetNumbers {
  readonly maxBytes: number;
  readonly usedBytes: number;
  readonly refused: number;
}

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number];

/** The numbers that the gauges of one pool read. */
interface Seen {
  readonly pool: Pool;
  readonly workers: readonly Worker[];
  readonly source: GaugesSource;
}

interface PoolGauge {
  readonly name: string;
  readonly help: string;
  /** Labels in addition to `pool`. */
  readonly labels?: readonly string[];
  read(seen: Seen): readonly Sample[];
}

const phases: readonly Phase[] = ['starting', 'ready', 'draining', 'stopping', 'exited'];
const healths: readonly Health[] = ['unknown', 'well', 'slow', 'busy', 'hung'];
const nodePhases: readonly NodeStatus['phase'][] = ['running', 'draining', 'stopping'];
const poolPhases: readonly Pool['phase'][] = ['running', 'draining', 'removed'];

const one = (value: number): readonly Sample[] => [[{}, value]];
const flag = (value: boolean): readonly Sample[] => one(value ? 1 : 0);
/** 1 for the current state, 0 for each other one. */
const oneOf = <T extends string>(all: readonly T[], now: T | undefined): readonly Sample[] =>
  all.map((state) => [{ state }, state === now ? 1 : 0]);

/**
 * Described in docs/metrics.md. The series of a pool exist as long as the pool does, with 0 if there is nothing to
 * count.
 */
const ofPools: readonly PoolGauge[] = [
  {
    name: 'pitwarden_workers',
    help: 'Live workers, by state.',
    labels: ['state'],
    read: ({ workers }) => phases.map((state) => [{ state }, workers.filter(({ phase }) => phase === state).length]),
  },
  {
    name: 'pitwarden_workers_health',
    help: 'Live workers, by health.',
    labels: ['health'],
    read: ({ workers }) =>
      healths.map((health) => [{ health }, workers.filter((worker) => worker.health === health).length]),
  },
  {
    name: 'pitwarden_pool_size',
    help: 'Workers that the pool should have.',
    read: ({ pool }) => one(pool.size),
  },
  {
    name: 'pitwarden_pool_state',
    help: 'State of the pool: 1 for the current one, 0 for the others.',
    labels: ['state'],
    read: ({ pool }) => oneOf(poolPhases, pool.phase),
  },
  {
    name: 'pitwarden_pool_open',
    help: '1 while the pool accepts requests.',
    read: ({ pool }) => flag(pool.open),
  },
  {
    name: 'pitwarden_pool_quarantined',
    help: '1 while the pool runs its last good config, because no worker became ready with the newest.',
    read: ({ pool }) => flag(pool.quarantine !== ''),
  },
  {
    name: 'pitwarden_slots_backing_off',
    help: 'Slots that wait before their next start, after failures.',
    read: ({ pool }) => one(slotsBackingOff(pool)),
  },
  {
    name: 'pitwarden_capacity',
    help: 'Requests that the current workers can run at once.',
    read: ({ pool, source }) => one(source.poolNumbers(pool.name).capacity),
  },
  {
    name: 'pitwarden_in_flight',
    help: 'Requests that are in flight to workers.',
    read: ({ pool, source }) => one(source.poolNumbers(pool.name).inFlight),
  },
  {
    name: 'pitwarden_queue_depth',
    help: 'Requests that wait for a worker.',
    read: ({ pool, source }) => one(source.poolNumbers(pool.name).queued),
  },
  {
    name: 'pitwarden_queue_bytes',
    help: 'Payload bytes of the requests that wait for a worker.',
    read: ({ pool, source }) => one(source.poolNumbers(pool.name).queuedBytes),
  },
  {
    name: 'pitwarden_queue_limit_requests',
    help: 'queue.max_requests of the pool.',
    read: ({ pool }) => one(pool.config.queue.maxRequests),
  },
  {
    name: 'pitwarden_queue_limit_bytes',
    help: 'queue.max_bytes of the pool.',
    read: ({ pool }) => one(pool.config.queue.maxBytes),
  },
  {
    name: 'pitwarden_oldest_request_seconds',
    help: 'Age of the oldest waiting request (since it arrived) and of the oldest running one (since it was sent).',
    labels: ['state'],
    read: ({ pool, source }) => {
      const { queuedMs, runningMs } = source.oldestRequest(pool.name);
      return [
        [{ state: 'queued' }, queuedMs / 1000],
        [{ state: 'running' }, runningMs / 1000],
      ];
    },
  },
  {
    name: 'pitwarden_memory_bytes',
    help: "Memory of the pool's process trees: by their cgroups, else PSS, else RSS.",
    read: ({ workers }) => one(workers.reduce((sum, { usage }) => sum + memoryBytes(usage), 0)),
  },
  {
    name: 'pitwarden_worker_memory_max_bytes',
    help: "Memory of the pool's largest worker.",
    read: ({ workers }) => one(workers.reduce((most, { usage }) => Math.max(most, memoryBytes(usage)), 0)),
  },
  {
    name: 'pitwarden_memory_limit_bytes',
    help: 'recycle.memory of the pool; no series if there is no limit.',
    labels: ['limit'],
    read: ({ pool }) => {
      const { softBytes, hardBytes } = pool.config.recycle.memory;
      const limits: Sample[] = [
        [{ limit: 'soft' }, softBytes],
        [{ limit: 'hard' }, hardBytes],
      ];
      return limits.filter(([, bytes]) => bytes > 0);
    },
  },
  {
    name: 'pitwarden_cpu_cores',
    help: "Cores that the pool's process trees used over the last sample.",
    read: ({ workers }) => one(workers.reduce((sum, { usage }) => sum + usage.cpu, 0)),
  },
  {
    name: 'pitwarden_roll_state',
    help: "State of the pool's last roll: 1 for the current one, 0 for the others; all 0 if there was no roll.",
    labels: ['state'],
    read: ({ pool }) => oneOf(rollPhases, pool.roll?.phase),
  },
  {
    name: 'pitwarden_roll_workers',
    help: "Workers that the pool's last roll replaces, by progress.",
    labels: ['progress'],
    read: ({ pool: { roll }, workers }) => {
      const { total, replaced, replacing } =
        roll === null ? { total: 0, replaced: 0, replacing: 0 } : rollProgress(roll, workers);
      return [
        [{ progress: 'replaced' }, replaced],
        [{ progress: 'replacing' }, replacing],
        [{ progress: 'waiting' }, total - replaced - replacing],
      ];
    },
  },
  {
    name: 'pitwarden_roll_failures',
    help: "Failed replacements of the pool's last roll.",
    read: ({ pool }) => one(pool.roll?.failures ?? 0),
  },
];

/** Registers gauges that read the state at each scrape, so that they can never disagree with it. */
export function addGauges(registry: Registry, source: GaugesSource): void {
  for (const { name, help, labels = [], read } of ofPools) {
    gauge(registry, name, help, ['pool', ...labels], () => {
      const { pools, workers } = source.state();
      return [...pools.values()].flatMap((pool) =>
        read({ pool, workers: workersOf(pool.name, workers), source }).map(
          ([more, value]): Sample => [{ pool: pool.name, ...more }, value],
        ),
      );
    });
  }
  addNodeGauges(registry, source);
  addConnections(registry, source);
  for (const { name, help, labels, read } of tlsGauges) {
    gauge(registry, name, help, [...labels], () => {
      const tls = source.tls();
      return tls === null ? [] : read(tls);
    });
  }
}

function addNodeGauges(registry: Registry, source: GaugesSource): void {
  const node = (): NodeStatus => source.state().node;
  gauge(
    registry,
    'pitwarden_node_state',
    'State of the node: 1 for the current one, 0 for the others.',
    ['state'],
    () => {
      const { phase } = node();
      return oneOf(nodePhases, phase === 'stopped' ? 'stopping' : phase);
    },
  );
  const budgets = Object.entries(source.budgets);
  const ofBudgets = (read: (budget: BudgetNumbers) => number) => (): Sample[] =>
    budgets.map(([side, budget]) => [{ side }, read(budget)]);
  gauge(
    registry,
    'pitwarden_message_budget_used_bytes',
    'Bytes of calls and messages that the agent holds for each side.',
    ['side'],
    ofBudgets(({ usedBytes }) => usedBytes),
  );
  gauge(
    registry,
    'pitwarden_message_budget_bytes',
    'Limit on these bytes for each side: message.budget, and 32 MiB for unproven processes.',
    ['side'],
    ofBudgets(({ maxBytes }) => maxBytes),
  );
  counter(
    registry,
    'pitwarden_message_budget_refused_total',
    'Calls and messages that were refused because the budget was used up.',
    ['side'],
    ofBudgets(({ refused }) => refused),
  );
  gauge(
    registry,
    'pitwarden_starts_blocked',
    '1 while no worker can be started: the ledger cannot be written, or the host lacks descriptors, processes or memory.',
    [],
    () => flag(node().blockedStarts.because !== ''),
  );
  counter(
    registry,
    'pitwarden_events_dropped_total',
    'Events that are missing from the history, because the disk of the state directory was full or did not answer.',
    [],
    () => one(source.eventsDropped()),
  );
  gauge(
    registry,
    'pitwarden_config_last_reload_successful',
    '1 if the last configuration was accepted, 0 if it was refused.',
    [],
    () => flag(node().configError === ''),
  );
  gauge(registry, 'pitwarden_host_memory_available_bytes', "The host's available memory; 0: unknown.", [], () =>
    one(node().host.availableBytes),
  );
  gauge(registry, 'pitwarden_memory_floor_bytes', 'memory_floor of the configuration; 0: off.', [], () =>
    one(node().host.floorBytes),
  );
}

/** The telemetry of applications: how much it is, and what was dropped. What they measure is in app-exposition.ts. */
export function addAppGauges(registry: Registry, apps: AppMetrics): void {
  const each = (read: (numbers: AppNumbers) => number) => (): Sample[] =>
    [...apps.numbers()].map(([pool, numbers]) => [{ pool }, read(numbers)]);
  gauge(
    registry,
    'pitwarden_telemetry_series',
    "Series of the pool's applications in this text.",
    ['pool'],
    each(({ series }) => series),
  );
  gauge(
    registry,
    'pitwarden_telemetry_series_limit',
    'telemetry.max_series of the pool.',
    ['pool'],
    each(({ maxSeries }) => maxSeries),
  );
  counter(
    registry,
    'pitwarden_telemetry_measurements_total',
    "Measurements of the pool's applications that were added up.",
    ['pool'],
    each(({ measurements }) => measurements),
  );
  counter(
    registry,
    'pitwarden_telemetry_dropped_total',
    "Measurements of the pool's applications that were dropped, by reason.",
    ['pool', 'reason'],
    () =>
      [...apps.numbers()].flatMap(([pool, { dropped }]) =>
        Object.entries(dropped).map(([reason, count]): Sample => [{ pool, reason }, count]),
      ),
  );
}

function addConnections(registry: Registry, source: GaugesSource): void {
  const each = (read: (numbers: ConnectionNumbers) => number) => (): Sample[] =>
    Object.entries(source.connections()).map(([surface, numbers]) => [
      { surface },
      numbers === null ? 0 : read(numbers),
    ]);
  const labels = ['surface'];
  gauge(
    registry,
    'pitwarden_connections',
    'Open connections.',
    labels,
    each(({ open }) => open),
  );
  gauge(
    registry,
    'pitwarden_connections_limit',
    'Connections that may be open at once.',
    labels,
    each(({ max }) => max),
  );
  counter(
    registry,
    'pitwarden_connections_refused_total',
    'New connections that were closed at once, because the limit was reached and none was idle.',
    labels,
    each(({ refused }) => refused),
  );
  counter(
    registry,
    'pitwarden_connections_evicted_total',
    'Idle connections that were closed to make room for a new one.',
    labels,
    each(({ evicted }) => evicted),
  );
}

function gauge(registry: Registry, name: string, help: string, labels: string[], read: () => readonly Sample[]): void {
  new Gauge({
    name,
    help,
    labelNames: labels,
    registers: [registry],
    collect() {
      this.reset();
      for (const [label, value] of read()) this.set(label, value);
    },
  });
}

/** A counter whose total is kept elsewhere. */
function counter(
  registry: Registry,
  name: string,
  help: string,
  labels: string[],
  read: () => readonly Sample[],
): void {
  new Counter({
    name,
    help,
    labelNames: labels,
    registers: [registry],
    collect() {
      this.reset();
      for (const [label, value] of read()) this.inc(label, value);
    },
  });
}

function workersOf(pool: string, workers: State['workers']): Worker[] {
  return [...workers.values()].filter((worker) => worker.pool === pool);
}
