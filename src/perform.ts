import { randomBytes, timingSafeEqual } from 'node:crypto';
import { dirname, join } from 'node:path';
import { expandEnv } from './config/env.ts';
import type { WorkerCounters } from './dispatch/counters.ts';
import { newCounters } from './dispatch/counters.ts';
import type { Dispatch } from './dispatch/dispatch.ts';
import type { Action } from './domain/action.ts';
import type { PoolConfig } from './domain/config.ts';
import type { Event } from './domain/event.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import type { BegunMark } from './os/begun-mark.ts';
import { createBegunMark } from './os/begun-mark.ts';
import type { Cgroups, WorkerCgroup } from './os/cgroup.ts';
import { workerEnvironment } from './os/environment.ts';
import type { ProcessIdentity } from './os/identity.ts';
import type { TreeSample } from './os/memory.ts';
import { sampleTree } from './os/memory.ts';
import type { SpawnedWorker } from './os/process.ts';
import { spawnWorker } from './os/process.ts';
import type { TreeTarget } from './os/process-table.ts';
import { signalGroup, sweepTree } from './os/tree.ts';
import type { AttachedWorker, WorkerHello } from './wire/worker-link.ts';

/** How long a sweep may take before the survivors are reported; an unkillable process waits on a device. */
const sweepTimeoutMs = 10_000;

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
}

export interface Hands {
  readonly held: ReadonlyMap<string, Held>;
  /** Does one action. Never throws: what goes wrong comes back as an event. */
  perform(action: Action): void;
  /** A hello that was let in: from now on this is the worker's line. */
  attach(hello: WorkerHello, link: AttachedWorker): void;
  /** Whether a hello may attach; a token serves once. */
  authenticate(hello: WorkerHello): { ok: true; concurrency: number } | { ok: false; message: string };
}

export interface HandsOptions {
  readonly linkPath: string;
  readonly cgroups: Cgroups;
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
    authenticate: (hello) => authenticate(held, hello),
  };
}

function perform(options: HandsOptions, held: Map<string, Held>, action: Action): void {
  const { dispatch, metrics } = options;
  switch (action.type) {
    case 'spawn':
      return spawn(options, held, action.workerId, action.pool, action.slot);
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
    case 'sweep':
      return sweep(options, held.get(action.workerId), action);
    case 'release':
      return release(dispatch, held.get(action.workerId), action);
    case 'forget':
      return forget(held, action.workerId);
    case 'set-pool':
      return dispatch.setPool(action.pool.name, {
        maxQueuedRequests: action.pool.queue.maxRequests,
        maxQueuedBytes: action.pool.queue.maxBytes,
        requestTimeoutMs: action.pool.request.timeoutMs,
        maxAttempts: action.pool.request.maxAttempts,
        killAfterMs: action.pool.request.killAfterMs,
        affinity: action.pool.request.affinity,
        poison: action.pool.poison,
      });
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
  });
  void spawned.started.then((started) => {
    if (!started.ok) return tell({ type: 'spawn-failed', workerId, message: started.message });
    const worker = held.get(workerId);
    if (worker !== undefined) worker.identity = started.identity;
    tell({ type: 'spawned', workerId, pid: started.identity.pid });
    void spawned.exited.then((exit) => tell({ type: 'exited', workerId, exit, lastLines: [...spawned.lastLines()] }));
  });
}

function spawnProcess(
  { log, linkPath, nowMs }: HandsOptions,
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
      PITWARDEN_WORKER_ID: workerId,
      PITWARDEN_POOL: pool.name,
      PITWARDEN_SLOT: String(slot),
      PITWARDEN_APP: pool.app,
    }),
    nowMs,
    onLine: (line) => log.info(line.text, { worker_id: workerId, stream: line.stream }),
    onDropped: (count) =>
      log.warn(`${workerId}: ${count} lines of output dropped: more than a worker may write`, { worker_id: workerId }),
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

function sample(options: HandsOptions, worker: Held | undefined, pssAboveBytes: number): void {
  if (worker === undefined || worker.identity === null) return;
  const { workerId, identity } = worker;
  void measure({ identity, workerId }, pssAboveBytes).then(
    // Nothing is left of it: its exit says more.
    (taken) => taken !== undefined && options.mention({ type: 'sampled', workerId, sample: taken }),
    (error: unknown) => options.log.error(`sample failed: ${messageOf(error)}`, { worker_id: workerId }),
  );
}

async function measure(target: TreeTarget, pssAboveBytes: number): Promise<TreeSample | undefined> {
  const first = await sampleTree(target, { withPss: pssAboveBytes === 0 });
  if (pssAboveBytes === 0 || first === undefined || first.rssBytes < pssAboveBytes) return first;
  return sampleTree(target, { withPss: true });
}

function terminate(worker: Held | undefined): void {
  if (worker?.identity) signalGroup(worker.identity, 'SIGTERM');
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
