import { createHash, randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { resolve } from 'node:path';
import type { Config } from '../config/load.ts';
import { limitsOf } from '../dispatch/limits.ts';
import type { NodeConfig } from '../domain/config.ts';
import type { State } from '../domain/state.ts';
import { addApi, afterStart } from '../grpc/api.ts';
import type { ControlSource, Listener } from '../grpc/control/service.ts';
import { controlService } from '../grpc/control/service.ts';
import type { NodeFacts, Recorded } from '../grpc/control/view.ts';
import { executionService } from '../grpc/execution/service.ts';
import { createMemoryBudget } from '../grpc/memory-budget.ts';
import { unixAddress } from '../grpc/unix-address.ts';
import { systemClock } from '../os/clock.ts';
import { descriptorLimit } from '../os/descriptors.ts';
import { tasksOfAll } from '../os/process/resource-limits.ts';
import { holdSpares } from '../os/spare-descriptors.ts';
import type { LentSocket } from '../os/systemd.ts';
import { createExits } from '../telemetry/exit-history.ts';
import { startHttp } from '../telemetry/http.ts';
import type { Log } from '../telemetry/log.ts';
import { createMetrics } from '../telemetry/metrics.ts';
import { createSampleFailures } from '../telemetry/sample-failures.ts';
import { version } from '../version.ts';
import { logStacksAtShutdown } from '../workers/evidence.ts';
import type { WorkerHandle } from '../workers/handle.ts';
import type { WorkerParts } from '../workers/parts.ts';
import { adoptedOf, leftoversOf, reapLeftovers, reportAdoption } from '../workers/restore.ts';
import { createWorkers } from '../workers/workers.ts';
import { createDeferred } from './deferred.ts';
import { createDescriptorCheck, planDescriptors, workersConfigured, workersExpected } from './descriptor-plan.ts';
import { carryOut } from './effects.ts';
import { exposureWarnings } from './exposure.ts';
import { handOver } from './handover.ts';
import { openHost } from './host.ts';
import { serveWorkers } from './link.ts';
import { createLoop, loopHealth } from './loop.ts';
import type { Opened } from './opened.ts';
import { isFullyReady, readiness } from './readiness.ts';
import { createAgentDispatch } from './requests.ts';
import { watchRuntime } from './runtime-watch.ts';
import { createServers } from './servers.ts';
import type { Ending } from './shutdown.ts';
import { shutDown } from './shutdown.ts';
import { createSubscribers } from './subscribers.ts';

/** A running agent. */
export interface Agent {
  /** Where it listens, for people. */
  readonly addresses: readonly string[];
  readonly apiSocket: string;
  /** Every pool of the first config has had all its workers ready. */
  readonly ready: Promise<void>;
  /** `restartNeeded`: keys that changed too, and take effect with the next start. */
  reload(node: NodeConfig, restartNeeded: readonly string[]): void;
  refuseReload(message: string): void;
  state(): State;
  /** Calls `listener` after every step that changed something, until the returned function is called. */
  subscribe(listener: Listener): () => void;
  /** How long the loop has had something to do and not done it. */
  lateMs(): number;
  /** `drain`: requests may end first. `now`: kill all workers. The second call may be harsher than the first. */
  stop(how: 'drain' | 'now'): void;
  /** Nothing listens any more, and all workers are gone, or left to the next agent (Control.Handover). */
  readonly ended: Promise<{
    readonly ending: Ending;
    /** A thread of this process hangs, such as one that writes to a disk that does not answer. */
    readonly isStuck: boolean;
  }>;
}

/**
 * Joins the parts, each from finished ones: the loop decides, effects.ts has it carried out, and links, processes and callers report
 * to the loop. With a socket that the service manager lends, callers are served there, and wait there while no agent runs.
 */
export async function startAgent(
  config: Config,
  log: Log,
  lent: LentSocket | null,
  checkConfig: ControlSource['checkConfig'],
): Promise<Agent> {
  const { nowMs, toUnixMs } = systemClock;
  const startedAtMs = Date.now();
  const agentId = randomUUID();
  const descriptors = descriptorLimit();
  const checkDescriptors = createDescriptorCheck(descriptors, log);
  checkDescriptors(workersConfigured(config.node));
  holdSpares();
  const host = await openHost(config, lent, log);
  const { paths, ledger, adoption } = host;

  const ended = createDeferred<Ending>();
  const ready = createDeferred<void>();
  /** The first step is done: pools and workers are known. */
  const started = createDeferred<void>();
  const leaving = new AbortController();
  // Each open stream listens.
  setMaxListeners(0, leaving.signal);
  const opened: Opened = { http: null, runtime: null };

  const loop = createLoop(nowMs);
  const metrics = createMetrics();
  metrics.configTaken(startedAtMs);
  // Two budgets: workers are not refused for what callers make the agent hold.
  const budgets = {
    callers: createMemoryBudget(config.messageBudget),
    workers: createMemoryBudget(config.messageBudget),
  };
  const dispatch = createAgentDispatch({ nowMs, loop, metrics, log, unclaimed: budgets.callers.account() });
  const workerParts: WorkerParts = {
    ...host,
    agentId,
    linkPath: paths.linkSocket,
    apiSocket: paths.apiSocket,
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
  const subscribers = createSubscribers();
  const effects = {
    workers,
    workerParts,
    dispatch,
    metrics,
    log,
    exits,
    subscribers,
    logStacks: logStacksAtShutdown(log),
    finish: () => ended.resolve('stopped'),
  };
  const counters = (workerId: string) => workers.handles.get(workerId)?.counters;
  loop.start(
    () => ({ nowMs: nowMs(), random: Math.random, counters, queued: (pool) => dispatch.poolStats(pool).queued }),
    (actions) => carryOut(effects, actions),
  );

  const descriptorPlan = () => planDescriptors(descriptors, workersExpected(loop.state()));
  const servers = createServers({ config, paths, budgets, log, descriptorPlan });
  const { api, link } = servers;
  const facts = { httpAddress: '', listenAddress: '' };
  const control: ControlSource = {
    state: loop.state,
    node: (): NodeFacts => ({
      nodeId: config.node.nodeId,
      agentId,
      version,
      pid: process.pid,
      startedAtMs,
      configPath: config.path,
      ...facts,
      warnings: exposureWarnings(facts),
    }),
    counters,
    recorded: (workerId) => recordedOf(workers.handles.get(workerId), subscribers.revisionOf(workerId)),
    poolNumbers: dispatch.poolStats,
    exits: exits.list,
    requestsOf: dispatch.requestsOf,
    progressOf: dispatch.progressOf,
    nowMs,
    toUnixMs,
    command: loop.applyNow,
    ordersKept: ledger.ordersKept,
    subscribe: subscribers.subscribe,
    commandLine: [process.execPath, ...process.argv.slice(1).map((word) => absolute(word, config))],
    leaving: leaving.signal,
    handOver: () =>
      handOver({ loop, dispatch, servers, opened, leaving, log, finish: () => ended.resolve('handed-over') }),
    checkConfig,
  };
  const parts = { config, host, loop, dispatch, handles: workers.handles, servers, opened, leaving, log };

  try {
    serveWorkers(link, { workers, dispatch, loop, metrics, budget: budgets.workers, nowMs });
    const execution = executionService({
      dispatch,
      nowMs,
      toMonotonicMs: (unixMs) => nowMs() + unixMs - Date.now(),
      newRequestId: randomUUID,
      payloadMaxBytes: config.messageMaxBytes,
      unreadMaxBytes: config.unreadMaxBytes,
      leaving: leaving.signal,
    });
    const health = addApi(api.server, execution, afterStart(controlService(control), started));
    subscribers.subscribe((changes) => {
      checkDescriptors(workersExpected(loop.state()));
      if (changes.node) health.setServing(loop.state().node.phase === 'running');
      if (!ready.isResolved() && isFullyReady(loop.state())) ready.resolve();
    });
    // Before anybody can ask: a request must find its pool, and wait for the workers that may have it already.
    for (const pool of config.node.pools.values()) dispatch.setPool(pool.name, limitsOf(pool));
    for (const survivor of adoption.survivors) {
      workers.adopt(survivor);
      host.notAdopted.delete(survivor.entry.worker_id);
      // A worker that was not ready was never given a request.
      if (survivor.entry.state === 'ready') dispatch.expectWorker(survivor.pool.name, survivor.entry.worker_id);
    }
    if (lent === null) await servers.bindApi();
    else await api.bindDescriptor(lent.fd);
    if (config.listen !== null) facts.listenAddress = await servers.bindTcp(config.listen);
    metrics.addGauges({
      state: loop.state,
      budgets,
      poolNumbers: dispatch.poolStats,
      oldestRequest: dispatch.oldestRequest,
      connections: () => ({
        grpc: api.connections(),
        worker_link: link.connections(),
        http: opened.http?.connections() ?? null,
      }),
    });
    if (config.http !== null) {
      const source = {
        metrics: metrics.render,
        health: () => loopHealth(loop.lateMs()),
        readiness: () =>
          started.isResolved()
            ? readiness(loop.state(), opened.runtime?.trouble() ?? '')
            : { ok: false, text: 'the agent is starting' },
      };
      const limits = { maxConnections: () => descriptorPlan().httpConnections, onRefused: log.warn };
      opened.http = await startHttp(config.http, source, limits);
      facts.httpAddress = opened.http.address;
    }
    // Last: from now on workers dial in and report.
    await servers.bindLink();
    const { runtimeDir: directory, socketGroup: group } = config;
    const { bindApi, bindLink } = servers;
    opened.runtime = watchRuntime({ directory, paths, lent, group, log, bindApi, bindLink });
  } catch (error) {
    await shutDown(parts, 'stopped');
    throw error;
  }
  for (const warning of exposureWarnings(facts)) log.warn(warning);
  host.guardian.relieve();
  reportAdoption(adoption, log, metrics);
  const { orders } = host.ledgerSnapshot;
  loop.enqueue({ type: 'config', config: config.node });
  if (orders !== null) loop.enqueue({ type: 'recall-orders', orders });
  loop.enqueue({ type: 'adopt', workers: adoption.survivors.map(adoptedOf), leftovers: leftoversOf(adoption) });
  // After the loop's turn, which decides on all of these.
  setImmediate(() => started.resolve());
  const reaped = reapLeftovers(adoption, ledger, host.cgroups, log, (workerId) =>
    loop.enqueue({ type: 'leftover-swept', workerId }),
  );
  return {
    addresses: addressesOf(paths.apiSocket, facts),
    apiSocket: paths.apiSocket,
    ready: ready.promise,
    reload: (config, restartNeeded) => {
      metrics.configTaken(Date.now());
      loop.enqueue({ type: 'config', config, restartNeeded });
    },
    refuseReload: (message) => loop.enqueue({ type: 'config-refused', message }),
    state: loop.state,
    subscribe: subscribers.subscribe,
    lateMs: loop.lateMs,
    stop: (how) => {
      // Who calls from now on waits for the next agent.
      if (lent !== null) void api.retire();
      loop.enqueue({ type: 'shutdown', how });
    },
    ended: ended.promise.then(async (ending) => {
      await reaped;
      // A stopped agent's orders end with it: the next start goes by its config.
      if (ending === 'stopped') ledger.forgetOrders();
      return { ending, isStuck: await shutDown(parts, ending) };
    }),
  };
}

/** The agent's own paths on its command line are made absolute: people paste it elsewhere. */
function absolute(word: string, { path, runtimeDir, stateDir }: Config): string {
  const [, flag = '', value = ''] = /^(--[\w-]+=)?(.*)$/s.exec(word) ?? [];
  const whole = resolve(value);
  return [path, runtimeDir, stateDir].includes(whole) ? `${flag}${whole}` : word;
}

function recordedOf(handle: WorkerHandle | undefined, revision: number): Recorded | undefined {
  if (handle === undefined) return undefined;
  const { boot_id: bootId, start_time: startTime, launch } = handle.entry;
  const config = createHash('sha256').update(launch).digest('hex').slice(0, 16);
  return { bootId, startTime, config, adopted: handle.adopted, revision };
}

function addressesOf(socket: string, facts: { httpAddress: string; listenAddress: string }): string[] {
  const addresses = [`gRPC at ${socket === '' ? "the service manager's socket" : unixAddress(socket)}`];
  if (facts.listenAddress !== '') addresses.push(`gRPC at ${facts.listenAddress}`);
  if (facts.httpAddress !== '') addresses.push(`http://${facts.httpAddress}/metrics`);
  return addresses;
}
