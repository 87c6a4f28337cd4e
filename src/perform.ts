import { randomBytes, timingSafeEqual } from 'node:crypto';
import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expandEnv } from './config/env.ts';
import type { WorkerCounters } from './dispatch/counters.ts';
import { newCounters } from './dispatch/counters.ts';
import type { Dispatch } from './dispatch/dispatch.ts';
import { limitsOf } from './dispatch/limits.ts';
import type { Action } from './domain/action.ts';
import type { PoolConfig } from './domain/config.ts';
import type { Event } from './domain/event.ts';
import type { Account, Evidence } from './domain/evidence.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import type { BegunMark } from './os/begun-mark.ts';
import { createBegunMark } from './os/begun-mark.ts';
import type { Cgroups, WorkerCgroup } from './os/cgroup.ts';
import { workerEnvironment } from './os/environment.ts';
import { gatherEvidence } from './os/evidence.ts';
import { availableMemory } from './os/host-memory.ts';
import type { ProcessIdentity } from './os/identity.ts';
import type { TreeSample } from './os/memory.ts';
import { sampleTree } from './os/memory.ts';
import type { OutputDirectory } from './os/output-directory.ts';
import type { SpawnedWorker } from './os/process.ts';
import { spawnWorker } from './os/process.ts';
import type { TreeTarget } from './os/process-table.ts';
import { signalGroup, sweepTree } from './os/tree.ts';
import type { AttachedWorker, WorkerHello } from './wire/worker-link.ts';

/** How long a sweep may take before the survivors are reported; an unkillable process waits on a device. */
const sweepTimeoutMs = 10_000;
/** Requests that evidence names, and what it keeps of the last lines: each alone may have 8 KiB. */
const requestsMax = 32;
const lastLinesMaxChars = 8 * 1024;

/** Requests are numbered from 0: by serial number arithmetic this is the one before, which marks nothing as begun. */
export const warmUpLinkId = 0xffffffff;

export interface WarmUpResult {
  readonly id: number;
  readonly error: { readonly type: string; readonly message: string } | null;
}

/** One worker as this agent holds it: everything about it that is not a decision. */
export interface Held {
  readonly workerId: string;
  readonly pool: PoolConfig;
  readonly counters: WorkerCounters;
  readonly begun: BegunMark;
  readonly cgroup: WorkerCgroup | undefined;
  token: Buffer | null;
  process: SpawnedWorker | null;
  identity: ProcessIdentity | null;
  link: AttachedWorker | null;
  hello: WorkerHello | null;
  /** It runs what it is to run before it is ready. */
  warming: boolean;
  /** It said that it takes no requests any more. */
  leaving: boolean;
  readonly stacksPath: string;
  /** What it was seen to do before it was killed. */
  evidence: Evidence | null;
  /** Of its cgroup, when its process had ended. */
  account: Account | null;
}

export interface Hands {
  readonly held: ReadonlyMap<string, Held>;
  /** Does one action. Never throws: what goes wrong comes back as an event. */
  perform(action: Action): void;
  /** A hello that was let in: from now on this is the worker's line. */
  attach(hello: WorkerHello, link: AttachedWorker): void;
  /** A worker takes no requests any more. */
  leaving(workerId: string): void;
  /** What a worker says at the end of a request; true: that was its warm-up. */
  warmed(workerId: string, result: WarmUpResult): boolean;
  /** Whether a hello may attach; a token serves once. */
  authenticate(hello: WorkerHello): { ok: true; concurrency: number } | { ok: false; message: string };
}

export interface HandsOptions {
  readonly linkPath: string;
  readonly cgroups: Cgroups;
  readonly outputDirectory: OutputDirectory;
  readonly dispatch: Dispatch;
  readonly log: Log;
  readonly metrics: Metrics;
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
    attach: (hello, link) => attach(options, held.get(hello.worker_id), hello, link),
    leaving: (workerId) => {
      const worker = held.get(workerId);
      if (worker !== undefined) worker.leaving = true;
      options.dispatch.onLeaving(workerId);
    },
    warmed: (workerId, result) => warmed(options, held.get(workerId), result),
    authenticate: (hello) => authenticate(held, hello),
  };
}

function perform(options: HandsOptions, held: Map<string, Held>, action: Action): void {
  const { dispatch, metrics } = options;
  switch (action.type) {
    case 'spawn':
      return spawn(options, held, action.workerId, action.pool, action.slot);
    case 'warm-up':
      return warmUp(options, held.get(action.workerId), action);
    case 'sample-host':
      return sampleHost(options);
    case 'admit':
      return admit(options, held.get(action.workerId), action.maxRequests);
    case 'pause':
      return dispatch.pauseWorker(action.workerId);
    case 'resume':
      return dispatch.resumeWorker(action.workerId);
    case 'ping':
      return held.get(action.workerId)?.link?.ping(action.sequence);
    case 'sample':
      return sample(options, held.get(action.workerId), action.pssAboveBytes);
    case 'send-drain':
      return held.get(action.workerId)?.link?.drain();
    case 'send-stop':
      return held.get(action.workerId)?.link?.stop(action.graceMs);
    case 'terminate':
      return terminate(held.get(action.workerId));
    case 'kill':
      if (action.stuck !== '') return lookThenKill(options, held.get(action.workerId), action);
      return sweep(options, held.get(action.workerId), action);
    case 'sweep':
      return sweep(options, held.get(action.workerId), action);
    case 'release':
      return release(dispatch, held.get(action.workerId), action);
    case 'forget':
      return forget(held, action.workerId);
    case 'set-pool':
      return dispatch.setPool(action.pool.name, limitsOf(action.pool));
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

function spawn(options: HandsOptions, held: Map<string, Held>, workerId: string, pool: PoolConfig, slot: number): void {
  const { tell } = options;
  const token = randomBytes(32);
  let spawned: SpawnedWorker;
  let begun: BegunMark | undefined;
  const cgroup = options.cgroups.create(workerId);
  try {
    begun = createBegunMark(join(dirname(options.linkPath), `${workerId}.begun`));
    spawned = spawnProcess(options, workerId, pool, slot, {
      token,
      begunPath: begun.path,
      cgroup: cgroup?.path ?? null,
    });
  } catch (error) {
    begun?.remove();
    cgroup?.remove();
    return tell({ type: 'spawn-failed', workerId, message: messageOf(error) });
  }
  held.set(workerId, {
    workerId,
    pool,
    counters: newCounters(),
    begun,
    cgroup,
    token,
    process: spawned,
    identity: null,
    link: null,
    hello: null,
    warming: false,
    leaving: false,
    stacksPath: stacksPath(options, workerId),
    evidence: null,
    account: null,
  });
  void spawned.started.then((started) => {
    if (!started.ok) return tell({ type: 'spawn-failed', workerId, message: started.message });
    const worker = held.get(workerId);
    if (worker !== undefined) worker.identity = started.identity;
    tell({ type: 'spawned', workerId, pid: started.identity.pid });
    void spawned.exited.then((exit) => {
      const account = worker?.cgroup?.account() ?? null;
      if (worker !== undefined) worker.account = account;
      const outOfMemory = exit.signal === 'SIGKILL' && account !== null && account.oomKills > 0;
      const lastLines = [...spawned.lastLines()];
      tell({ type: 'exited', workerId, exit: outOfMemory ? { ...exit, outOfMemory } : exit, lastLines });
    });
  });
}

function spawnProcess(
  { log, linkPath, outputDirectory, nowMs }: HandsOptions,
  workerId: string,
  pool: PoolConfig,
  slot: number,
  { token, begunPath, cgroup }: { readonly token: Buffer; readonly begunPath: string; readonly cgroup: string | null },
): SpawnedWorker {
  return spawnWorker({
    command: pool.python,
    args: ['-m', 'pitwarden.worker'],
    cwd: pool.cwd,
    cgroup,
    env: workerEnvironment({
      ...expandEnv(pool, slot),
      PITWARDEN_LINK: linkPath,
      PITWARDEN_TOKEN: token.toString('hex'),
      PITWARDEN_BEGUN: begunPath,
      PITWARDEN_STACKS: stacksPath({ linkPath }, workerId),
      PITWARDEN_WORKER_ID: workerId,
      PITWARDEN_POOL: pool.name,
      PITWARDEN_SLOT: String(slot),
      PITWARDEN_APP: pool.app,
    }),
    workerId,
    outputDirectory,
    nowMs,
    onLine: (line) => log.info(line.text, { worker_id: workerId, stream: line.stream }),
    onDropped: (count) =>
      log.warn(`${workerId}: ${count} lines of output dropped: more than a worker may write`, { worker_id: workerId }),
    onSkipped: (bytes) =>
      log.warn(`${workerId}: ${bytes} bytes of output skipped: more than is kept unread`, {
        worker_id: workerId,
      }),
  });
}

function attach(options: HandsOptions, worker: Held | undefined, hello: WorkerHello, link: AttachedWorker): void {
  if (worker === undefined) return link.close();
  worker.link = link;
  worker.hello = hello;
  const told = {
    commands: hello.commands.map((command) => command.name),
    sdkVersion: hello.sdk_version,
    pythonVersion: hello.python_version,
    start: { interpreterMs: hello.interpreter_ms, importMs: hello.import_ms, hooksMs: hello.hooks_ms },
  };
  options.tell({ type: 'attached', workerId: worker.workerId, hello: told });
}

/** Only what the worker marked as begun may have run, when it marks at all. */
function release(
  dispatch: Dispatch,
  worker: Held | undefined,
  { workerId, reason, message, crashed }: Action & { readonly type: 'release' },
): void {
  dispatch.removeWorker(workerId, { reason, message, crashed, begunThrough: begunThrough(worker) });
}

function begunThrough(worker: Held | undefined): number | null {
  return worker?.hello?.marks_begun === true ? worker.begun.read() : null;
}

function forget(held: Map<string, Held>, workerId: string): void {
  const worker = held.get(workerId);
  worker?.link?.close();
  worker?.process?.close();
  worker?.begun.remove();
  if (worker !== undefined) rmSync(worker.stacksPath, { force: true });
  worker?.cgroup?.remove();
  held.delete(workerId);
}

/** Compared in constant time, and gone once used. */
function authenticate(held: Map<string, Held>, hello: WorkerHello): ReturnType<Hands['authenticate']> {
  const worker = held.get(hello.worker_id);
  const given = Buffer.from(hello.token, 'hex');
  const known = worker?.token;
  if (
    worker === undefined ||
    known === null ||
    known === undefined ||
    given.length !== known.length ||
    !timingSafeEqual(given, known)
  ) {
    return {
      ok: false,
      message: `worker_id and token: expected those of a worker that is starting, got worker_id "${hello.worker_id}"`,
    };
  }
  worker.token = null;
  return { ok: true, concurrency: worker.pool.concurrency };
}

function admit(options: HandsOptions, worker: Held | undefined, maxRequests: number): void {
  if (worker?.link === null || worker?.link === undefined || worker.hello === null) return;
  // It may have said so while it was warming up: its exit is on its way.
  if (worker.leaving) return;
  const commands = new Map(
    worker.hello.commands.map(({ name, streams, is_async }) => [name, { streams, isAsync: is_async }]),
  );
  options.dispatch.addWorker({
    workerId: worker.workerId,
    pool: worker.pool.name,
    concurrency: worker.pool.concurrency,
    maxRequests,
    commands,
    marksBegun: worker.hello.marks_begun,
    begunThrough: () => begunThrough(worker),
    counters: worker.counters,
    link: worker.link,
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
  worker.link.request({
    id: warmUpLinkId,
    command,
    payload: Buffer.from(payload),
    content_type: 'application/json',
    request_id: `warm-up-${workerId}`,
    session_id: '',
    // start.timeout ends it.
    timeout_ms: 0,
  });
}

function warmed({ tell }: HandsOptions, worker: Held | undefined, { id, error }: WarmUpResult): boolean {
  if (id !== warmUpLinkId || worker === undefined || !worker.warming) return false;
  worker.warming = false;
  const { workerId } = worker;
  tell({ type: 'warmed', workerId, error: error === null ? '' : `${error.type}: ${error.message}` });
  return true;
}

function sampleHost({ mention, log }: HandsOptions): void {
  void availableMemory().then(
    (availableBytes) => mention({ type: 'host-sampled', availableBytes }),
    (error: unknown) => log.error(`the host's memory could not be read: ${messageOf(error)}`),
  );
}

function sample(options: HandsOptions, worker: Held | undefined, pssAboveBytes: number): void {
  if (worker === undefined || worker.identity === null) return;
  const { workerId, identity, cgroup } = worker;
  void measure({ identity, workerId }, pssAboveBytes, cgroup?.memoryBytes() ?? 0).then(
    // Nothing is left of it: its exit says more.
    (taken) => taken !== undefined && options.mention({ type: 'sampled', workerId, sample: taken }),
    (error: unknown) => options.log.error(`sample failed: ${messageOf(error)}`, { worker_id: workerId }),
  );
}

async function measure(
  target: TreeTarget,
  pssAboveBytes: number,
  cgroupBytes: number,
): Promise<(TreeSample & { readonly cgroupBytes: number }) | undefined> {
  const sampled = await measureTree(target, cgroupBytes > 0 ? Number.POSITIVE_INFINITY : pssAboveBytes);
  return sampled === undefined ? undefined : { ...sampled, cgroupBytes };
}

async function measureTree(target: TreeTarget, pssAboveBytes: number): Promise<TreeSample | undefined> {
  const first = await sampleTree(target, { withPss: pssAboveBytes === 0 });
  if (pssAboveBytes === 0 || first === undefined || first.rssBytes < pssAboveBytes) return first;
  return sampleTree(target, { withPss: true });
}

function terminate(worker: Held | undefined): void {
  if (worker?.identity) signalGroup(worker.identity, 'SIGTERM');
}

function stacksPath({ linkPath }: Pick<HandsOptions, 'linkPath'>, workerId: string): string {
  return join(dirname(linkPath), `${workerId}.stacks`);
}

/** Whatever the look at it brings, or if it fails: the kill comes. */
function lookThenKill(
  options: HandsOptions,
  worker: Held | undefined,
  { workerId, stuck }: Action & { readonly type: 'kill' },
): void {
  const kill = (): void => sweep(options, worker, { type: 'kill', workerId });
  if (worker === undefined || worker.identity === null) return kill();
  const path = worker.hello?.writes_stacks === true ? worker.stacksPath : null;
  const requests = options.dispatch.requestsOf(workerId).slice(0, requestsMax);
  const takenAtMs = options.nowMs();
  void gatherEvidence(worker.identity, path).then(
    (seen) => {
      const lastLines = newestOf(worker.process?.lastLines() ?? []);
      worker.evidence = { takenAtMs, because: stuck, requests, lastLines, ...seen };
      kill();
    },
    (error: unknown) => {
      options.log.error(`no evidence of ${workerId}: ${messageOf(error)}`, { worker_id: workerId });
      kill();
    },
  );
}

/** The newest lines that fit, the oldest of these cut where it must be. */
function newestOf(lines: readonly string[]): string[] {
  const kept: string[] = [];
  let room = lastLinesMaxChars;
  for (let index = lines.length - 1; index >= 0 && room > 0; index -= 1) {
    const line = (lines[index] ?? '').slice(0, room);
    kept.unshift(line);
    room -= line.length;
  }
  return kept;
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
  void sweepTree({ identity, workerId, endedAtTicks }, { timeoutMs: sweepTimeoutMs, cgroup: worker?.cgroup }).then(
    ({ survivors }) => done(survivors),
    (error: unknown) => {
      options.log.error(`sweep failed: ${messageOf(error)}`, { worker_id: workerId });
      done([identity.pid]);
    },
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
