import type { Config } from '../config/load.ts';
import type { Dispatch } from '../dispatch/dispatch.ts';
import type { MemoryBudget } from '../grpc/memory-budget.ts';
import { createMemoryBudget } from '../grpc/memory-budget.ts';
import { systemClock } from '../os/clock.ts';
import { tasksOfAll } from '../os/process/resource-limits.ts';
import type { AppMetrics } from '../telemetry/app-metrics.ts';
import { createAppMetrics } from '../telemetry/app-metrics.ts';
import type { ExitCounts } from '../telemetry/exit-counts.ts';
import { createExitCounts } from '../telemetry/exit-counts.ts';
import type { Exits } from '../telemetry/exit-history.ts';
import { createExits } from '../telemetry/exit-history.ts';
import type { BudgetSide } from '../telemetry/gauges.ts';
import type { Log } from '../telemetry/log.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { createMetrics } from '../telemetry/metrics.ts';
import { createSampleFailures } from '../telemetry/sample-failures.ts';
import { logStacksAtShutdown } from '../workers/evidence.ts';
import type { WorkerParts } from '../workers/parts.ts';
import type { Workers } from '../workers/workers.ts';
import { createWorkers } from '../workers/workers.ts';
import { carryOut } from './effects.ts';
import type { Host } from './host.ts';
import type { Loop } from './loop.ts';
import { createLoop } from './loop.ts';
import { createAgentDispatch } from './requests.ts';
import type { Subscribers } from './subscribers.ts';
import { createSubscribers } from './subscribers.ts';

/** The parts that run workers and requests. None of them listens yet. */
export interface AgentCore {
  readonly loop: Loop;
  readonly metrics: Metrics;
  readonly apps: AppMetrics;
  readonly budgets: Budgets;
  readonly dispatch: Dispatch;
  readonly workers: Workers;
  readonly exits: Exits;
  readonly exitCounts: ExitCounts;
  readonly subscribers: Subscribers;
}

/**
 * Each has its own budget, so that no worker is refused because of what callers or other workers make the agent hold.
 * `unproven`: for connections to the worker link that have not sent a worker's token yet.
 */
export type Budgets = Readonly<Record<BudgetSide, MemoryBudget>>;

/** A connection may hold 256 KiB of it (grpc/incoming/interceptor.ts), and a hello of a worker has a few KiB. */
const unprovenBudgetBytes = 32 * 1024 * 1024;

export interface CoreOptions {
  readonly agentId: string;
  readonly config: Config;
  readonly host: Host;
  readonly log: Log;
  /** Called when all workers are gone after a shutdown. */
  finish(): void;
}

/** Creates each part from finished ones, then starts the loop. */
export function createCore({ agentId, config, host, log, finish }: CoreOptions): AgentCore {
  const { nowMs } = systemClock;
  const loop = createLoop(nowMs);
  const metrics = createMetrics();
  const apps = createAppMetrics({ nowMs, warn: log.warn });
  const budgets: Budgets = {
    callers: createMemoryBudget(config.messageBudget),
    workers: createMemoryBudget(config.messageBudget),
    unproven: createMemoryBudget(unprovenBudgetBytes, 'for processes that have not proven to be workers'),
  };
  const dispatch = createAgentDispatch({ nowMs, loop, metrics, log, unclaimed: budgets.callers.account() });
  const workerParts: WorkerParts = {
    agentId,
    ledger: host.ledger,
    guardian: host.guardian,
    cgroups: host.cgroups,
    outputDirectory: host.outputDirectory,
    linkPath: host.paths.linkSocket,
    apiSocket: host.paths.apiSocket,
    payloadMaxBytes: config.messageMaxBytes,
    tasksOfAll: () => tasksOfAll(loop.state().pools.values()),
    dispatch,
    log,
    sampleFailed: createSampleFailures(log, nowMs),
    nowMs,
    enqueue: loop.enqueue,
    enqueueDeferred: loop.enqueueDeferred,
  };
  const workers = createWorkers(workerParts);
  const exits = createExits();
  const exitCounts = createExitCounts();
  const subscribers = createSubscribers();
  const logStacks = logStacksAtShutdown(log);
  const effects = {
    workers,
    workerParts,
    dispatch,
    metrics,
    apps,
    log,
    exits,
    exitCounts,
    history: host.history,
    subscribers,
    logStacks,
    finish,
  };
  loop.start(
    () => ({
      nowMs: nowMs(),
      random: Math.random,
      counters: (workerId) => workers.handles.get(workerId)?.counters,
      queued: (pool) => dispatch.poolStats(pool).queued,
    }),
    (actions) => carryOut(effects, actions),
  );
  return { loop, metrics, apps, budgets, dispatch, workers, exits, exitCounts, subscribers };
}
