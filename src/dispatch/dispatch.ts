import type { ReportedProgress, RequestNote } from '../domain/evidence.ts';
import { withoutLastLines } from '../domain/why-nothing-starts.ts';
import { newCommandStats, noteRun } from './command-stats.ts';
import type { Core, DispatchOptions, Pool, PoolLimits, WorkerResult } from './core.ts';
import { arm, isAfter, newPool, newRequest, nextAtMs, queuesOf } from './core.ts';
import { createDeadlines } from './deadlines.ts';
import { delivery, hasEnded } from './delivery.ts';
import { awaitEnd, dropPayload, endByWorker, endGivenUp, fail, giveUp } from './ends.ts';
import {
  displace,
  onReturned,
  place,
  recallFromStalled,
  release,
  requeue,
  send,
  serveQueue,
  setPaused,
  workerFor,
} from './placing.ts';
import { closedRetryAfterMs, poisonous, refuseAtTheDoor, unknownPool } from './refusals.ts';
import {
  answeredAndKept,
  awaitExpected,
  callerGraceExpired,
  cancel,
  loseKept,
  noLongerExpected,
  onReplayEnd,
  onReplayed,
  reattach,
  repeat,
  settle,
  takeOver,
} from './repeats.ts';
import type { Answers, Ask, Request, RequestError } from './request.ts';
import { code, refusal } from './request.ts';
import { isGivenUp, isRunning, isRunOver, moveRun, run, runEvents } from './run.ts';
import type { DispatchWorker, NewWorker } from './worker.ts';

export type { Outcome, PoolLimits, WorkerResult } from './core.ts';

/** Timers that come so much later than they were set for: the agent itself was stopped, or very busy. */
const lateMs = 200;

export interface PoolGate {
  readonly open: boolean;
  /** Why it is closed; the callers are told. */
  readonly reason: string;
  readonly refuseQueued: boolean;
}

export interface PoolStats {
  readonly queued: number;
  readonly queuedBytes: number;
  readonly inFlight: number;
  /** Requests that the workers there are may run at once. */
  readonly capacity: number;
  readonly completed: number;
  readonly failed: number;
}

export interface WorkerEnd {
  readonly reason: string;
  readonly message: string;
  /** The highest link id that it marked as begun; null: any of its requests may have begun. */
  readonly begunThrough: number | null;
  /** Nobody planned it: a request that it had may be why. */
  readonly crashed: boolean;
}

/** Moves requests to workers and answers back. No I/O and no clock of its own; every operation is O(1). */
export interface Dispatch {
  setPool(pool: string, limits: PoolLimits): void;
  /** A closed pool refuses new requests; those it has are still served, unless they are refused too. */
  setPoolOpen(pool: string, gate: PoolGate): void;
  /** What still waits is refused. */
  removePool(pool: string): void;
  /** A worker from before is to dial in, and may hold requests: until then no named one of its pool is sent to another. */
  expectWorker(pool: string, workerId: string): void;
  /** A new one, or one that has dialled again. */
  addWorker(worker: NewWorker): void;
  pauseWorker(workerId: string): void;
  resumeWorker(workerId: string): void;
  /** It ended. Its requests run again where that is safe, and fail where it is not. */
  removeWorker(workerId: string, end: WorkerEnd): void;
  /** Undefined: it was refused, and `answers.error` has said so. */
  submit(ask: Ask, answers: Answers): Request | undefined;
  /** Its caller wants it no more. `answers` are those given to `submit`: another caller may have it by now. */
  cancel(request: Request, answers: Answers): void;
  /** Its caller's call is over: the caller has read the answer, or may not have. */
  settle(request: Request, answers: Answers, delivered: boolean): void;
  /** An ended request is to be known by its payload's checksum alone. */
  dropPayload(request: Request, answers: Answers): void;
  /** Its caller does not keep up: its worker holds the chunks back until `resume`. */
  pause(request: Request): void;
  resume(request: Request): void;
  /** Ends what is over its deadline; the time of the next call, or infinite. */
  expire(): number;
  onChunk(workerId: string, linkId: number, payload: Buffer, contentType: string): void;
  onResult(workerId: string, linkId: number, result: WorkerResult): void;
  /** It takes no requests any more, and will give back what it is sent. */
  onLeaving(workerId: string): void;
  /** Requests that had not begun, given back after a recall. */
  onReturned(workerId: string, linkIds: readonly number[]): void;
  /** Answers that come now from their beginning. */
  onReplayed(workerId: string, linkIds: readonly number[]): void;
  /** How far the commands of some of its requests are. */
  onProgress(workerId: string, reports: readonly (ReportedProgress & { readonly id: number })[]): void;
  poolStats(pool: string): PoolStats;
  /** Ages of the oldest request that waits and of the oldest that a worker has, in ms; 0: there is none. */
  oldestRequest(pool: string): { readonly queuedMs: number; readonly runningMs: number };
  /** What a worker has, oldest first; for people, not for the path of requests. */
  requestsOf(workerId: string): readonly RequestNote[];
  /** What the oldest of its requests that reports its progress has last reported. */
  progressOf(workerId: string): ReportedProgress | null;
}

export function createDispatch(options: DispatchOptions): Dispatch {
  const core: Core = {
    options,
    pools: new Map(),
    workers: new Map(),
    deadlines: createDeadlines(),
    ahead: new Set(),
    lookAheadAtMs: Number.POSITIVE_INFINITY,
    armedAtMs: Number.POSITIVE_INFINITY,
  };
  return {
    setPool: (name, limits) => {
      const pool = core.pools.get(name);
      if (pool === undefined) core.pools.set(name, newPool(name, limits));
      else {
        pool.limits = limits;
        // What waited for one worker may go to any when sessions are no longer strict.
        serveQueue(core, pool);
      }
    },
    setPoolOpen: (name, gate) => {
      const pool = core.pools.get(name);
      if (pool === undefined) return;
      pool.open = gate.open;
      pool.closedBecause = gate.reason;
      pool.refusesQueued = gate.refuseQueued;
      if (gate.refuseQueued) refuseQueued(core, pool, gate.reason);
    },
    removePool: (name) => removePool(core, name),
    expectWorker: (pool, workerId) => void core.pools.get(pool)?.expected.add(workerId),
    addWorker: (worker) => addWorker(core, worker),
    pauseWorker: (workerId) => pauseWorker(core, workerId),
    resumeWorker: (workerId) => resumeWorker(core, workerId),
    removeWorker: (workerId, end) => removeWorker(core, workerId, end),
    submit: (ask, answers) => submit(core, ask, answers),
    cancel: (request, answers) => cancel(core, request, answers),
    settle: (request, answers, delivered) => settle(core, request, answers, delivered),
    dropPayload: (request, answers) => {
      if (request.currentSink === answers && hasEnded(request)) dropPayload(core, request);
    },
    pause: (request) => setPaused(core, request, true),
    resume: (request) => setPaused(core, request, false),
    expire: () => expire(core),
    onChunk: (workerId, linkId, payload, contentType) => onChunk(core, workerId, linkId, payload, contentType),
    onResult: (workerId, linkId, result) => onResult(core, workerId, linkId, result),
    onLeaving: (workerId) => onLeaving(core, workerId),
    onReturned: (workerId, linkIds) => onReturned(core, workerId, linkIds),
    onReplayed: (workerId, linkIds) => onReplayed(core, workerId, linkIds),
    onProgress: (workerId, reports) => {
      const worker = core.workers.get(workerId);
      if (worker === undefined) return;
      worker.counters.lastEvidenceAtMs = options.nowMs();
      for (const { id, fraction, message } of reports) {
        const request = worker.running.get(id);
        if (request === undefined) continue;
        request.progress = { fraction, message };
        moveRun(request, runEvents.begun);
        if (isRunning(request)) request.currentSink?.progress?.(request.progress);
      }
    },
    poolStats: (name) => statsOf(core.pools.get(name)),
    oldestRequest: (name) => oldestOf(core.pools.get(name), options.nowMs()),
    requestsOf: (workerId) =>
      [...(core.workers.get(workerId)?.running.values() ?? [])].map((request) => ({
        command: request.command,
        requestId: request.requestId,
        ageMs: options.nowMs() - request.sentAtMs,
        cancelled: isGivenUp(request),
        progress: request.progress,
      })),
    progressOf: (workerId) => {
      for (const { progress } of core.workers.get(workerId)?.running.values() ?? []) {
        if (progress !== null) return progress;
      }
      return null;
    },
  };
}

function submit(core: Core, ask: Ask, answers: Answers): Request | undefined {
  const arrivedAtMs = core.options.nowMs();
  const pool = core.pools.get(ask.pool);
  const known = ask.named ? pool?.named.get(ask.requestId) : undefined;
  if (pool !== undefined && known !== undefined) return repeat(core, pool, known, ask, answers);
  const refused = pool === undefined ? unknownPool(core, ask) : refuseAtTheDoor(core, pool, ask, arrivedAtMs);
  if (pool === undefined || refused !== undefined) {
    answers.error(refused ?? unknownPool(core, ask));
    // A pool that does not exist is no label of a metric: names that callers make up would grow it without bound.
    if (pool !== undefined && refused !== undefined) {
      core.options.onOutcome({ pool: pool.name, code: refused.code, refused: true, queuedMs: 0, ranMs: 0 });
    }
    return undefined;
  }
  const request = newRequest(ask, answers, arrivedAtMs, pool.limits.requestTimeoutMs);
  core.deadlines.add(request, request.deadlineMs);
  arm(core);
  if (ask.named) {
    pool.named.set(ask.requestId, request);
    if (pool.expected.size > 0) {
      awaitExpected(pool, request);
      return request;
    }
  }
  const worker = pool.queue.length === 0 ? workerFor(pool, ask) : null;
  if (worker !== null) {
    send(core, pool, worker, request);
  } else {
    moveRun(request, runEvents.admitted);
    pool.queue.push(request);
    serveQueue(core, pool);
  }
  return request;
}

function expire(core: Core): number {
  const nowMs = core.options.nowMs();
  // An agent that was held up has not yet read what its workers said meanwhile.
  const isLate = nowMs - core.armedAtMs > lateMs;
  for (const request of core.deadlines.take(nowMs)) {
    if (request.run === run.cancelled && isLate) core.deadlines.add(request, nowMs + lateMs);
    else if (request.run === run.cancelled) stillRuns(core, request, nowMs);
    else if (request.delivery === delivery.detached) callerGraceExpired(core, request);
    else giveUp(core, request, refusal(code.deadlineExceeded, deadlineMessage(core, request)));
  }
  recallFromStalled(core, nowMs);
  core.armedAtMs = nextAtMs(core);
  return core.armedAtMs;
}

/** Its worker was told that nobody waits for it any more, and has had time to say that it ended. */
function stillRuns(core: Core, request: Request, nowMs: number): void {
  const worker = core.workers.get(request.workerId);
  if (worker === undefined) return;
  if (isAfter(request.linkId, worker.begunThrough())) {
    // Not this one keeps the worker from answering: it has not begun.
    return awaitEnd(core, request);
  }
  moveRun(request, runEvents.overdue);
  const overMs = Math.round(nowMs - request.deadlineMs);
  const message = `request ${request.requestId} (${request.command}) still runs ${overMs} ms after its deadline`;
  core.options.onOverdue(worker.workerId, message);
}

function deadlineMessage(core: Core, request: Request): string {
  const tookMs = Math.round(core.options.nowMs() - request.arrivedAtMs);
  if (isRunning(request))
    return `the deadline passed while ${request.command} ran, ${tookMs} ms after the request came`;
  const none = core.pools.get(request.pool)?.workers.size === 0 ? ', which has no ready worker' : '';
  return `the deadline passed after ${tookMs} ms in the queue of pool ${request.pool}${none}`;
}

function addWorker(core: Core, next: NewWorker): void {
  const { resumed, paused, ...options } = next;
  const pool = core.pools.get(options.pool);
  if (pool === undefined) return;
  const known = core.workers.get(options.workerId);
  if (known !== undefined) return reattach(core, pool, known, next);
  const worker: DispatchWorker = {
    ...options,
    running: new Map(),
    kept: new Map(),
    paused,
    leaving: false,
    nextLinkId: 0,
    payloadBytes: 0,
    expectedMs: 0,
    lastAnswerAtMs: 0,
    stalled: false,
    freeAt: -1,
    nextFree: null,
    previousFree: null,
  };
  core.workers.set(worker.workerId, worker);
  pool.workers.add(worker);
  pool.capacity += worker.concurrency;
  for (const command of worker.commands.keys()) {
    const stats = pool.commands.get(command) ?? newCommandStats();
    stats.workers += 1;
    pool.commands.set(command, stats);
  }
  if (resumed !== null) takeOver(core, pool, worker, resumed);
  place(pool, worker);
  noLongerExpected(core, pool, worker.workerId);
  serveQueue(core, pool);
}

function pauseWorker(core: Core, workerId: string): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined || worker.paused) return;
  displace(pool, worker);
  worker.paused = true;
  if (worker.counters.inFlight === 0) core.options.onIdle(workerId);
  // Its sessions are anybody's now.
  serveQueue(core, pool);
}

function resumeWorker(core: Core, workerId: string): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined || !worker.paused) return;
  worker.paused = false;
  place(pool, worker);
  serveQueue(core, pool);
}

function removeWorker(core: Core, workerId: string, ending: WorkerEnd): void {
  for (const pool of core.pools.values()) noLongerExpected(core, pool, workerId);
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined) return;
  core.workers.delete(workerId);
  core.ahead.delete(worker);
  pool.workers.delete(worker);
  displace(pool, worker);
  pool.capacity -= worker.concurrency;
  pool.inFlight -= worker.counters.inFlight;
  worker.counters.inFlight = 0;
  for (const command of worker.commands.keys()) {
    const stats = pool.commands.get(command);
    if (stats === undefined) continue;
    stats.workers -= 1;
    if (stats.workers === 0) pool.commands.delete(command);
  }
  const unwritten = worker.link.unwritten();
  const again: Request[] = [];
  for (const [linkId, request] of worker.running) {
    if (request.run === run.cancelled) core.deadlines.remove(request);
    if (isGivenUp(request)) {
      endGivenUp(request, runEvents.workerLost);
      continue;
    }
    // What began may have done its work: at most once, unless the caller says that it may run again.
    const neverBegan = unwritten.has(linkId) || isAfter(linkId, ending.begunThrough);
    if (neverBegan) request.attempts -= 1;
    const crashes = neverBegan || !ending.crashed ? 0 : suspect(core, pool, request);
    if (crashes > 0) fail(core, request, poisonous(request.command, crashes));
    else if (neverBegan || (request.idempotent && request.attempts < pool.limits.maxAttempts)) again.push(request);
    else fail(core, request, workerEnded(worker.workerId, ending));
  }
  worker.running.clear();
  for (const request of worker.kept.values()) loseKept(core, pool, request, workerEnded(workerId, ending));
  worker.kept.clear();
  worker.counters.kept = 0;
  requeue(core, pool, again);
  serveQueue(core, pool);
}

/** It was running when its worker crashed. How often it did, if that is too often; else 0. */
function suspect(core: Core, pool: Pool, request: Request): number {
  const fingerprint = core.options.fingerprint(request);
  const nowMs = core.options.nowMs();
  if (!pool.poison.crashed(fingerprint, nowMs)) return 0;
  const crashes = pool.poison.crashesOf(fingerprint, nowMs);
  const which = `request ${request.requestId} (${request.command}, ${request.payloadBytes} bytes)`;
  core.options.onPoisoned(pool.name, `${which} was running in ${crashes} workers that crashed: refused from now on`);
  return crashes;
}

function onLeaving(core: Core, workerId: string): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined) return;
  displace(pool, worker);
  worker.leaving = true;
  serveQueue(core, pool);
}

function workerEnded(workerId: string, ending: WorkerEnd): RequestError {
  const how = withoutLastLines(ending.message);
  return refusal(code.unavailable, `worker ${workerId} ended (${ending.reason}) while it had the request: ${how}`, {
    workerId,
    exitReason: ending.reason,
    mayHaveBegun: true,
  });
}

function removePool(core: Core, name: string): void {
  const pool = core.pools.get(name);
  if (pool === undefined) return;
  refuseQueued(core, pool, pool.closedBecause || `pool ${name} is removed`);
  core.pools.delete(name);
}

function refuseQueued(core: Core, pool: Pool, why: string): void {
  for (const queue of queuesOf(pool)) {
    for (let request = queue.first(); request !== null; request = queue.first()) {
      fail(core, request, refusal(code.unavailable, why, { retryAfterMs: closedRetryAfterMs }));
    }
  }
}

function onChunk(core: Core, workerId: string, linkId: number, payload: Buffer, contentType: string): void {
  const worker = core.workers.get(workerId);
  const request = worker?.running.get(linkId) ?? worker?.kept.get(linkId);
  if (worker === undefined || request === undefined) return;
  worker.counters.lastEvidenceAtMs = core.options.nowMs();
  if (hasEnded(request) || request.pendingReplays > 0) return;
  moveRun(request, runEvents.begun);
  request.mayHaveEmitted = true;
  if (request.chunksToSkip > 0) {
    request.chunksToSkip -= 1;
    return;
  }
  request.chunksDelivered += 1;
  request.currentSink?.chunk(payload, contentType, workerId);
}

function onResult(core: Core, workerId: string, linkId: number, result: WorkerResult): void {
  const worker = core.workers.get(workerId);
  if (worker === undefined) return;
  const request = worker.running.get(linkId);
  if (request === undefined) return onReplayEnd(core, worker, linkId, result);
  const pool = core.pools.get(worker.pool);
  if (pool === undefined) return;
  const { counters } = worker;
  release(core, pool, worker, request);
  const nowMs = core.options.nowMs();
  counters.lastEvidenceAtMs = nowMs;
  worker.lastAnswerAtMs = nowMs;
  // While more waits in it than it may run, what was asked back is still on its way.
  if (counters.inFlight <= worker.concurrency) worker.stalled = false;
  if (result.ran_us > 0 && pool.poison.suspects && !isRunOver(request)) {
    pool.poison.answered(core.options.fingerprint(request));
  }
  if (result.ran_us > 0) noteRun(pool.commands.get(request.command), result.ran_us / 1000);
  if (result.error === null) {
    counters.completed += 1;
    pool.completed += 1;
  } else {
    counters.failed += 1;
    pool.failed += 1;
  }
  // Of equals the one that answered last is first: its caches are warm, which halves the time of a lone request. Unless
  // it failed: one that has lost its database, and fails quickly, must not draw all requests to itself.
  const { error } = result;
  place(pool, worker, error === null ? 'first' : 'last');
  pool.rate.answered(nowMs, pool.queue.length);
  if (isGivenUp(request)) {
    endGivenUp(request, runEvents.answered);
    // Nobody will ask for it.
    if (request.named) worker.link.ack(linkId);
  } else if (request.named) {
    answeredAndKept(core, worker, request, result);
  } else {
    moveRun(request, runEvents.answered);
    endByWorker(core, request, result, false);
  }
  if (worker.paused && counters.inFlight === 0) core.options.onIdle(workerId);
  if (worker.maxRequests > 0 && counters.completed + counters.failed === worker.maxRequests) {
    core.options.onBudgetSpent(workerId);
  }
  if (pool.queue.length > 0 || pool.parked.size > 0) serveQueue(core, pool);
}

function statsOf(pool: Pool | undefined): PoolStats {
  if (pool === undefined) return { queued: 0, queuedBytes: 0, inFlight: 0, capacity: 0, completed: 0, failed: 0 };
  const { load, inFlight, capacity, completed, failed } = pool;
  return { queued: load.requests, queuedBytes: load.bytes, inFlight, capacity, completed, failed };
}

/** By the first of each worker: they stand in the order in which they were sent. */
function oldestOf(pool: Pool | undefined, nowMs: number): { queuedMs: number; runningMs: number } {
  let queuedAtMs = nowMs;
  let sentAtMs = nowMs;
  for (const queue of pool === undefined ? [] : queuesOf(pool)) {
    queuedAtMs = Math.min(queuedAtMs, queue.first()?.arrivedAtMs ?? nowMs);
  }
  for (const { running } of pool?.workers ?? []) {
    const [first] = running.values();
    if (first !== undefined) sentAtMs = Math.min(sentAtMs, first.sentAtMs);
  }
  return { queuedMs: nowMs - queuedAtMs, runningMs: nowMs - sentAtMs };
}
