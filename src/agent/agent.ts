import { createHash, randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import type { Config } from '../config/load.ts';
import type { Dispatch, PoolStats } from '../dispatch/dispatch.ts';
import { createDispatch } from '../dispatch/dispatch.ts';
import { limitsOf } from '../dispatch/limits.ts';
import type { Action, NodeRecord } from '../domain/action.ts';
import type { NodeConfig } from '../domain/config.ts';
import type { KeptExit } from '../domain/evidence.ts';
import type { State } from '../domain/state.ts';
import { addApi, afterStart } from '../grpc/api.ts';
import type { ControlSource, Listener } from '../grpc/control/service.ts';
import { controlService } from '../grpc/control/service.ts';
import type { NodeFacts, Recorded } from '../grpc/control/view.ts';
import { executionService } from '../grpc/execution/service.ts';
import type { MemoryBudget } from '../grpc/memory-budget.ts';
import { createMemoryBudget } from '../grpc/memory-budget.ts';
import type { ApiServer } from '../grpc/server.ts';
import { createServer } from '../grpc/server.ts';
import { unixAddress } from '../grpc/unix-address.ts';
import type { WorkerFrame, WorkerLinkSource } from '../grpc/worker-link/service.ts';
import { addWorkerLink } from '../grpc/worker-link/service.ts';
import { openCgroups } from '../os/cgroup/cgroup.ts';
import { systemClock } from '../os/clock.ts';
import { descriptorLimit } from '../os/descriptors.ts';
import { openOutputDirectory } from '../os/output/output-directory.ts';
import { startGuardian } from '../os/process/guardian.ts';
import { tasksOfAll } from '../os/process/resource-limits.ts';
import { holdSpares } from '../os/spare-descriptors.ts';
import type { DirectoryLock } from '../os/storage/agent-lock.ts';
import { isUnwritable, lockDirectory, lockHolder } from '../os/storage/agent-lock.ts';
import {
  clearRuntimeDirectory,
  prepareRuntimeDirectory,
  prepareStateDirectory,
  restrictSocket,
} from '../os/storage/directories.ts';
import { openLedger } from '../os/storage/ledger.ts';
import type { LentSocket } from '../os/systemd.ts';
import { setWakeUp } from '../os/timer.ts';
import { logRecord } from '../telemetry/event-log.ts';
import type { Exits } from '../telemetry/exit-history.ts';
import { createExits } from '../telemetry/exit-history.ts';
import { createFailedRequests } from '../telemetry/failed-requests.ts';
import type { HttpServer } from '../telemetry/http.ts';
import { startHttp } from '../telemetry/http.ts';
import { reportRefusals } from '../telemetry/link-refusals.ts';
import type { Log } from '../telemetry/log.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { createMetrics } from '../telemetry/metrics.ts';
import { createSampleFailures } from '../telemetry/sample-failures.ts';
import { version } from '../version.ts';
import { logStacksAtShutdown } from '../workers/evidence.ts';
import type { Hands, Held } from '../workers/perform.ts';
import { createHands, warmUpLinkId } from '../workers/perform.ts';
import { adoptedOf, clearAway, leftoversOf, sortOut, tellAdoption } from '../workers/restore.ts';
import type { DescriptorPlan } from './descriptor-plan.ts';
import { createDescriptorCheck, planDescriptors, workersConfigured, workersExpected } from './descriptor-plan.ts';
import { lastCalls } from './drain-calls.ts';
import { exposureWarnings } from './exposure.ts';
import type { Loop } from './loop.ts';
import { loopHealth, startLoop } from './loop.ts';
import type { RuntimeWatch } from './runtime-watch.ts';
import { watchRuntime } from './runtime-watch.ts';

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

export type Ending = 'stopped' | 'let-go';

/** Of files that are none of ours, so many are named in the warning. */
const foreignNamed = 10;
const lentGroup =
  "socket_group changes nothing: the API's socket is of the service manager; set SocketGroup= and SocketMode= in its unit";
const fingerprintedBytes = 64 * 1024;
/** A large result waits for those of other workers, and longer than this only if one of them does not end. */
const linkWaitMs = 10_000;
/** A worker has one call at a time, beside those that are just ending. */
const linkCallsPerConnection = 16;
/** How often callers' messages that arrive slowly are looked at. */
const lookAtStalledMs = 10_000;
/** How long the last answers may take to reach their callers. */
const lastAnswersMs = 2_000;
/** How long the ledger may take for what it has still to write. A disk that takes longer is not waited for. */
const lastEntriesMs = 5_000;

/**
 * Joins the parts: what the loop decides the hands do, what the hands and the wire see the loop is told. With a socket that
 * the service manager lends callers are served there, and wait there while no agent runs.
 */
export async function startAgent(
  config: Config,
  log: Log,
  lent: LentSocket | null,
  checkConfig: ControlSource['checkConfig'],
): Promise<Agent> {
  const clock = systemClock;
  const startedAtMs = Date.now();
  const descriptors = descriptorLimit();
  const checkDescriptors = createDescriptorCheck(descriptors, log);
  checkDescriptors(workersConfigured(config.node));
  holdSpares();
  const paths = prepareRuntimeDirectory(config.runtimeDir, { lent, group: config.socketGroup, warn: log.warn });
  if (lent !== null && config.socketGroup !== null) log.warn(lentGroup);
  prepareStateDirectory(config.stateDir);
  const locks = lockAll(config, log);
  const agentId = randomUUID();
  const ledger = openLedger(config.stateDir);
  const found = ledger.read();
  const adoption = await sortOut(found, config.node);
  const notAdopted = new Set(adoption.survivors.map(({ entry }) => entry.worker_id));
  const left = clearRuntimeDirectory(paths, notAdopted);
  warnOfForeign([...left, ...found.foreign], log);
  const cgroups = openCgroups();
  log.info(cgroups.report);
  const guardian = startGuardian({ directory: config.runtimeDir, log });
  const outputDirectory = openOutputDirectory(paths.output, { onTrouble: log.warn });

  const listeners = new Set<Listener>();
  /** Of each live worker: the revision that changed it last. */
  const revisions = new Map<string, number>();
  listeners.add(({ revision, workers, workersGone }) => {
    for (const id of workers) revisions.set(id, revision);
    for (const { id } of workersGone) revisions.delete(id);
  });
  listeners.add(() => checkDescriptors(workersExpected(loop.state())));
  const exits = createExits();
  const logStacks = logStacksAtShutdown(log);
  const ended = newSignal<Ending>();
  const ready = newSignal<void>();
  /** The first step is done: pools and workers are known. */
  const started = newSignal<void>();
  const leaving = new AbortController();
  // Each open stream listens.
  setMaxListeners(0, leaving.signal);
  const budget = createMemoryBudget(config.messageBudget);
  const dispatch = createAgentDispatch(
    clock.nowMs,
    () => loop,
    () => metrics,
    budget,
    log,
  );
  /** Workers are not refused for what callers make the agent hold. */
  const linkBudget = createMemoryBudget(config.messageBudget);
  const metrics = createMetrics({
    state: () => loop.state(),
    budgets: { callers: budget, workers: linkBudget },
    poolNumbers: dispatch.poolStats,
    oldestRequest: dispatch.oldestRequest,
    connections: () => ({
      grpc: api.connections(),
      worker_link: link.connections(),
      http: opened.http?.connections() ?? null,
    }),
  });
  metrics.configTaken(startedAtMs);
  const hands: Hands = createHands({
    agentId,
    ledger,
    guardian,
    linkPath: paths.linkSocket,
    apiSocket: paths.apiSocket,
    payloadMaxBytes: config.messageMaxBytes,
    cgroups,
    outputDirectory,
    tasksOfAll: () => tasksOfAll(loop.state().pools.values()),
    dispatch,
    log,
    metrics,
    sampleFailed: createSampleFailures(log, clock.nowMs),
    nowMs: clock.nowMs,
    tell: (event) => loop.tell(event),
    mention: (event) => loop.mention(event),
  });
  const loop = startLoop(
    () => ({
      nowMs: clock.nowMs(),
      random: Math.random,
      counters: (workerId) => hands.held.get(workerId)?.counters,
      queued: (pool) => dispatch.poolStats(pool).queued,
    }),
    (actions) =>
      act(actions, { hands, log, metrics, listeners, exits, logStacks, finish: () => ended.resolve('stopped') }),
  );

  const facts = { httpAddress: '', listenAddress: '' };
  const node = (): NodeFacts => ({
    nodeId: config.node.nodeId,
    agentId,
    version,
    pid: process.pid,
    startedAtMs,
    configPath: config.path,
    ...facts,
    warnings: exposureWarnings(facts),
  });
  const control: ControlSource = {
    state: loop.state,
    node,
    counters: (workerId) => hands.held.get(workerId)?.counters,
    recorded: (workerId) => recordedOf(hands.held.get(workerId), revisions.get(workerId) ?? 0),
    poolNumbers: dispatch.poolStats,
    exits: exits.list,
    requestsOf: dispatch.requestsOf,
    progressOf: dispatch.progressOf,
    nowMs: clock.nowMs,
    toUnixMs: clock.toUnixMs,
    command: loop.decide,
    ordersKept: ledger.ordersKept,
    subscribe: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    commandLine: [process.execPath, ...process.argv.slice(1).map((word) => absolute(word, config))],
    leaving: leaving.signal,
    letGo: () => letGo(),
    checkConfig,
  };

  const plan = (): DescriptorPlan => planDescriptors(descriptors, workersExpected(loop.state()));
  // Workers refuse results that are too large. One that sends such a frame all the same loses its link.
  const link = createServer({
    messageMaxBytes: linkFrameMaxBytes(config),
    budget: linkBudget,
    waitForRoomMs: linkWaitMs,
    callsPerConnection: linkCallsPerConnection,
    connections: { max: () => plan().linkConnections, onRefused: (message) => log.warn(`worker link: ${message}`) },
  });
  const api = createServer({
    messageMaxBytes: config.messageMaxBytes,
    budget,
    lookAtStalledMs,
    connections: { max: () => plan().apiConnections, onRefused: (message) => log.warn(`gRPC: ${message}`) },
  });
  const opened: { http: HttpServer | null; runtime: RuntimeWatch | null } = { http: null, runtime: null };
  const bindApi = async (): Promise<void> => {
    await api.bind(`unix:${paths.apiSocket}`);
    restrictSocket(paths.apiSocket, config.socketGroup);
  };
  const bindLink = async (): Promise<void> => void (await link.bind(`unix:${paths.linkSocket}`));
  /** Of a time in which what runs may end: that of the pool that gives most. */
  const letGo = (): number => {
    const timeoutMs = longestDrainMs(loop.state());
    if (leaving.signal.aborted) return timeoutMs;
    log.info('handing over: no new calls; waiting for those that run', { timeout_ms: timeoutMs });
    leaving.abort();
    // The sockets go now, which is as it should be.
    opened.runtime?.close();
    const isBusy = (): boolean => [...loop.state().pools.keys()].some((pool) => isUsed(dispatch.poolStats(pool)));
    const isStopping = (): boolean => isEnding(loop.state());
    const calls = { retired: api.retire(), timeoutMs, readMs: lastAnswersMs, isBusy, isStopping };
    void lastCalls(calls).then(async () => {
      if (isStopping()) return;
      loop.close();
      // Before calls are cut: what is said of them then must not reach the workers, which go on.
      await link.stop(0);
      ended.resolve('let-go');
    });
    return timeoutMs;
  };
  /** Never rejects. True: the disk of the ledger does not answer. */
  const close = async (ending: Ending): Promise<boolean> => {
    loop.close();
    leaving.abort();
    opened.runtime?.close();
    // Who still waits after a handover is cut off without a word, and so asks the next agent.
    if (ending === 'stopped') for (const name of loop.state().pools.keys()) dispatch.removePool(name);
    await Promise.all([api.stop(lastAnswersMs), link.stop(0), opened.http?.close()]);
    const last = [
      outputDirectory.close,
      () => {
        // Something took the directory away, and another agent has it: its files are not ours to clear away.
        if (lockHolder(config.runtimeDir) !== 'us') return;
        // Also of those that a start that failed has not taken over.
        clearRuntimeDirectory(paths, new Set([...hands.held.keys(), ...notAdopted]));
      },
      cgroups.close,
      guardian.close,
    ];
    for (const each of last) attempt(each, log);
    const isStuck = !(await settlesWithin(ledger.settled(), lastEntriesMs));
    if (isStuck) log.error(`the ledger's disk does not answer: the agent ends without it after ${lastEntriesMs} ms`);
    // A lock names its holder, and counts for nothing when that is gone: it is left on a disk that does not answer.
    for (const lock of isStuck ? locks.slice(0, 1) : locks) attempt(lock.release, log);
    return isStuck;
  };
  try {
    serveLink(link, hands, dispatch, loop, metrics, linkBudget);
    const health = addApi(
      api.server,
      executionService({
        dispatch,
        nowMs: clock.nowMs,
        toMonotonicMs: (unixMs) => clock.nowMs() + unixMs - Date.now(),
        newRequestId: randomUUID,
        payloadMaxBytes: config.messageMaxBytes,
        unreadMaxBytes: config.unreadMaxBytes,
        leaving: leaving.signal,
      }),
      afterStart(controlService(control), started),
    );
    const tellReady = (): void => {
      if (!isFullyReady(loop)) return;
      listeners.delete(tellReady);
      ready.resolve();
    };
    listeners.add(tellReady);
    listeners.add((changes) => {
      if (changes.node) health.setServing(loop.state().node.phase === 'running');
    });
    // Before anybody can ask: a request must find its pool, and wait for those that may have it already.
    for (const pool of config.node.pools.values()) dispatch.setPool(pool.name, limitsOf(pool));
    for (const survivor of adoption.survivors) {
      hands.adopt(survivor);
      notAdopted.delete(survivor.entry.worker_id);
      // One that was not ready was never given a request.
      if (survivor.entry.state === 'ready') dispatch.expectWorker(survivor.pool.name, survivor.entry.worker_id);
    }
    if (lent === null) {
      await bindApi();
    } else {
      await api.bindDescriptor(lent.fd);
    }
    if (config.listen !== null) facts.listenAddress = await bindTcp(api, config.listen);
    if (config.http !== null) {
      const source = {
        metrics: metrics.render,
        health: () => loopHealth(loop.lateMs()),
        readiness: () =>
          started.isResolved()
            ? readiness(loop, opened.runtime?.trouble() ?? '')
            : { ok: false, text: 'the agent is starting' },
      };
      opened.http = await startHttp(config.http, source, {
        maxConnections: () => plan().httpConnections,
        onRefused: log.warn,
      });
      facts.httpAddress = opened.http.address;
    }
    // At last: from now on workers dial in, of whom the loop is told without a pause.
    await bindLink();
    const { runtimeDir: directory, socketGroup: group } = config;
    opened.runtime = watchRuntime({ directory, paths, lent, group, log, bindApi, bindLink });
  } catch (error) {
    await close('stopped');
    throw error;
  }
  for (const warning of exposureWarnings(facts)) log.warn(warning);
  guardian.relieve();
  tellAdoption(adoption, log, metrics);
  loop.tell({ type: 'config', config: config.node });
  if (found.orders !== null) loop.tell({ type: 'recall-orders', orders: found.orders });
  loop.tell({ type: 'adopt', workers: adoption.survivors.map(adoptedOf), leftovers: leftoversOf(adoption) });
  // After the loop's turn, which decides on all of these.
  setImmediate(() => started.resolve());
  const cleared = clearAway(adoption, ledger, cgroups, log, (workerId) =>
    loop.tell({ type: 'leftover-swept', workerId }),
  );
  return {
    addresses: addressesOf(paths.apiSocket, facts),
    apiSocket: paths.apiSocket,
    ready: ready.promise,
    reload: (config, restartNeeded) => {
      metrics.configTaken(Date.now());
      loop.tell({ type: 'config', config, restartNeeded });
    },
    refuseReload: (message) => loop.tell({ type: 'config-refused', message }),
    state: loop.state,
    subscribe: control.subscribe,
    lateMs: loop.lateMs,
    stop: (how) => {
      // Who calls from now on waits for the next agent.
      if (lent !== null) void api.retire();
      loop.tell({ type: 'shutdown', how });
    },
    ended: ended.promise.then(async (ending) => {
      await cleared;
      // The next start is a new one: it goes by its config.
      if (ending === 'stopped') ledger.forgetOrders();
      return { ending, isStuck: await close(ending) };
    }),
  };
}

/** Files that are not the agent's in the folders that are. */
function warnOfForeign(paths: readonly string[], log: Log): void {
  if (paths.length === 0) return;
  const more = paths.length > foreignNamed ? ` and ${paths.length - foreignNamed} more` : '';
  log.warn(`unknown, and left alone: ${paths.slice(0, foreignNamed).join(', ')}${more}`);
}

/** The agent's own paths on its command line, as they are from any folder: people paste it elsewhere. */
function absolute(word: string, { path, runtimeDir, stateDir }: Config): string {
  const [, flag = '', value = ''] = /^(--[\w-]+=)?(.*)$/s.exec(word) ?? [];
  const whole = resolve(value);
  return [path, runtimeDir, stateDir].includes(whole) ? `${flag}${whole}` : word;
}

/** One payload goes with up to a frame of others. A kept result may be of a time when message.max_bytes was larger. */
function linkFrameMaxBytes({ messageMaxBytes }: Config): number {
  return Math.max(messageMaxBytes, 64 * 1024 * 1024) + 2 * 1024 * 1024;
}

function recordedOf(held: Held | undefined, revision: number): Recorded | undefined {
  if (held === undefined) return undefined;
  const { boot_id: bootId, start_time: startTime, launch } = held.entry;
  const config = createHash('sha256').update(launch).digest('hex').slice(0, 16);
  return { bootId, startTime, config, adopted: held.adopted, revision };
}

function longestDrainMs({ pools }: State): number {
  return Math.max(0, ...[...pools.values()].map(({ config }) => config.drain.timeoutMs));
}

function isUsed({ queued, inFlight }: PoolStats): boolean {
  return queued + inFlight > 0;
}

function isEnding({ node }: State): boolean {
  return node.phase === 'stopping' || node.phase === 'stopped';
}

/**
 * The runtime directory is locked in any case. A state directory that is read-only or full may go without: an agent that comes
 * to its workers is worth more than the lock.
 */
function lockAll({ runtimeDir, stateDir }: Config, log: Log): DirectoryLock[] {
  const locks = [lockDirectory(runtimeDir)];
  if (stateDir === runtimeDir) return locks;
  try {
    locks.push(lockDirectory(stateDir));
  } catch (error) {
    if (!isUnwritable(error)) {
      for (const lock of locks) lock.release();
      throw error;
    }
    log.warn(`${stateDir} could not be locked, so nothing keeps a second agent from it: ${(error as Error).message}`);
  }
  return locks;
}

function createAgentDispatch(
  nowMs: () => number,
  loop: () => Loop,
  metrics: () => Metrics,
  budget: MemoryBudget,
  log: Log,
): Dispatch {
  let timer: NodeJS.Timeout | null = null;
  const arm = (atMs: number): void => {
    if (timer !== null) clearTimeout(timer);
    timer = Number.isFinite(atMs) ? setWakeUp(() => arm(dispatch.expire()), Math.max(1, atMs - nowMs())) : null;
    timer?.unref();
  };
  const dispatch = createDispatch({
    nowMs,
    onIdle: (workerId) => loop().tell({ type: 'idle', workerId }),
    onBudgetSpent: (workerId) => loop().tell({ type: 'budget-spent', workerId }),
    onOutcome: (outcome) => metrics().outcome(outcome),
    onFailed: createFailedRequests(log, nowMs),
    onOverdue: (workerId, message) => loop().tell({ type: 'overdue', workerId, message }),
    onPoisoned: (pool, message) => loop().tell({ type: 'poisoned', pool, message }),
    fingerprint,
    checksum: crc32,
    onDeadline: arm,
    unclaimed: budget.account(),
  });
  return dispatch;
}

/** Of large payloads the beginning and the length have to do: to hash all of 64 MiB takes 40 ms. */
function fingerprint({ command, payload }: { readonly command: string; readonly payload: Buffer }): string {
  const hash = createHash('sha256').update(`${command}\0${payload.length}\0`);
  return hash.update(payload.subarray(0, fingerprintedBytes)).digest('base64');
}

interface Told {
  readonly hands: Hands;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly listeners: ReadonlySet<Listener>;
  readonly exits: Exits;
  logStacks(exit: KeptExit): void;
  finish(): void;
}

/** Does what one step decided, then tells those who watch. Throws when all is done, if one of it could not be. */
function act(actions: readonly Action[], told: Told): void {
  const records: NodeRecord[] = [];
  const errors: unknown[] = [];
  for (const action of actions) {
    try {
      actOne(action, records, told);
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

function actOne(action: Action, records: NodeRecord[], told: Told): void {
  told.hands.perform(action);
  if (action.type === 'record') {
    records.push(action.record);
    logRecord(told.log, action.record);
    told.metrics.record(action.record);
  }
  if (action.type === 'keep-exit') {
    const held = told.hands.held.get(action.exit.workerId);
    const { evidence = null, account = null } = held ?? {};
    const exit = { ...action.exit, evidence, account };
    told.exits.keep(exit);
    told.logStacks(exit);
  }
  if (action.type === 'publish') for (const listener of told.listeners) listener(action.changes, records);
  if (action.type === 'finish') told.finish();
}

function serveLink(
  link: ApiServer,
  hands: Hands,
  dispatch: Dispatch,
  loop: Loop,
  metrics: Metrics,
  budget: MemoryBudget,
): void {
  const source: WorkerLinkSource = {
    authenticate: hands.authenticate,
    check: hands.check,
    attached: hands.attach,
    closed: hands.closed,
    refused: reportRefusals({ nowMs: systemClock.nowMs, count: metrics.linkRefusal, tell: loop.mention }),
    frame: (workerId, frame, line) => {
      if (hands.isCurrent(workerId, line)) receive(workerId, frame, hands, dispatch, loop);
    },
    unsent: (workerId, linkIds, line) => {
      if (hands.isCurrent(workerId, line)) dispatch.onReturned(workerId, linkIds);
    },
  };
  addWorkerLink(link, source, budget);
}

function receive(workerId: string, frame: WorkerFrame, hands: Hands, dispatch: Dispatch, loop: Loop): void {
  if (frame.pong !== null) {
    const { sequence, in_flight: running, oldest_request_ms: oldestMs, loop_lag_ms: loopLagMs } = frame.pong;
    loop.mention({
      type: 'pong',
      workerId,
      sequence,
      atMs: systemClock.nowMs(),
      told: { running, oldestMs, loopLagMs },
    });
  }
  if (frame.leaving) {
    hands.leaving(workerId);
    loop.tell({ type: 'leaving', workerId, asked: frame.leaving_reason });
  }
  if (frame.replayed.length > 0) dispatch.onReplayed(workerId, frame.replayed);
  // A stream's chunks stand before its result.
  for (const chunk of frame.chunks) dispatch.onChunk(workerId, chunk.id, chunk.payload, chunk.content_type);
  for (const result of frame.results) {
    if (result.id === warmUpLinkId && hands.warmed(workerId, result)) continue;
    dispatch.onResult(workerId, result.id, result);
  }
  if (frame.returned.length > 0) dispatch.onReturned(workerId, frame.returned);
  if (frame.progress.length > 0) dispatch.onProgress(workerId, frame.progress);
}

async function bindTcp(api: ApiServer, address: { host: string; port: number }): Promise<string> {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const port = await api.bind(`${host}:${address.port}`).catch((error: Error) => {
    throw new Error(`${error.message}; name another address with --listen HOST:PORT (config: listen), or off`);
  });
  return `${host}:${port}`;
}

function readiness(loop: Loop, trouble: string): { ok: boolean; text: string } {
  const { node, pools, workers } = loop.state();
  if (node.phase !== 'running') return { ok: false, text: `node is ${node.phase}` };
  if (trouble !== '') return { ok: false, text: `the runtime directory cannot be used: ${trouble}` };
  const ready = new Set<string>();
  for (const { pool, phase, attached } of workers.values()) if (phase === 'ready' && attached) ready.add(pool);
  const waiting = [...pools.values()].filter((pool) => pool.size > 0 && !ready.has(pool.name)).map((pool) => pool.name);
  if (waiting.length > 0) return { ok: false, text: `no ready worker in: ${waiting.sort().join(', ')}` };
  return { ok: true, text: 'ready' };
}

function isFullyReady(loop: Loop): boolean {
  const { pools, workers } = loop.state();
  const ready = new Map<string, number>();
  for (const { pool, phase, attached } of workers.values())
    if (phase === 'ready' && attached) ready.set(pool, (ready.get(pool) ?? 0) + 1);
  return pools.size > 0 && [...pools.values()].every((pool) => (ready.get(pool.name) ?? 0) >= pool.size);
}

function addressesOf(socket: string, facts: { httpAddress: string; listenAddress: string }): string[] {
  const addresses = [`gRPC at ${socket === '' ? "the service manager's socket" : unixAddress(socket)}`];
  if (facts.listenAddress !== '') addresses.push(`gRPC at ${facts.listenAddress}`);
  if (facts.httpAddress !== '') addresses.push(`http://${facts.httpAddress}/metrics`);
  return addresses;
}

/** At the end one step that fails must not keep the others from being taken. */
function attempt(step: () => void, log: Log): void {
  try {
    step();
  } catch (error) {
    log.warn(`at the end: ${(error as Error).message}`);
  }
}

/** False: it takes longer. */
async function settlesWithin(work: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  const cut = new AbortController();
  const tooLong = delay(timeoutMs, false, { signal: cut.signal }).catch(() => false);
  const settled = await Promise.race([work.then(() => true), tooLong]);
  cut.abort();
  return settled;
}

function newSignal<T>(): { readonly promise: Promise<T>; isResolved(): boolean; resolve(value: T): void } {
  let settle = (_: T): void => undefined;
  let isResolved = false;
  const promise = new Promise<T>((done) => {
    settle = done;
  });
  return {
    promise,
    isResolved: () => isResolved,
    resolve: (value) => {
      isResolved = true;
      settle(value);
    },
  };
}
