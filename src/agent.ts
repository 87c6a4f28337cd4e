import { createHash, randomUUID } from 'node:crypto';
import type { Config } from './config/load.ts';
import type { Dispatch } from './dispatch/dispatch.ts';
import { createDispatch } from './dispatch/dispatch.ts';
import type { Action, NodeRecord } from './domain/action.ts';
import type { NodeConfig } from './domain/config.ts';
import type { Exits } from './exits.ts';
import { createExits } from './exits.ts';
import type { Log } from './log.ts';
import type { Loop } from './loop.ts';
import { startLoop } from './loop.ts';
import type { Metrics } from './metrics.ts';
import { createMetrics } from './metrics.ts';
import type { DirectoryLock } from './os/agent-lock.ts';
import { lockDirectory } from './os/agent-lock.ts';
import { openCgroups } from './os/cgroup.ts';
import { systemClock } from './os/clock.ts';
import {
  clearRuntimeDirectory,
  prepareRuntimeDirectory,
  prepareStateDirectory,
  restrictSocket,
} from './os/directories.ts';
import { openOutputDirectory } from './os/output-directory.ts';
import type { Hands } from './perform.ts';
import { createHands, warmUpLinkId } from './perform.ts';
import { logRecord } from './record-log.ts';
import { version } from './version.ts';
import { addApi } from './wire/api.ts';
import type { ControlSource, Listener } from './wire/control.ts';
import { controlService } from './wire/control.ts';
import { executionService } from './wire/execution.ts';
import type { HttpServer } from './wire/http.ts';
import { startHttp } from './wire/http.ts';
import type { ApiServer } from './wire/server.ts';
import { createServer } from './wire/server.ts';
import type { NodeFacts } from './wire/view.ts';
import type { WorkerFrame } from './wire/worker-link.ts';
import { addWorkerLink } from './wire/worker-link.ts';

/** A running agent. */
export interface Agent {
  /** Where it listens, for people. */
  readonly addresses: readonly string[];
  readonly apiSocket: string;
  /** Every pool of the first config has had all its workers ready. */
  readonly ready: Promise<void>;
  reload(node: NodeConfig): void;
  refuseReload(message: string): void;
  /** `drain`: requests may end first. `now`: kill all workers. The second call may be harsher than the first. */
  stop(how: 'drain' | 'now'): void;
  /** All workers are gone and nothing listens any more. */
  readonly ended: Promise<void>;
}

const fingerprintedBytes = 64 * 1024;
/** How long the last answers may take to reach their callers. */
const lastAnswersMs = 2_000;

/** Joins the parts: what the loop decides the hands do, what the hands and the wire see the loop is told. */
export async function startAgent(config: Config, log: Log): Promise<Agent> {
  const clock = systemClock;
  const startedAtMs = Date.now();
  const paths = prepareRuntimeDirectory(config.runtimeDir);
  prepareStateDirectory(config.stateDir);
  const locks = lockAll(new Set([config.runtimeDir, config.stateDir]));
  clearRuntimeDirectory(paths);
  const cgroups = openCgroups();
  log.info(cgroups.report);
  const outputDirectory = openOutputDirectory(paths.output, { onTrouble: log.warn });

  const listeners = new Set<Listener>();
  const exits = createExits();
  const ended = newSignal();
  const ready = newSignal();
  const dispatch = createAgentDispatch(
    clock.nowMs,
    () => loop,
    () => metrics,
  );
  const metrics = createMetrics({ state: () => loop.state(), poolNumbers: dispatch.poolStats });
  const hands: Hands = createHands({
    linkPath: paths.linkSocket,
    cgroups,
    outputDirectory,
    dispatch,
    log,
    metrics,
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
    (actions) => act(actions, { hands, log, metrics, listeners, exits, finish: ended.resolve }),
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
  });
  const agentId = randomUUID();
  const control: ControlSource = {
    state: loop.state,
    node,
    counters: (workerId) => hands.held.get(workerId)?.counters,
    poolNumbers: dispatch.poolStats,
    exits: exits.list,
    requestsOf: dispatch.requestsOf,
    nowMs: clock.nowMs,
    toUnixMs: clock.toUnixMs,
    command: loop.decide,
    subscribe: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };

  // A result that is too large is its caller's trouble: refused here, it would end the link and all requests on it.
  const link = createServer({ messageMaxBytes: Number.POSITIVE_INFINITY });
  const api = createServer({ messageMaxBytes: config.messageMaxBytes });
  const opened: { http: HttpServer | null } = { http: null };
  const close = async (): Promise<void> => {
    loop.close();
    for (const name of loop.state().pools.keys()) dispatch.removePool(name);
    await Promise.all([api.stop(lastAnswersMs), link.stop(0), opened.http?.close()]);
    outputDirectory.close();
    clearRuntimeDirectory(paths);
    cgroups.close();
    for (const lock of locks) lock.release();
  };
  try {
    serveLink(link, hands, dispatch, loop, log);
    const health = addApi(
      api.server,
      executionService({
        dispatch,
        nowMs: clock.nowMs,
        toMonotonicMs: (unixMs) => clock.nowMs() + unixMs - Date.now(),
        newRequestId: randomUUID,
        payloadMaxBytes: config.messageMaxBytes,
        unreadMaxBytes: config.unreadMaxBytes,
      }),
      controlService(control),
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
    await link.bind(`unix:${paths.linkSocket}`);
    await api.bind(`unix:${paths.apiSocket}`);
    restrictSocket(paths.apiSocket);
    if (config.listen !== null) facts.listenAddress = await bindTcp(api, config.listen);
    if (config.http !== null) {
      opened.http = await startHttp(config.http, {
        metrics: metrics.render,
        health: () => ({ ok: true, text: 'ok' }),
        readiness: () => readiness(loop),
      });
      facts.httpAddress = opened.http.address;
    }
  } catch (error) {
    await close();
    throw error;
  }
  loop.tell({ type: 'config', config: config.node });
  return {
    addresses: addressesOf(paths.apiSocket, facts),
    apiSocket: paths.apiSocket,
    ready: ready.promise,
    reload: (next) => loop.tell({ type: 'config', config: next }),
    refuseReload: (message) => loop.tell({ type: 'config-refused', message }),
    stop: (how) => loop.tell({ type: 'shutdown', how }),
    ended: ended.promise.then(close),
  };
}

function lockAll(directories: ReadonlySet<string>): DirectoryLock[] {
  const locks: DirectoryLock[] = [];
  try {
    for (const directory of directories) locks.push(lockDirectory(directory));
    return locks;
  } catch (error) {
    for (const lock of locks) lock.release();
    throw error;
  }
}

function createAgentDispatch(nowMs: () => number, loop: () => Loop, metrics: () => Metrics): Dispatch {
  let timer: NodeJS.Timeout | null = null;
  const arm = (atMs: number): void => {
    if (timer !== null) clearTimeout(timer);
    timer = Number.isFinite(atMs) ? setTimeout(() => arm(dispatch.expire()), Math.max(1, atMs - nowMs())) : null;
    timer?.unref();
  };
  const dispatch = createDispatch({
    nowMs,
    onIdle: (workerId) => loop().tell({ type: 'idle', workerId }),
    onBudgetSpent: (workerId) => loop().tell({ type: 'budget-spent', workerId }),
    onOutcome: (outcome) => metrics().outcome(outcome),
    onOverdue: (workerId, message) => loop().tell({ type: 'overdue', workerId, message }),
    onPoisoned: (pool, message) => loop().tell({ type: 'poisoned', pool, message }),
    fingerprint,
    onDeadline: arm,
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
  finish(): void;
}

/** Does what one step decided, then tells those who watch. */
function act(actions: readonly Action[], told: Told): void {
  const records: NodeRecord[] = [];
  for (const action of actions) {
    told.hands.perform(action);
    if (action.type === 'record') {
      records.push(action.record);
      logRecord(told.log, action.record);
      told.metrics.record(action.record);
    }
    if (action.type === 'keep-exit') {
      const held = told.hands.held.get(action.exit.workerId);
      const { evidence = null, account = null } = held ?? {};
      told.exits.keep({ ...action.exit, evidence, account });
    }
    if (action.type === 'publish') for (const listener of told.listeners) listener(action.changes, records);
    if (action.type === 'finish') told.finish();
  }
}

function serveLink(link: ApiServer, hands: Hands, dispatch: Dispatch, loop: Loop, log: Log): void {
  addWorkerLink(link, {
    authenticate: hands.authenticate,
    attached: hands.attach,
    closed: (workerId) => loop.tell({ type: 'link-closed', workerId }),
    refused: (message) => log.warn(`worker link refused: ${message}`),
    frame: (workerId, frame) => receive(workerId, frame, hands, dispatch, loop),
  });
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
  if (frame.leaving) hands.leaving(workerId);
  // A stream's chunks stand before its result.
  for (const chunk of frame.chunks) dispatch.onChunk(workerId, chunk.id, chunk.payload, chunk.content_type);
  for (const result of frame.results) {
    if (result.id === warmUpLinkId && hands.warmed(workerId, result)) continue;
    dispatch.onResult(workerId, result.id, result);
  }
  if (frame.returned.length > 0) dispatch.onReturned(workerId, frame.returned);
  if (frame.progress.length > 0) dispatch.onProgress(workerId);
}

async function bindTcp(api: ApiServer, address: { host: string; port: number }): Promise<string> {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const port = await api.bind(`${host}:${address.port}`);
  return `${host}:${port}`;
}

function readiness(loop: Loop): { ok: boolean; text: string } {
  const { node, pools, workers } = loop.state();
  if (node.phase !== 'running') return { ok: false, text: `node is ${node.phase}` };
  const ready = new Set<string>();
  for (const worker of workers.values()) if (worker.phase === 'ready') ready.add(worker.pool);
  const waiting = [...pools.values()].filter((pool) => pool.size > 0 && !ready.has(pool.name)).map((pool) => pool.name);
  if (waiting.length > 0) return { ok: false, text: `no ready worker in: ${waiting.sort().join(', ')}` };
  return { ok: true, text: 'ready' };
}

function isFullyReady(loop: Loop): boolean {
  const { pools, workers } = loop.state();
  const ready = new Map<string, number>();
  for (const { pool, phase } of workers.values()) if (phase === 'ready') ready.set(pool, (ready.get(pool) ?? 0) + 1);
  return pools.size > 0 && [...pools.values()].every((pool) => (ready.get(pool.name) ?? 0) >= pool.size);
}

function addressesOf(socket: string, facts: { httpAddress: string; listenAddress: string }): string[] {
  const addresses = [`gRPC at unix:${socket}`];
  if (facts.listenAddress !== '') addresses.push(`gRPC at ${facts.listenAddress}`);
  if (facts.httpAddress !== '') addresses.push(`http://${facts.httpAddress}/metrics`);
  return addresses;
}

function newSignal(): { readonly promise: Promise<void>; resolve(): void } {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
