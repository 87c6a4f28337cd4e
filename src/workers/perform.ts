import { dirname, join } from 'node:path';
import { expandEnv } from '../config/env.ts';
import type { WorkerCounters } from '../dispatch/counters.ts';
import { newCounters } from '../dispatch/counters.ts';
import type { Dispatch } from '../dispatch/dispatch.ts';
import { limitsOf } from '../dispatch/limits.ts';
import type { Action } from '../domain/action.ts';
import type { PoolConfig } from '../domain/config.ts';
import type { Event, Orders } from '../domain/event.ts';
import type { Account } from '../domain/evidence.ts';
import type { Newborn, OfferedCommand } from '../domain/state.ts';
import { boundByLife } from '../grpc/worker-link/sanitize.ts';
import type {
  AttachedWorker,
  Authentication,
  HelloClaim,
  LinkLimits,
  LinkRefusal,
  WorkerHello,
} from '../grpc/worker-link/service.ts';
import type { WorkerSecret } from '../grpc/worker-link/token.ts';
import { acceptToken, isRepeatedToken, newWorkerSecret } from '../grpc/worker-link/token.ts';
import type { Cgroups, WorkerCgroup } from '../os/cgroup/cgroup.ts';
import { availableMemory } from '../os/host-memory.ts';
import type { OutputOptions } from '../os/output/output.ts';
import { adoptOutput } from '../os/output/output.ts';
import type { OutputDirectory } from '../os/output/output-directory.ts';
import { watchProcess } from '../os/process/adopted-process.ts';
import type { BegunMark } from '../os/process/begun-mark.ts';
import { createBegunMark, openBegunMark } from '../os/process/begun-mark.ts';
import { workerEnvironment } from '../os/process/environment.ts';
import type { Guardian } from '../os/process/guardian.ts';
import type { ProcessIdentity } from '../os/process/identity.ts';
import { sampleTree } from '../os/process/memory.ts';
import { resourceLimits, whyNotLimited } from '../os/process/resource-limits.ts';
import { terminateGroup } from '../os/process/signal.ts';
import type { SpawnedWorker } from '../os/process/spawn-worker.ts';
import { spawnWorker } from '../os/process/spawn-worker.ts';
import { sweepTree } from '../os/process/tree.ts';
import { isShortage } from '../os/shortage.ts';
import type { Ledger, LedgerEntry } from '../os/storage/ledger.ts';
import { removeFile } from '../os/storage/remove-file.ts';
import type { Log } from '../telemetry/log.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { InspectedWorker } from './evidence.ts';
import { finishEvidence, inspect } from './evidence.ts';

/** How long a sweep may take before the survivors are reported; an unkillable process waits on a device. */
const sweepTimeoutMs = 10_000;

/** Requests are numbered from 0: by serial number arithmetic this is the one before, which marks nothing as begun. */
export const warmUpLinkId = 0xffffffff;

export interface WarmUpResult {
  readonly id: number;
  readonly error: { readonly type: string; readonly message: string } | null;
}

/** The process of a worker: a child of this agent, or one that it took over. */
type WorkerProcess = Pick<SpawnedWorker, 'endedAtTicks' | 'lastLines' | 'close'> & {
  /** Its link has closed: it may have ended. */
  look(): void;
};

/** A live worker of an earlier agent. */
export interface Survivor {
  readonly entry: LedgerEntry;
  readonly identity: ProcessIdentity;
  readonly pool: PoolConfig;
}

/** One worker as this agent holds it: everything about it that is not a decision. */
export interface Held extends InspectedWorker {
  readonly workerId: string;
  /** As the config has it now. */
  pool: PoolConfig;
  readonly counters: WorkerCounters;
  readonly begun: BegunMark;
  readonly cgroup: WorkerCgroup | undefined;
  /** What the ledger says of it. Its verifier is newer here: the ledger gets it with its next entry. */
  entry: LedgerEntry;
  /** An earlier agent started it. */
  readonly adopted: boolean;
  process: WorkerProcess | null;
  identity: ProcessIdentity | null;
  link: AttachedWorker | null;
  hello: WorkerHello | null;
  /** The commands of its hello as others are told of them. */
  offered: readonly OfferedCommand[];
  /** The ledger has its identity: from then on it may be told of. */
  recorded: boolean;
  /** Settles when the ledger has it as ready, or cannot. Until then it holds nothing that the next agent must wait for. */
  readyNoted: Promise<void>;
  /** What the domain last said of it to dispatch, which may not have it yet. */
  paused: boolean;
  released: boolean;
  /** It runs what it is to run before it is ready. */
  warming: boolean;
  /** It said that it takes no requests any more. */
  leaving: boolean;
  /** `tasks` of link.proto, as it was last told. */
  tasksTold: number;
  /** Of its cgroup, when its process had ended. */
  account: Account | null;
  /** What was in its tree at the last sample: start times by pid. */
  known: ReadonlyMap<number, string>;
}

export interface Hands {
  readonly held: ReadonlyMap<string, Held>;
  /** Does one action. Never throws: what goes wrong comes back as an event. */
  perform(action: Action): void;
  /** Takes a live worker over; the domain is told by who calls. */
  adopt(survivor: Survivor): void;
  /** The line that a worker has now; another one is over, whatever may still come of it. */
  isCurrent(workerId: string, link: AttachedWorker): boolean;
  /** A worker's line has closed. */
  closed(workerId: string, link: AttachedWorker): void;
  /** A hello that was let in: from now on this is the worker's line. */
  attach(hello: WorkerHello, link: AttachedWorker): void;
  /** A worker takes no requests any more. */
  leaving(workerId: string): void;
  /** What a worker says at the end of a request; true: that was its warm-up. */
  warmed(workerId: string, result: WarmUpResult): boolean;
  /** Whether a hello may attach. If it may, its token is used up. */
  authenticate(hello: WorkerHello): Authentication;
  /** What is wrong with a hello whose rest has not come; its token is not used up. Undefined: nothing. */
  check(claim: HelloClaim): LinkRefusal | undefined;
}

export interface HandsOptions {
  readonly agentId: string;
  readonly ledger: Ledger;
  readonly guardian: Guardian;
  readonly linkPath: string;
  /** Where a Client in a worker finds this agent; empty: at no path. */
  readonly apiSocket: string;
  readonly cgroups: Cgroups;
  readonly outputDirectory: OutputDirectory;
  /** Of a result: `message.max_bytes`. */
  readonly payloadMaxBytes: number;
  /** How many processes and threads all workers may have together; 0: any number. */
  tasksOfAll(): number;
  readonly dispatch: Dispatch;
  readonly log: Log;
  readonly metrics: Metrics;
  sampleFailed(error: unknown): void;
  nowMs(): number;
  tell(event: Event): void;
  /** A fact that nothing hangs on at once. */
  mention(event: Event): void;
}

/** Carries out what the domain decided. One branch per kind of action, no decisions. */
export function createHands(options: HandsOptions): Hands {
  const held = new Map<string, Held>();
  return {
    held,
    perform: (action) => perform(options, held, action),
    adopt: (survivor) => adopt(options, held, survivor),
    isCurrent: (workerId, link) => held.get(workerId)?.link === link,
    closed: (workerId, link) => closed(options, held.get(workerId), link),
    attach: (hello, link) => attach(options, held, hello, link),
    leaving: (workerId) => {
      const worker = held.get(workerId);
      if (worker !== undefined) worker.leaving = true;
      options.dispatch.onLeaving(workerId);
    },
    warmed: (workerId, result) => warmed(options, held.get(workerId), result),
    authenticate: (hello) => authenticate(held, hello, options),
    check: (claim) => {
      const proof = prove(held, claim);
      return proof.ok ? undefined : proof;
    },
  };
}

function perform(options: HandsOptions, held: Map<string, Held>, action: Action): void {
  const { dispatch, metrics } = options;
  switch (action.type) {
    case 'spawn':
      return void spawn(options, held, action.pool, action.worker);
    case 'note-ready':
      return noteReady(options, held.get(action.workerId), action.readyAtMs);
    case 'note-orders':
      return noteOrders(options, action.orders);
    case 'warm-up':
      return warmUp(options, held.get(action.workerId), action);
    case 'sample-host':
      return sampleHost(options);
    case 'admit':
      return void admit(options, held.get(action.workerId), action);
    case 'pause':
      setPaused(held.get(action.workerId), true);
      return dispatch.pauseWorker(action.workerId);
    case 'resume':
      setPaused(held.get(action.workerId), false);
      return dispatch.resumeWorker(action.workerId);
    case 'ping':
      return held.get(action.workerId)?.link?.ping(action.sequence);
    case 'sample':
      return sample(options, held.get(action.workerId), action);
    case 'send-drain':
      return held.get(action.workerId)?.link?.drain();
    case 'send-stop':
      return held.get(action.workerId)?.link?.stop(action.graceMs);
    case 'terminate':
      return terminate(held.get(action.workerId));
    case 'inspect': {
      const worker = held.get(action.workerId);
      if (worker !== undefined) void inspect(options, worker, action.because);
      return;
    }
    case 'kill':
      if (action.stuck !== '') return inspectThenKill(options, held.get(action.workerId), action);
      return sweep(options, held.get(action.workerId), action);
    case 'sweep':
      return sweep(options, held.get(action.workerId), action);
    case 'release':
      return release(dispatch, held.get(action.workerId), action);
    case 'forget':
      return forget(options, held, action.workerId);
    case 'set-pool':
      metrics.addPool(action.pool.name);
      dispatch.setPool(action.pool.name, limitsOf(action.pool));
      return limitWorkers(options, held, action.pool);
    case 'gate':
      return dispatch.setPoolOpen(action.pool, {
        open: action.open,
        reason: action.why,
        refuseQueued: action.refuseQueued,
      });
    case 'remove-pool':
      dispatch.removePool(action.pool);
      // After its last outcomes.
      return metrics.forgetPool(action.pool);
    case 'missed-pings':
      return metrics.missedPings(action.pool, action.count);
    case 'round-trip':
      return metrics.ping(action.pool, action.ms / 1000);
    case 'record':
    case 'keep-exit':
    case 'publish':
    case 'finish':
      // Kept, or told to people and watchers, by the agent.
      return;
  }
}

/**
 * A worker counts once the ledger has it: before it is spawned, so that a full disk stops the start and not the worker, and
 * with its identity before anybody hears of it.
 */
async function spawn(options: HandsOptions, held: Map<string, Held>, pool: PoolConfig, worker: Newborn): Promise<void> {
  const { tell, ledger } = options;
  const workerId = worker.id;
  const secret = newWorkerSecret();
  let begun: BegunMark;
  try {
    begun = createBegunMark(begunPath(options, workerId));
  } catch (error) {
    return tell({ type: 'start-blocked', workerId, message: messageOf(error) });
  }
  const cgroup = options.cgroups.create(workerId);
  const entry = entryOf(options, worker, secret);
  const its = newHeld(options, { entry, pool, begun, cgroup, adopted: false });
  held.set(workerId, its);
  try {
    await ledger.enter(entry);
  } catch (error) {
    return tell({ type: 'start-blocked', workerId, message: unwritten(error) });
  }
  raiseTasks(options, held);
  let spawned: SpawnedWorker;
  try {
    spawned = spawnProcess(options, workerId, pool, worker.slot, {
      secret: secret.secret,
      begunPath: begun.path,
      cgroup,
    });
  } catch (error) {
    const type = isShortage(error) ? 'start-blocked' : 'spawn-failed';
    return tell({ type, workerId, message: messageOf(error) });
  }
  its.process = { ...spawned, look: () => undefined };
  const started = await spawned.started;
  if (!started.ok) {
    const type = started.isShortage ? 'start-blocked' : 'spawn-failed';
    return tell({ type, workerId, message: started.message });
  }
  const { identity } = started;
  its.identity = identity;
  guard(options, its);
  its.entry = { ...its.entry, ...identityOf(identity), state: 'starting', spawned_at_boot_ms: options.nowMs() };
  try {
    await ledger.enter(its.entry);
  } catch (error) {
    // The next agent could not know it.
    await sweepTree({ identity, workerId }, { timeoutMs: sweepTimeoutMs, cgroup }).catch(() => undefined);
    return tell({ type: 'start-blocked', workerId, message: unwritten(error) });
  }
  tell({ type: 'spawned', workerId, pid: identity.pid });
  its.recorded = true;
  if (its.hello !== null) tellAttached(options, held, its, its.hello);
  const exit = await spawned.exited;
  its.account = cgroup?.account() ?? null;
  const outOfMemory = exit.signal === 'SIGKILL' && its.account !== null && its.account.oomKills > 0;
  const place = await finishEvidence(options, its, exit);
  const lastLines = [...spawned.lastLines()];
  tell({ type: 'exited', workerId, exit: outOfMemory ? { ...exit, outOfMemory } : exit, lastLines, place });
}

function newHeld(options: HandsOptions, its: Pick<Held, 'entry' | 'pool' | 'begun' | 'cgroup' | 'adopted'>): Held {
  const workerId = its.entry.worker_id;
  return {
    ...its,
    workerId,
    counters: newCounters(),
    process: null,
    identity: null,
    link: null,
    hello: null,
    offered: [],
    recorded: its.adopted,
    readyNoted: Promise.resolve(),
    paused: false,
    released: false,
    warming: false,
    leaving: false,
    stacksPath: stacksPath(options, workerId),
    tasksTold: 0,
    evidence: null,
    inspection: null,
    account: null,
    known: new Map(),
  };
}

function entryOf({ agentId }: HandsOptions, worker: Newborn, secret: WorkerSecret): LedgerEntry {
  return {
    worker_id: worker.id,
    pool: worker.pool,
    slot: worker.slot,
    generation: worker.generation,
    boot_id: '',
    pid: 0,
    start_time: '',
    agent_id: agentId,
    state: 'spawning',
    started_at_boot_ms: worker.startedAtMs,
    spawned_at_boot_ms: 0,
    ready_at_boot_ms: 0,
    max_age_ms: worker.limits.maxAgeMs,
    max_requests: worker.limits.maxRequests,
    concurrency: worker.concurrency,
    fingerprint: worker.fingerprint,
    launch: worker.launch,
    verifier: secret.verifier,
    repeats_token: false,
  };
}

function identityOf({ bootId, pid, startTime }: ProcessIdentity): Pick<LedgerEntry, 'boot_id' | 'pid' | 'start_time'> {
  return { boot_id: bootId, pid, start_time: startTime };
}

function adopt(options: HandsOptions, held: Map<string, Held>, { entry, identity, pool }: Survivor): void {
  const workerId = entry.worker_id;
  const watched = watchProcess(identity);
  const its = newHeld(options, {
    entry: { ...entry, ...identityOf(identity), agent_id: options.agentId },
    pool,
    begun: openBegunMark(begunPath(options, workerId)),
    cgroup: options.cgroups.find(workerId, identity.pid),
    adopted: true,
  });
  its.identity = identity;
  guard(options, its);
  const output = adoptOutput(options.outputDirectory, workerId, outputTold(options, workerId, pool.name));
  its.process = {
    endedAtTicks: watched.endedAtTicks,
    lastLines: output.lastLines,
    look: watched.look,
    close: () => {
      watched.close();
      output.remove();
    },
  };
  held.set(workerId, its);
  // What the ledger has of the others is as true as before: 200 synced files at a start would say nothing new.
  if (entry.pid === 0) void enterAgain(options, its);
  void watched.exited.then(async () => {
    its.account = its.cgroup?.account() ?? null;
    await output.finish();
    const exit = { code: null, signal: null };
    const place = await finishEvidence(options, its, exit);
    options.tell({ type: 'exited', workerId, exit, lastLines: [...output.lastLines()], place });
  });
}

/** If this agent goes and none comes, the worker goes by itself in that time, or is made to. */
function guard({ guardian }: HandsOptions, { identity, workerId, pool, cgroup }: Held): void {
  const limitMs = pool.orphanTimeoutMs + pool.drain.timeoutMs + pool.drain.killAfterMs;
  if (identity !== null) guardian.watch(identity, workerId, limitMs, cgroup?.path ?? null);
}

function noteReady(options: HandsOptions, worker: Held | undefined, readyAtMs: number): void {
  if (worker === undefined) return;
  worker.entry = { ...worker.entry, state: 'ready', ready_at_boot_ms: readyAtMs };
  worker.readyNoted = enterAgain(options, worker);
}

/** Without it the next agent knows less, but knows it. */
function enterAgain({ ledger, log }: HandsOptions, { entry }: Held): Promise<void> {
  return ledger.enter(entry).catch((error: unknown) => {
    log.warn(`the ledger's entry of ${entry.worker_id} could not be renewed: ${messageOf(error)}`);
  });
}

function noteOrders({ ledger, log }: HandsOptions, orders: Orders): void {
  ledger.keepOrders(orders).catch((error: unknown) => {
    log.warn(`sizes, drains and rolls that were ordered will not outlive this agent: ${messageOf(error)}`);
  });
}

function spawnProcess(
  { log, linkPath, apiSocket, outputDirectory, nowMs, tasksOfAll }: HandsOptions,
  workerId: string,
  pool: PoolConfig,
  slot: number,
  born: { readonly secret: Buffer; readonly begunPath: string; readonly cgroup: WorkerCgroup | undefined },
): SpawnedWorker {
  const { secret, begunPath, cgroup } = born;
  const heldByCgroup = cgroup?.limit(pool.limits) ?? { pids: false, memory: false };
  warnOfNoLimit(log, pool, whyNotLimited(pool.limits, heldByCgroup, tasksOfAll(), process.geteuid?.() ?? -1));
  return spawnWorker({
    command: pool.python,
    args: ['-m', 'pitwarden.worker'],
    cwd: pool.cwd,
    cgroup: cgroup?.path ?? null,
    env: workerEnvironment({
      ...expandEnv(pool, slot),
      PITWARDEN_LINK: linkPath,
      ...(apiSocket === '' ? {} : { PITWARDEN_SOCKET: apiSocket }),
      PITWARDEN_BEGUN: begunPath,
      PITWARDEN_STACKS: stacksPath({ linkPath }, workerId),
      PITWARDEN_WORKER_ID: workerId,
      PITWARDEN_POOL: pool.name,
      PITWARDEN_SLOT: String(slot),
      PITWARDEN_APP: pool.app,
      PITWARDEN_ORPHAN_TIMEOUT_MS: String(pool.orphanTimeoutMs),
      PITWARDEN_DRAIN_TIMEOUT_MS: String(pool.drain.timeoutMs),
      PITWARDEN_LIMITS: resourceLimits(pool.limits, heldByCgroup, tasksOfAll()),
    }),
    secret,
    workerId,
    outputDirectory,
    ...outputTold({ log, nowMs }, workerId, pool.name),
  });
}

/** Once for each configuration of a pool. */
function warnOfNoLimit(log: Log, pool: PoolConfig, why: string | undefined): void {
  if (why === undefined || unlimited.has(pool)) return;
  unlimited.add(pool);
  log.warn(`pool ${pool.name}: limits.pids (${pool.limits.pids}) does not hold: ${why}`, { pool: pool.name });
}

const unlimited = new WeakSet<PoolConfig>();

/** What a worker writes goes into the log. */
function outputTold(
  { log, nowMs }: Pick<HandsOptions, 'log' | 'nowMs'>,
  workerId: string,
  pool: string,
): OutputOptions {
  const of = { pool, worker_id: workerId };
  return {
    nowMs,
    onLine: ({ text, stream, record }) => {
      if (record === null) return log.info(text, { ...of, stream });
      const { level, logger, requestId } = record;
      return log[level](text, { ...of, stream, logger, ...(requestId === '' ? {} : { request_id: requestId }) });
    },
    onDropped: (count) => log.warn(`${workerId}: ${count} lines of output dropped: more than a worker may write`, of),
    onSkipped: (bytes) => log.warn(`${workerId}: ${bytes} bytes of output skipped: more than is kept unread`, of),
  };
}

function attach(options: HandsOptions, held: Map<string, Held>, hello: WorkerHello, link: AttachedWorker): void {
  const worker = held.get(hello.worker_id);
  if (worker === undefined) return link.close();
  boundByLife(hello, options.nowMs() - worker.entry.started_at_boot_ms);
  worker.link = link;
  worker.hello = hello;
  // It may be quicker than the disk.
  if (worker.recorded) tellAttached(options, held, worker, hello);
}

/** The same list as that of another worker of the pool which offers the same: 1,000 workers need no 1,000 of them. */
function offeredBy(held: ReadonlyMap<string, Held>, { pool }: Held, hello: WorkerHello): readonly OfferedCommand[] {
  const offered = hello.commands.map(({ name, summary, streams }) => ({ name, summary, streams }));
  for (const other of held.values()) {
    if (other.pool.name === pool.name && isSameOffer(other.offered, offered)) return other.offered;
  }
  return offered;
}

function isSameOffer(a: readonly OfferedCommand[], b: readonly OfferedCommand[]): boolean {
  return (
    a.length === b.length &&
    a.every(({ name, summary, streams }, index) => {
      const other = b[index];
      return other?.name === name && other.summary === summary && other.streams === streams;
    })
  );
}

function tellAttached({ tell }: HandsOptions, held: ReadonlyMap<string, Held>, worker: Held, hello: WorkerHello): void {
  const { workerId } = worker;
  worker.offered = offeredBy(held, worker, hello);
  const told = {
    commands: worker.offered,
    sdkVersion: hello.sdk_version,
    pythonVersion: hello.python_version,
    start: { interpreterMs: hello.interpreter_ms, importMs: hello.import_ms, hooksMs: hello.hooks_ms },
  };
  tell({ type: 'attached', workerId, hello: told });
}

function closed({ tell }: HandsOptions, worker: Held | undefined, link: AttachedWorker): void {
  if (worker?.link !== link) return;
  worker.link = null;
  worker.process?.look();
  tell({ type: 'link-closed', workerId: worker.workerId });
}

/** Only what the worker marked as begun may have run, when it marks at all. */
function release(
  dispatch: Dispatch,
  worker: Held | undefined,
  { workerId, reason, message, crashed }: Action & { readonly type: 'release' },
): void {
  if (worker !== undefined) worker.released = true;
  dispatch.removeWorker(workerId, { reason, message, crashed, begunThrough: begunThrough(worker) });
}

function begunThrough(worker: Held | undefined): number | null {
  return worker?.hello?.marks_begun === true ? worker.begun.read() : null;
}

function forget({ ledger }: HandsOptions, held: Map<string, Held>, workerId: string): void {
  const worker = held.get(workerId);
  ledger.forget(workerId);
  if (worker !== undefined) worker.released = true;
  worker?.link?.close();
  worker?.process?.close();
  worker?.begun.remove();
  if (worker !== undefined) removeFile(worker.stacksPath);
  worker?.cgroup?.remove();
  held.delete(workerId);
}

function authenticate(
  held: Map<string, Held>,
  hello: WorkerHello,
  { payloadMaxBytes, tasksOfAll }: Pick<HandsOptions, 'payloadMaxBytes' | 'tasksOfAll'>,
): Authentication {
  const proof = prove(held, hello);
  if (!proof.ok) return proof;
  const { worker, verifier } = proof;
  if (worker.link !== null) {
    const message = 'a second hello was refused: this worker is attached, so another process may have its secret';
    return { ok: false, reason: 'already_attached', message, worker: nameOf(worker) };
  }
  worker.entry = { ...worker.entry, verifier };
  worker.tasksTold = tasksOfAll();
  return {
    ok: true,
    welcome: {
      // What it was started with: it cannot take another one.
      concurrency: worker.entry.concurrency,
      ...linkLimitsOf(worker.pool, worker.tasksTold),
      payload_max_bytes: payloadMaxBytes,
    },
  };
}

type Proof =
  | { readonly ok: true; readonly worker: Held; readonly verifier: string }
  | ({ readonly ok: false } & LinkRefusal);

/** Whose hello it is; `verifier` is that of the worker's next token. */
function prove(held: Map<string, Held>, { worker_id: workerId, token }: HelloClaim): Proof {
  const worker = held.get(workerId);
  if (worker === undefined) {
    const got = JSON.stringify(workerId.slice(0, 80));
    return { ok: false, reason: 'unknown_worker', message: `worker_id: expected a worker of this agent, got ${got}` };
  }
  const verifier = nextVerifier(worker.entry, token);
  if (verifier !== null) return { ok: true, worker, verifier };
  const message = 'a hello was refused: expected a token that only this worker can make, got another';
  return { ok: false, reason: 'wrong_token', message, worker: nameOf(worker) };
}

function nameOf({ workerId, pool }: Held): { readonly id: string; readonly pool: string } {
  return { id: workerId, pool: pool.name };
}

/** What a worker itself keeps to, and a reload may change. */
export function linkLimitsOf(pool: PoolConfig, tasks: number): LinkLimits {
  return {
    orphan_timeout_ms: pool.orphanTimeoutMs,
    drain_timeout_ms: pool.drain.timeoutMs,
    keep_results: pool.request.keep.maxResults,
    keep_bytes: pool.request.keep.maxBytes,
    keep_ms: pool.request.keep.forMs,
    tasks,
  };
}

/** The workers of a pool whose config has changed, and their guardian, are told what holds from now on. */
function limitWorkers(options: HandsOptions, held: Map<string, Held>, pool: PoolConfig): void {
  for (const worker of held.values()) {
    if (worker.pool.name !== pool.name) continue;
    worker.pool = pool;
    guard(options, worker);
    worker.tasksTold = options.tasksOfAll();
    worker.link?.limit(linkLimitsOf(pool, worker.tasksTold));
  }
}

/** Before there are more workers: those that run are told what all may have then, or the new ones would take their share. */
function raiseTasks({ tasksOfAll }: HandsOptions, held: Map<string, Held>): void {
  const tasks = tasksOfAll();
  for (const worker of held.values()) {
    if (worker.link === null || worker.pool.limits.pids === 0 || worker.tasksTold === tasks) continue;
    worker.tasksTold = tasks;
    worker.link.limit(linkLimitsOf(worker.pool, tasks));
  }
}

/** Null: the token is not this worker's. */
function nextVerifier({ verifier, repeats_token }: LedgerEntry, token: string): string | null {
  if (!repeats_token) return acceptToken(token, verifier);
  return isRepeatedToken(token, verifier) ? verifier : null;
}

function setPaused(worker: Held | undefined, paused: boolean): void {
  if (worker !== undefined) worker.paused = paused;
}

/** Once the ledger has it as ready: the next agent takes one that is starting for one that holds no requests. */
async function admit(
  options: HandsOptions,
  worker: Held | undefined,
  { maxRequests, paused }: Action & { readonly type: 'admit' },
): Promise<void> {
  setPaused(worker, paused);
  const link = worker?.link;
  await worker?.readyNoted;
  // Meanwhile it may have ended, or have dialled again, for which it is admitted again.
  if (worker === undefined || worker.released || worker.link === null || worker.link !== link) return;
  if (worker.hello === null) return;
  // It may have said so while it was warming up: its exit is on its way.
  if (worker.leaving) return;
  const commands = new Map(
    worker.hello.commands.map(({ name, streams, is_async }) => [name, { streams, isAsync: is_async }]),
  );
  options.dispatch.addWorker({
    workerId: worker.workerId,
    pool: worker.pool.name,
    concurrency: worker.entry.concurrency,
    maxRequests,
    commands,
    marksBegun: worker.hello.marks_begun,
    begunThrough: () => begunThrough(worker),
    counters: worker.counters,
    link: worker.link,
    resumed: worker.hello.resumed,
    paused: worker.paused,
  });
}

function warmUp(
  { tell }: HandsOptions,
  worker: Held | undefined,
  { workerId, command, payload }: Action & { readonly type: 'warm-up' },
): void {
  if (worker?.link === null || worker?.link === undefined) return;
  const known = worker.hello?.commands.some(({ name }) => name === command);
  if (known !== true) {
    const names = worker.hello?.commands.map(({ name }) => name).join(', ') || 'none';
    const error = `start.warm_up: expected a command of the app (${names.slice(0, 500)}), got "${command}"`;
    return tell({ type: 'warmed', workerId, error });
  }
  worker.warming = true;
  // It came back with it: it runs there still.
  if (worker.hello?.resumed?.held.some(({ id, ended }) => id === warmUpLinkId && !ended) === true) return;
  worker.link.request({
    id: warmUpLinkId,
    command,
    payload: Buffer.from(payload),
    content_type: 'application/json',
    request_id: `warm-up-${workerId}`,
    session_id: '',
    // start.timeout ends it.
    timeout_ms: 0,
    keep: false,
  });
}

function warmed({ tell }: HandsOptions, worker: Held | undefined, { id, error }: WarmUpResult): boolean {
  if (id !== warmUpLinkId || worker === undefined || !worker.warming) return false;
  worker.warming = false;
  const { workerId } = worker;
  tell({ type: 'warmed', workerId, error: error === null ? '' : `${error.type}: ${error.message}` });
  return true;
}

function sampleHost({ mention, sampleFailed }: HandsOptions): void {
  void availableMemory().then((availableBytes) => mention({ type: 'host-sampled', availableBytes }), sampleFailed);
}

function sample(
  options: HandsOptions,
  worker: Held | undefined,
  { pssAboveBytes, pssBelowBytes }: Action & { readonly type: 'sample' },
): void {
  if (worker === undefined || worker.identity === null) return;
  const { workerId, identity, cgroup } = worker;
  const cgroupBytes = cgroup?.memoryBytes() ?? 0;
  const sampled = sampleTree(
    { identity, workerId, known: worker.known },
    {
      // The kernel's account of the cgroup is better than PSS.
      readsPss: (rssBytes) => cgroupBytes === 0 && (rssBytes >= pssAboveBytes || rssBytes < pssBelowBytes),
      remember: (known) => {
        worker.known = known;
      },
    },
  );
  void sampled.then(
    // Nothing is left of it: its exit says more.
    (taken) => taken !== undefined && options.mention({ type: 'sampled', workerId, sample: { ...taken, cgroupBytes } }),
    options.sampleFailed,
  );
}

function terminate(worker: Held | undefined): void {
  if (worker?.identity) terminateGroup(worker.identity);
}

function begunPath({ linkPath }: Pick<HandsOptions, 'linkPath'>, workerId: string): string {
  return join(dirname(linkPath), `${workerId}.begun`);
}

function stacksPath({ linkPath }: Pick<HandsOptions, 'linkPath'>, workerId: string): string {
  return join(dirname(linkPath), `${workerId}.stacks`);
}

/** Whatever the inspection brings: the kill comes. */
function inspectThenKill(
  options: HandsOptions,
  worker: Held | undefined,
  { workerId, stuck }: Action & { readonly type: 'kill' },
): void {
  const kill = (): void => sweep(options, worker, { type: 'kill', workerId });
  if (worker === undefined) return kill();
  void inspect(options, worker, stuck).then(kill);
}

function sweep(
  options: HandsOptions,
  worker: Held | undefined,
  { type, workerId }: { readonly type: 'kill' | 'sweep'; readonly workerId: string },
): void {
  const done = (survivors: readonly number[]): void => {
    if (type === 'sweep') options.tell({ type: 'gone', workerId, survivors });
  };
  // It was never there.
  const identity = worker?.identity ?? null;
  if (identity === null) return done([]);
  const endedAtTicks = worker?.process?.endedAtTicks();
  const target = { identity, workerId, endedAtTicks, known: worker?.known };
  void sweepTree(target, { timeoutMs: sweepTimeoutMs, cgroup: worker?.cgroup }).then(
    ({ survivors, suspects }) => {
      if (type === 'sweep') warnOfSuspects(options.log, workerId, suspects);
      done(survivors);
    },
    (error: unknown) => {
      options.log.error(`sweep failed: ${messageOf(error)}`, { worker_id: workerId });
      done([identity.pid]);
    },
  );
}

const suspectsNamed = 10;

/** Of what changed its user, so that nothing proves whose it is. */
export function warnOfSuspects(log: Log, workerId: string, suspects: readonly number[]): void {
  if (suspects.length === 0) return;
  const named = suspects.slice(0, suspectsNamed).join(', ');
  const message = `${workerId}: ${suspects.length} processes of other users may be of its tree, and are left alone: ${named}`;
  log.warn(message, { worker_id: workerId });
}

function unwritten(error: unknown): string {
  return `the ledger cannot be written: ${messageOf(error)}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
