import type { RequestNote } from '../domain/evidence.ts';
import type { Affinity } from './affinity.ts';
import { createAffinity } from './affinity.ts';
import type { CommandStats } from './command-stats.ts';
import { mayPrefetch, newCommandStats, noteRun, prefetchMax, prefetchMaxBytes } from './command-stats.ts';
import type { Deadlines } from './deadlines.ts';
import { createDeadlines } from './deadlines.ts';
import type { FreeWorkers } from './free-workers.ts';
import { createFreeWorkers } from './free-workers.ts';
import type { Poison, PoisonLimits } from './poison.ts';
import { createPoison } from './poison.ts';
import type { Queue } from './queue.ts';
import { createQueue } from './queue.ts';
import type { ServiceRate } from './rate.ts';
import { createServiceRate } from './rate.ts';
import type { Answers, Ask, Request, RequestError } from './request.ts';
import { code, refusal } from './request.ts';
import type { DispatchWorker, HeldRequest, NewWorker, RequestLink, Resumed } from './worker.ts';

/** Queued requests that are looked at for a worker that cannot run the first of them. */
const skippedMax = 64;
/** Advice to a refused caller stays within this. */
const retryAfterMs = { least: 50, most: 30_000, unknown: 250 } as const;
/** A worker that has answered nothing for so long is asked for what waits in it. */
const recallAfterMs = 10;
const nothing = Buffer.alloc(0);
const nobody: Answers = { chunk: () => undefined, result: () => 0, error: () => undefined };
/** Weight of the newest request in the average run time: about the last ten count. */
const averageWeight = 0.1;

export interface PoolLimits {
  readonly maxQueuedRequests: number;
  readonly maxQueuedBytes: number;
  readonly requestTimeoutMs: number;
  /** How often an idempotent request may be sent. */
  readonly maxAttempts: number;
  /** How long a worker may go on with a request whose deadline passed; 0: for ever. */
  readonly killAfterMs: number;
  readonly poison: PoisonLimits;
  /** Whether requests of one session go to one worker: where it has a place (`hint`), or as long as it lives (`strict`). */
  readonly affinity: 'off' | 'hint' | 'strict';
  /** How long a named request goes on without its caller, and its answer is kept. */
  readonly keepMs: number;
}

/** How one request ended, for the metrics. */
export interface Outcome {
  readonly pool: string;
  /** gRPC status code; 0: it was answered. */
  readonly code: number;
  readonly queuedMs: number;
  /** 0: it never ran. */
  readonly ranMs: number;
}

export interface PoolGate {
  readonly open: boolean;
  /** Why it is closed; the callers are told. */
  readonly reason: string;
  readonly refuseQueued: boolean;
}

export interface DispatchOptions {
  nowMs(): number;
  /** A worker that takes no new requests has none left. */
  onIdle(workerId: string): void;
  /** A worker has ended as many requests as it was given. */
  onBudgetSpent(workerId: string): void;
  onOutcome(outcome: Outcome): void;
  /** A worker was told long ago that a request's deadline had passed, and still runs it. */
  onOverdue(workerId: string, message: string): void;
  /** A request is refused from now on, for the workers that it crashed. */
  onPoisoned(pool: string, message: string): void;
  /** CRC-32 of a payload, as zlib makes it. */
  checksum(payload: Buffer): number;
  /** The same for requests of one pool that ask the same. */
  fingerprint(request: Pick<Ask, 'command' | 'payload'>): string;
  /** `expire` wants to be called then, and no earlier time was asked for. */
  onDeadline(atMs: number): void;
}

export interface PoolStats {
  readonly queued: number;
  readonly queuedBytes: number;
  readonly inFlight: number;
  readonly completed: number;
  readonly failed: number;
}

/** What a worker says at the end of a request; null: no error. */
export interface WorkerResult {
  readonly payload: Buffer;
  readonly content_type: string;
  readonly error: WorkerError | null;
  /** Microseconds that it ran; 0: unknown, or it never began. */
  readonly ran_us: number;
}

export interface WorkerEnd {
  readonly reason: string;
  readonly message: string;
  /** The highest link id that it marked as begun; null: any of its requests may have begun. */
  readonly begunThrough: number | null;
  /** Nobody planned it: a request that it had may be why. */
  readonly crashed: boolean;
}

export interface WorkerError {
  readonly code: number;
  readonly type: string;
  readonly message: string;
  readonly traceback: string;
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
  /** Its caller's call is over: with the answer in its hands, or by a connection that broke. */
  settle(request: Request, answers: Answers, delivered: boolean): void;
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
  onProgress(workerId: string): void;
  poolStats(pool: string): PoolStats;
  /** What a worker has, oldest first; for people, not for the path of requests. */
  requestsOf(workerId: string): readonly RequestNote[];
}

interface Pool {
  readonly name: string;
  limits: PoolLimits;
  open: boolean;
  closedBecause: string;
  readonly queue: Queue;
  /** Named requests by id, from their arrival until their callers have the answers or nobody asks any more. */
  readonly named: Map<string, Request>;
  /** Named requests that one of `expected` may hold. */
  readonly waiting: Queue;
  /** Workers from before that have not dialled in. */
  readonly expected: Set<string>;
  /** Those with a place for a request that begins at once. */
  readonly free: FreeWorkers;
  /** Those without, that may be sent short requests ahead. */
  readonly full: FreeWorkers;
  readonly workers: Set<DispatchWorker>;
  /** Of each command that one of its workers offers. */
  readonly commands: Map<string, CommandStats>;
  capacity: number;
  inFlight: number;
  completed: number;
  failed: number;
  /** 0: nothing ran yet. */
  averageRunMs: number;
  readonly rate: ServiceRate;
  readonly poison: Poison;
  readonly affinity: Affinity;
}

interface Core {
  readonly options: DispatchOptions;
  readonly pools: Map<string, Pool>;
  readonly workers: Map<string, DispatchWorker>;
  readonly deadlines: Deadlines;
  /** Workers with more requests than they may run at once. */
  readonly ahead: Set<DispatchWorker>;
  /** When to look at those; infinite: there were none lately. */
  lookAheadAtMs: number;
  armedAtMs: number;
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
      else pool.limits = limits;
    },
    setPoolOpen: (name, gate) => {
      const pool = core.pools.get(name);
      if (pool === undefined) return;
      pool.open = gate.open;
      pool.closedBecause = gate.reason;
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
    pause: (request) => setPaused(core, request, true),
    resume: (request) => setPaused(core, request, false),
    expire: () => expire(core),
    onChunk: (workerId, linkId, payload, contentType) => onChunk(core, workerId, linkId, payload, contentType),
    onResult: (workerId, linkId, result) => onResult(core, workerId, linkId, result),
    onLeaving: (workerId) => onLeaving(core, workerId),
    onReturned: (workerId, linkIds) => onReturned(core, workerId, linkIds),
    onReplayed: (workerId, linkIds) => onReplayed(core, workerId, linkIds),
    onProgress: (workerId) => {
      const worker = core.workers.get(workerId);
      if (worker !== undefined) worker.counters.lastEvidenceAtMs = options.nowMs();
    },
    poolStats: (name) => statsOf(core.pools.get(name)),
    requestsOf: (workerId) =>
      [...(core.workers.get(workerId)?.running.values() ?? [])].map((request) => ({
        command: request.command,
        requestId: request.requestId,
        ageMs: options.nowMs() - request.sentAtMs,
        cancelled: request.state === 'ended',
      })),
  };
}

function newPool(name: string, limits: PoolLimits): Pool {
  const pool: Pool = {
    name,
    limits,
    open: true,
    closedBecause: '',
    queue: createQueue(),
    named: new Map(),
    waiting: createQueue(),
    expected: new Set(),
    free: createFreeWorkers(),
    full: createFreeWorkers(),
    workers: new Set(),
    commands: new Map(),
    capacity: 0,
    inFlight: 0,
    completed: 0,
    failed: 0,
    averageRunMs: 0,
    rate: createServiceRate(),
    poison: createPoison(() => pool.limits.poison),
    affinity: createAffinity(),
  };
  return pool;
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
      core.options.onOutcome({ pool: pool.name, code: refused.code, queuedMs: 0, ranMs: 0 });
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
    request.state = 'queued';
    request.payload = compact(request.payload);
    pool.queue.push(request);
    serveQueue(core, pool);
  }
  return request;
}

/** A view of a small part keeps the whole message alive for as long as it waits. */
function compact(payload: Buffer): Buffer {
  return payload.length * 4 < payload.buffer.byteLength ? Buffer.from(payload) : payload;
}

function newRequest(ask: Ask, answers: Answers, arrivedAtMs: number, timeoutMs: number): Request {
  return {
    pool: ask.pool,
    command: ask.command,
    payload: ask.payload,
    payloadBytes: ask.payload.length,
    contentType: ask.contentType,
    requestId: ask.requestId,
    named: ask.named,
    sessionId: ask.sessionId,
    idempotent: ask.idempotent,
    streams: ask.streams,
    deadlineMs: Number.isFinite(ask.deadlineMs) ? ask.deadlineMs : arrivedAtMs + timeoutMs,
    answers,
    arrivedAtMs,
    state: 'moving',
    sentAtMs: 0,
    attempts: 0,
    workerId: '',
    linkId: 0,
    overdue: false,
    paused: false,
    expectedMs: 0,
    caller: answers,
    waits: false,
    answered: false,
    endError: null,
    behind: false,
    awaitsReplays: 0,
    bareCrc32: null,
    nextQueued: null,
    previousQueued: null,
    deadlineTick: -1,
    nextDue: null,
    previousDue: null,
  };
}

function unknownPool(core: Core, ask: Ask): RequestError {
  const names = [...core.pools.keys()].sort().join(', ') || 'none';
  return refusal(code.notFound, `pool: expected one of this node's pools (${names}), got "${ask.pool}"`);
}

function refuseAtTheDoor(core: Core, pool: Pool, ask: Ask, nowMs: number): RequestError | undefined {
  if (!pool.open) return refusal(code.unavailable, pool.closedBecause, { retryAfterMs: 1_000 });
  if (pool.workers.size > 0 && !pool.commands.has(ask.command)) return unknownCommand(pool, ask.command);
  if (ask.deadlineMs <= nowMs) return refusal(code.deadlineExceeded, 'the deadline passed before the request arrived');
  if (pool.poison.any) {
    const crashes = pool.poison.crashesOf(core.options.fingerprint(ask), nowMs);
    if (crashes > 0) return poisonous(ask.command, crashes);
  }
  if (pool.queue.length === 0 && pool.free.size > 0 && pool.expected.size === 0) return undefined;
  const { maxQueuedRequests, maxQueuedBytes } = pool.limits;
  if (pool.queue.length + pool.waiting.length >= maxQueuedRequests) {
    return queueFull(pool, `queue.max_requests: expected at most ${maxQueuedRequests} requests waiting`);
  }
  const would = pool.queue.bytes + pool.waiting.bytes + ask.payload.length;
  if (would > maxQueuedBytes) {
    return queueFull(pool, `queue.max_bytes: expected at most ${maxQueuedBytes} bytes waiting, got ${would}`);
  }
  return refuseTooLate(pool, ask, nowMs);
}

/** What cannot be served before its deadline would only be in the way of what can. */
function refuseTooLate(pool: Pool, ask: Ask, nowMs: number): RequestError | undefined {
  const waitMs = pool.queue.length === 0 ? 0 : pool.rate.expectedMs(pool.queue.length + 1);
  const leftMs = Number.isFinite(ask.deadlineMs) ? ask.deadlineMs - nowMs : pool.limits.requestTimeoutMs;
  if (waitMs <= leftMs) return undefined;
  const ahead = `${pool.queue.length} requests wait in the queue of pool ${pool.name}`;
  const message = `${ahead}: expected a deadline of at least ${Math.ceil(waitMs)} ms, got ${Math.floor(leftMs)} ms`;
  return refusal(code.resourceExhausted, message, { retryAfterMs: advise(waitMs - leftMs) });
}

function poisonous(command: string, crashes: number): RequestError {
  const message = `this request to ${command} was running in ${crashes} workers that crashed: it is refused for a while`;
  return refusal(code.failedPrecondition, message);
}

function advise(waitMs: number): number {
  return Math.min(retryAfterMs.most, Math.max(retryAfterMs.least, Math.ceil(waitMs)));
}

function queueFull(pool: Pool, message: string): RequestError {
  const waitMs = (pool.averageRunMs * (pool.queue.length + 1)) / Math.max(1, pool.capacity);
  const advised = pool.averageRunMs === 0 ? retryAfterMs.unknown : waitMs;
  return refusal(code.resourceExhausted, `the queue of pool ${pool.name} is full: ${message}`, {
    retryAfterMs: advise(advised),
  });
}

function unknownCommand(pool: Pool, command: string): RequestError {
  const names = [...pool.commands.keys()].sort().join(', ') || 'none';
  return refusal(
    code.notFound,
    `command: expected one that pool ${pool.name} offers (${names.slice(0, 500)}), got "${command}"`,
  );
}

/** Gives waiting requests to workers, first come first served. */
function serveQueue(core: Core, pool: Pool): void {
  let skipped = 0;
  for (let request = pool.queue.first(); request !== null && skipped < skippedMax; ) {
    const next: Request | null = request.nextQueued;
    const worker = workerFor(pool, request);
    if (worker !== null) {
      pool.queue.remove(request);
      request.state = 'moving';
      send(core, pool, worker, request);
    } else if (!pool.commands.has(request.command)) {
      if (pool.workers.size === 0) return;
      end(core, request, unknownCommand(pool, request.command));
    } else if (pool.free.size > 0) {
      skipped += 1;
    } else {
      return;
    }
    request = next;
  }
}

/** One with a place for it, or else one where it need not wait for long. */
function workerFor(pool: Pool, ask: Pick<Ask, 'command' | 'payload' | 'sessionId'>): DispatchWorker | null {
  const { command, payload } = ask;
  const own = ask.sessionId === '' || pool.limits.affinity === 'off' ? null : sessionsWorker(pool, ask);
  if (own !== null && own.counters.inFlight < own.concurrency) return own;
  if (own !== null && pool.limits.affinity === 'strict') return null;
  if (pool.free.size > 0) return freeWorkerFor(pool, command);
  const stats = pool.commands.get(command);
  const worker = pool.full.first();
  if (worker === null || stats === undefined || !mayPrefetch(stats, worker.expectedMs)) return null;
  if (worker.payloadBytes + payload.length > prefetchMaxBytes) return null;
  return worker.commands.get(command)?.isAsync === false ? worker : null;
}

/** The worker that has the session, while it takes requests. */
function sessionsWorker(pool: Pool, { command, sessionId }: Pick<Ask, 'command' | 'sessionId'>): DispatchWorker | null {
  const worker = pool.affinity.workerOf(sessionId);
  if (worker === undefined) return null;
  if (pool.workers.has(worker) && !worker.paused && !worker.leaving && worker.commands.has(command)) return worker;
  pool.affinity.forget(sessionId);
  return null;
}

/** Workers of one pool nearly always offer the same; they differ while a new version of the application comes in. */
function freeWorkerFor(pool: Pool, command: string): DispatchWorker | null {
  const first = pool.free.first();
  if (first === null || first.commands.has(command)) return first;
  for (const worker of pool.free.all()) if (worker.commands.has(command)) return worker;
  return null;
}

/** Puts a worker where `workerFor` finds it, by what it has now; of equals, behind those that wait there already. */
function place(pool: Pool, worker: DispatchWorker, where: 'first' | 'last' = 'last'): void {
  const { inFlight } = worker.counters;
  if (worker.paused || worker.leaving) return;
  if (inFlight < worker.concurrency) pool.free.add(worker, where);
  else if (worker.marksBegun && !worker.stalled && inFlight < worker.concurrency + prefetchMax) {
    pool.full.add(worker, where);
  }
}

function displace(pool: Pool, worker: DispatchWorker): void {
  // Each forgets only what it has.
  if (worker.counters.inFlight < worker.concurrency) pool.free.remove(worker);
  else pool.full.remove(worker);
}

function send(core: Core, pool: Pool, worker: DispatchWorker, request: Request): void {
  if (worker.commands.get(request.command)?.streams === true && !request.streams) {
    const message = `command ${request.command} streams its results: expected ExecuteStream or Submit, got Execute`;
    return end(core, request, refusal(code.invalidArgument, message));
  }
  const nowMs = core.options.nowMs();
  const linkId = newLinkId(worker);
  const { counters } = worker;
  request.state = 'sent';
  request.sentAtMs = nowMs;
  request.attempts += 1;
  request.workerId = worker.workerId;
  request.linkId = linkId;
  request.expectedMs = pool.commands.get(request.command)?.expectedMs ?? 0;
  if (pool.limits.affinity !== 'off' && request.sessionId !== '') pool.affinity.remember(request.sessionId, worker);
  displace(pool, worker);
  worker.running.set(linkId, request);
  worker.expectedMs += request.expectedMs;
  worker.payloadBytes += request.payloadBytes;
  counters.inFlight += 1;
  pool.inFlight += 1;
  place(pool, worker);
  if (counters.inFlight > worker.concurrency) watch(core, worker, nowMs);
  worker.link.request({
    id: linkId,
    command: request.command,
    payload: request.payload,
    content_type: request.contentType,
    request_id: request.requestId,
    session_id: request.sessionId,
    timeout_ms: Math.min(0xffff_ffff, Math.max(1, Math.ceil(request.deadlineMs - nowMs))),
    keep: request.named,
  });
  if (request.paused) worker.link.pause(linkId);
}

function setPaused(core: Core, request: Request, paused: boolean): void {
  if (request.paused === paused) return;
  request.paused = paused;
  if (request.state !== 'sent') return;
  const link = core.workers.get(request.workerId)?.link;
  if (paused) link?.pause(request.linkId);
  else link?.resume(request.linkId);
}

/** The id grows by 1 and wraps: `begunThrough` compares ids of one link by their distance. */
function newLinkId(worker: DispatchWorker): number {
  do worker.nextLinkId = (worker.nextLinkId + 1) >>> 0;
  while (worker.running.has(worker.nextLinkId));
  return worker.nextLinkId;
}

/** Takes an answered or returned request from its worker. */
function release(core: Core, pool: Pool, worker: DispatchWorker, request: Request): void {
  const { counters } = worker;
  displace(pool, worker);
  worker.running.delete(request.linkId);
  counters.inFlight -= 1;
  pool.inFlight -= 1;
  worker.payloadBytes -= request.payloadBytes;
  if (request.overdue) core.deadlines.remove(request);
  request.overdue = false;
  // The sum of many fractions drifts: nothing is exactly nothing.
  worker.expectedMs = counters.inFlight === 0 ? 0 : worker.expectedMs - request.expectedMs;
  if (counters.inFlight <= worker.concurrency) core.ahead.delete(worker);
}

/** A worker has more than it may run: if it gets stuck, the rest is asked back. */
function watch(core: Core, worker: DispatchWorker, nowMs: number): void {
  if (core.ahead.has(worker)) return;
  core.ahead.add(worker);
  worker.lastAnswerAtMs = Math.max(worker.lastAnswerAtMs, nowMs);
  if (Number.isFinite(core.lookAheadAtMs)) return;
  core.lookAheadAtMs = nowMs + recallAfterMs;
  arm(core);
}

function recallFromStalled(core: Core, nowMs: number): void {
  if (nowMs < core.lookAheadAtMs) return;
  for (const worker of core.ahead) {
    if (worker.stalled || nowMs - worker.lastAnswerAtMs < recallAfterMs) continue;
    const pool = core.pools.get(worker.pool);
    if (pool !== undefined) displace(pool, worker);
    worker.stalled = true;
    const unwritten = worker.link.recall();
    if (unwritten.length > 0) onReturned(core, worker.workerId, unwritten);
  }
  core.lookAheadAtMs = core.ahead.size > 0 ? nowMs + recallAfterMs : Number.POSITIVE_INFINITY;
}

/** The one end of a request: a result when there is no error. */
function end(core: Core, request: Request, error: RequestError | null, result?: WorkerResult): void {
  if (request.state === 'ended') return;
  const pool = core.pools.get(request.pool);
  if (request.state === 'queued') (request.waits ? pool?.waiting : pool?.queue)?.remove(request);
  request.state = 'ended';
  core.deadlines.remove(request);
  const nowMs = core.options.nowMs();
  const sent = request.sentAtMs > 0;
  const ranMs = sent ? nowMs - request.sentAtMs : 0;
  if (pool !== undefined && result !== undefined) {
    pool.averageRunMs =
      pool.averageRunMs === 0 ? ranMs : pool.averageRunMs * (1 - averageWeight) + ranMs * averageWeight;
  }
  const told = error?.code ?? (result === undefined ? 0 : hand(request, result));
  if (error !== null) request.answers.error(error);
  letGo(request);
  if (request.named) keepAnswer(core, pool, request, error);
  core.options.onOutcome({
    pool: request.pool,
    code: told,
    queuedMs: (sent ? request.sentAtMs : nowMs) - request.arrivedAtMs,
    ranMs,
  });
}

/** One that was cancelled keeps its place until its worker answers, but not what its caller's call hangs from. */
function letGo(request: Request): void {
  request.answers = nobody;
  // By that of a named one a caller that asks again is known, until it has the answer.
  if (!request.named) request.payload = nothing;
}

function hand(request: Request, result: WorkerResult): number {
  return request.answers.result(result.payload, result.content_type, request.workerId);
}

/** Ends a request for its caller; a worker that has it is told, and keeps the place until it answers. */
function giveUp(core: Core, request: Request, error: RequestError): void {
  if (request.state === 'ended') return;
  const sent = request.state === 'sent';
  if (sent) core.workers.get(request.workerId)?.link.cancel(request.linkId);
  end(core, request, { ...error, workerId: request.workerId });
  if (sent) awaitEnd(core, request);
}

/** Its caller said so: nobody will ask for it again. */
function cancel(core: Core, request: Request, answers: Answers): void {
  if (request.caller !== answers) return;
  giveUp(core, request, refusal(code.cancelled, 'the caller cancelled the request'));
  forgetNamed(core, request);
}

/**
 * The caller's call is over. One that has its answer will not ask again. One whose connection broke may: a request that it
 * named goes on for a while, or its answer is kept.
 */
function settle(core: Core, request: Request, answers: Answers, delivered: boolean): void {
  if (request.caller !== answers) return;
  if (!request.named) {
    if (request.state !== 'ended') giveUp(core, request, refusal(code.cancelled, 'the caller has gone'));
    return;
  }
  // One that was given up at its deadline is of no use to anybody.
  if (request.state === 'ended' && (delivered || request.overdue)) return forgetNamed(core, request);
  abandon(core, request);
}

/** Nobody is there for it: it goes on for a while, or its answer is kept. */
function abandon(core: Core, request: Request): void {
  request.caller = null;
  request.answers = nobody;
  if (request.state === 'replaying') request.state = 'ended';
  if (request.state === 'ended') bare(core, request);
  // What it did not read of a stream is wanted by nobody now.
  setPaused(core, request, false);
  const keepUntilMs = core.options.nowMs() + (core.pools.get(request.pool)?.limits.keepMs ?? 0);
  core.deadlines.remove(request);
  core.deadlines.add(request, request.state === 'ended' ? keepUntilMs : Math.min(request.deadlineMs, keepUntilMs));
  arm(core);
  const worker = core.workers.get(request.workerId);
  if (request.state === 'ended' && request.answered && worker !== undefined) keepIn(worker, request);
}

/** Of a payload that is not needed any more a checksum is kept, to know the request by. */
function bare(core: Core, request: Request): void {
  request.bareCrc32 ??= core.options.checksum(request.payload);
  request.payload = nothing;
}

/** An ended request whose caller is not there: how it ended is kept for when it asks again. */
function keepAnswer(core: Core, pool: Pool | undefined, request: Request, error: RequestError | null): void {
  request.endError = error;
  if (request.caller !== null || pool?.named.get(request.requestId) !== request) return;
  bare(core, request);
  const worker = core.workers.get(request.workerId);
  if (request.answered && worker !== undefined) keepIn(worker, request);
  core.deadlines.add(request, core.options.nowMs() + pool.limits.keepMs);
  arm(core);
}

function keepIn(worker: DispatchWorker, request: Request): void {
  worker.kept.set(request.linkId, request);
  worker.counters.kept = worker.kept.size;
}

/** A named request's worker has answered it. True: what it says is not for the caller, who waits for a replay. */
function answeredNamed(worker: DispatchWorker, request: Request): boolean {
  request.answered = true;
  if (request.state === 'ended') {
    // Given up before: nobody will ask.
    worker.link.ack(request.linkId);
    return false;
  }
  if (request.awaitsReplays === 0) return false;
  request.state = 'replaying';
  keepIn(worker, request);
  return true;
}

/** Nobody will ask for it again. */
function forgetNamed(core: Core, request: Request): void {
  if (!request.named) return;
  const pool = core.pools.get(request.pool);
  if (pool?.named.get(request.requestId) === request) pool.named.delete(request.requestId);
  request.caller = null;
  if (!request.answered) return;
  const worker = core.workers.get(request.workerId);
  if (worker === undefined) return;
  worker.link.ack(request.linkId);
  letKeptGo(core, worker, request);
}

function letKeptGo(core: Core, worker: DispatchWorker, request: Request): void {
  if (!worker.kept.delete(request.linkId)) return;
  worker.counters.kept = worker.kept.size;
  if (worker.paused && worker.counters.inFlight + worker.counters.kept === 0) core.options.onIdle(worker.workerId);
}

/** The time in which its caller could have come back is over. */
function nobodyAsked(core: Core, request: Request): void {
  if (request.state === 'ended') return forgetNamed(core, request);
  core.pools.get(request.pool)?.named.delete(request.requestId);
  giveUp(core, request, refusal(code.cancelled, 'the caller has not come back'));
}

/** A request that is known by its name: its answer goes to who asks now. */
function repeat(core: Core, pool: Pool, request: Request, ask: Ask, answers: Answers): Request | undefined {
  if (!isSame(core, request, ask)) {
    const message = `request_id: expected a new one, or command and payload of the request that has it, got "${ask.requestId}" with others`;
    answers.error(refusal(code.invalidArgument, message));
    return undefined;
  }
  const before = request.caller;
  request.caller = answers;
  if (before !== null) {
    before.error(refusal(code.aborted, 'the request was sent again with its request_id: the answer goes there'));
  }
  request.answers = answers;
  request.streams = ask.streams;
  request.idempotent = ask.idempotent;
  core.deadlines.remove(request);
  if (request.state === 'ended' && !request.answered) {
    answers.error(request.endError ?? lostAnswer(request));
    return request;
  }
  supply(request, ask);
  request.deadlineMs = Number.isFinite(ask.deadlineMs)
    ? ask.deadlineMs
    : core.options.nowMs() + pool.limits.requestTimeoutMs;
  core.deadlines.add(request, request.deadlineMs);
  arm(core);
  const worker = core.workers.get(request.workerId);
  if (worker !== undefined) askAgain(worker, request);
  return request;
}

function isSame(core: Core, request: Request, ask: Ask): boolean {
  if (request.command !== ask.command || request.payloadBytes !== ask.payload.length) return false;
  const { bareCrc32 } = request;
  return bareCrc32 === null ? request.payload.equals(ask.payload) : bareCrc32 === core.options.checksum(ask.payload);
}

/** What a worker held is known by its checksum alone until its caller brings the payload again. */
function supply(request: Request, ask: Ask): void {
  if (request.bareCrc32 === null || request.state === 'ended') return;
  request.payload = compact(ask.payload);
  request.contentType = ask.contentType;
  request.bareCrc32 = null;
}

/** Has the worker say again what its caller has not got. */
function askAgain(worker: DispatchWorker, request: Request): void {
  if (request.state === 'ended') {
    request.state = 'replaying';
    keepIn(worker, request);
  } else if (request.state !== 'sent' || !request.behind) return;
  request.awaitsReplays += 1;
  worker.link.replay(request.linkId);
}

function onReplayed(core: Core, workerId: string, linkIds: readonly number[]): void {
  const worker = core.workers.get(workerId);
  for (const linkId of linkIds) {
    const request = worker?.running.get(linkId) ?? worker?.kept.get(linkId);
    if (request !== undefined && request.awaitsReplays > 0) request.awaitsReplays -= 1;
  }
}

/** The end of an answer that was asked for again; its request was counted when it ended. */
function onReplayEnd(core: Core, worker: DispatchWorker, linkId: number, result: WorkerResult): void {
  const request = worker.kept.get(linkId);
  if (request === undefined || request.state !== 'replaying' || request.awaitsReplays > 0) return;
  worker.kept.delete(linkId);
  worker.counters.kept = worker.kept.size;
  endByWorker(core, worker, request, result);
}

function lostAnswer({ workerId }: Request): RequestError {
  return refusal(code.dataLoss, 'the answer is no longer kept', { workerId });
}

/** A kept answer went with its worker. */
function loseKept(core: Core, pool: Pool, request: Request, error: RequestError): void {
  request.answered = false;
  if (request.state === 'replaying') return end(core, request, error);
  request.endError = error;
  if (pool.named.get(request.requestId) !== request) core.deadlines.remove(request);
}

/** It may be one that a worker from before has: that is known once those have dialled in. */
function awaitExpected(pool: Pool, request: Request): void {
  request.state = 'queued';
  request.waits = true;
  request.payload = compact(request.payload);
  pool.waiting.push(request);
}

function noLongerExpected(core: Core, pool: Pool, workerId: string): void {
  if (!pool.expected.delete(workerId) || pool.expected.size > 0) return;
  for (let request = pool.waiting.first(); request !== null; request = pool.waiting.first()) {
    pool.waiting.remove(request);
    request.waits = false;
    pool.queue.push(request);
  }
  serveQueue(core, pool);
}

/** What a worker brings along from an earlier agent. Nobody waits for what its caller did not name. */
function takeOver(core: Core, pool: Pool, worker: DispatchWorker, resumed: Resumed): void {
  const { counters } = worker;
  worker.nextLinkId = resumed.last_id;
  counters.completed = resumed.completed;
  counters.failed = resumed.failed;
  for (const held of resumed.held) {
    if (!worker.running.has(held.id) && !worker.kept.has(held.id)) takeHeld(core, pool, worker, held);
  }
  if (worker.maxRequests > 0 && counters.completed + counters.failed >= worker.maxRequests) {
    core.options.onBudgetSpent(worker.workerId);
  }
}

function takeHeld(core: Core, pool: Pool, worker: DispatchWorker, held: HeldRequest): void {
  if (!held.keep && held.ended) return;
  const request = heldRequest(core, pool, held);
  request.workerId = worker.workerId;
  request.linkId = held.id;
  request.sentAtMs = core.options.nowMs() - held.age_ms;
  request.attempts = Math.max(1, request.attempts);
  if (held.ended) {
    request.state = 'ended';
    request.answered = true;
    keepIn(worker, request);
  } else {
    request.state = held.keep ? 'sent' : 'ended';
    request.behind = true;
    worker.running.set(held.id, request);
    worker.payloadBytes += request.payloadBytes;
    worker.counters.inFlight += 1;
    pool.inFlight += 1;
    if (!held.keep) worker.link.cancel(held.id);
  }
  if (held.keep && request.caller !== null) askAgain(worker, request);
}

/** That of a caller who has asked for it already, or one that waits for its caller. */
function heldRequest(core: Core, pool: Pool, held: HeldRequest): Request {
  const waiting = held.keep ? pool.named.get(held.request_id) : undefined;
  const bytes = held.payload_bytes;
  const crc32 = held.payload_crc32;
  if (waiting?.state === 'queued' && waiting.waits) {
    const isSameAsked =
      waiting.command === held.command &&
      waiting.payloadBytes === bytes &&
      core.options.checksum(waiting.payload) === crc32;
    if (isSameAsked) {
      pool.waiting.remove(waiting);
      waiting.waits = false;
      return waiting;
    }
    const message = `request_id: expected a new one, or command and payload of the request that has it, got "${held.request_id}" with others`;
    end(core, waiting, refusal(code.invalidArgument, message));
  }
  const nowMs = core.options.nowMs();
  const ask = {
    pool: pool.name,
    command: held.command,
    payload: nothing,
    contentType: '',
    requestId: held.request_id,
    named: held.keep,
    sessionId: '',
    idempotent: false,
    deadlineMs: held.remaining_ms > 0 ? nowMs + held.remaining_ms : Number.POSITIVE_INFINITY,
    streams: true,
  };
  const request = newRequest(ask, nobody, nowMs - held.age_ms, pool.limits.requestTimeoutMs + held.age_ms);
  request.payloadBytes = bytes;
  request.caller = null;
  request.bareCrc32 = crc32;
  if (!held.keep) return request;
  pool.named.set(held.request_id, request);
  const keepUntilMs = nowMs + pool.limits.keepMs;
  core.deadlines.add(request, held.ended ? keepUntilMs : Math.min(request.deadlineMs, keepUntilMs));
  arm(core);
  return request;
}

/** It has dialled again, to this same agent: what was on its line when that broke has arrived or not. */
function reattach(core: Core, pool: Pool, worker: DispatchWorker, link: RequestLink, resumed: Resumed | null): void {
  const held = new Map((resumed?.held ?? []).map((each) => [each.id, each]));
  const begunThrough = worker.begunThrough();
  const again: Request[] = [];
  displace(pool, worker);
  worker.link = link;
  for (const [linkId, request] of [...worker.running]) {
    const kept = held.get(linkId);
    if (kept !== undefined && !kept.ended) goOn(core, worker, request);
    else {
      release(core, pool, worker, request);
      displace(pool, worker);
      if (kept !== undefined) answeredMeanwhile(worker, request);
      // The worker has none of these: they never came, or have ended.
      else if (request.state === 'ended') continue;
      else if (request.named || isAfter(linkId, begunThrough)) again.push(request);
      else if (request.idempotent && request.attempts < pool.limits.maxAttempts) again.push(request);
      else end(core, request, lineBroke(worker));
    }
  }
  for (const request of worker.kept.values()) {
    if (request.state !== 'replaying') continue;
    request.awaitsReplays = 1;
    link.replay(request.linkId);
  }
  if (resumed !== null) takeOver(core, pool, worker, resumed);
  worker.paused = false;
  worker.stalled = false;
  place(pool, worker);
  requeue(core, pool, again);
  serveQueue(core, pool);
}

/** It runs on in the worker. Chunks may have been lost with the line: its caller has to ask for them again. */
function goOn(core: Core, worker: DispatchWorker, request: Request): void {
  if (request.state === 'ended') return worker.link.cancel(request.linkId);
  if (!request.behind) return;
  if (!request.named) return giveUp(core, request, lineBroke(worker));
  const { answers, caller } = request;
  request.awaitsReplays = 0;
  abandon(core, request);
  if (caller !== null) answers.error(lineBroke(worker));
}

/** Its answer was lost with the line, and is kept by the worker. */
function answeredMeanwhile(worker: DispatchWorker, request: Request): void {
  request.answered = true;
  if (request.state === 'ended') return worker.link.ack(request.linkId);
  request.awaitsReplays = 0;
  if (request.caller === null) {
    request.state = 'ended';
    return keepIn(worker, request);
  }
  request.state = 'replaying';
  keepIn(worker, request);
}

function lineBroke({ workerId }: DispatchWorker): RequestError {
  return refusal(code.unavailable, `the line to worker ${workerId} broke with the answer on it`, { workerId });
}

/** Its worker gave it back, and nobody who knows its payload has asked. */
function forgetBare(core: Core, pool: Pool, request: Request): void {
  request.state = 'ended';
  core.deadlines.remove(request);
  if (pool.named.get(request.requestId) === request) pool.named.delete(request.requestId);
}

/** What was given up should have ended in its worker `killAfterMs` after its deadline, if not sooner. */
function awaitEnd(core: Core, request: Request): void {
  const killAfterMs = core.pools.get(request.pool)?.limits.killAfterMs ?? 0;
  if (killAfterMs === 0) return;
  request.overdue = true;
  core.deadlines.add(request, Math.max(core.options.nowMs(), request.deadlineMs) + killAfterMs);
  arm(core);
}

function expire(core: Core): number {
  const nowMs = core.options.nowMs();
  for (const request of core.deadlines.take(nowMs)) {
    if (request.named && request.caller === null && !request.overdue) nobodyAsked(core, request);
    else if (request.overdue) stillRuns(core, request, nowMs);
    else giveUp(core, request, refusal(code.deadlineExceeded, deadlineMessage(core, request)));
  }
  recallFromStalled(core, nowMs);
  core.armedAtMs = nextAtMs(core);
  return core.armedAtMs;
}

/** Its worker was told that nobody waits for it any more, and has had time to say that it ended. */
function stillRuns(core: Core, request: Request, nowMs: number): void {
  request.overdue = false;
  const worker = core.workers.get(request.workerId);
  if (worker?.running.get(request.linkId) !== request) return;
  if (isAfter(request.linkId, worker.begunThrough())) {
    // Not this one keeps the worker from answering: it has not begun.
    return awaitEnd(core, request);
  }
  const overMs = Math.round(nowMs - request.deadlineMs);
  const message = `request ${request.requestId} (${request.command}) still runs ${overMs} ms after its deadline`;
  core.options.onOverdue(worker.workerId, message);
}

function nextAtMs(core: Core): number {
  return Math.min(core.deadlines.nextAtMs(), core.lookAheadAtMs);
}

function deadlineMessage(core: Core, request: Request): string {
  const tookMs = Math.round(core.options.nowMs() - request.arrivedAtMs);
  if (request.state === 'sent')
    return `the deadline passed while ${request.command} ran, ${tookMs} ms after the request came`;
  const none = core.pools.get(request.pool)?.workers.size === 0 ? ', which has no ready worker' : '';
  return `the deadline passed after ${tookMs} ms in the queue of pool ${request.pool}${none}`;
}

function arm(core: Core): void {
  const atMs = nextAtMs(core);
  if (atMs >= core.armedAtMs) return;
  core.armedAtMs = atMs;
  core.options.onDeadline(atMs);
}

function addWorker(core: Core, { resumed, ...options }: NewWorker): void {
  const pool = core.pools.get(options.pool);
  if (pool === undefined) return;
  const known = core.workers.get(options.workerId);
  if (known !== undefined) return reattach(core, pool, known, options.link, resumed);
  const worker: DispatchWorker = {
    ...options,
    running: new Map(),
    kept: new Map(),
    paused: false,
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
    if (request.overdue) core.deadlines.remove(request);
    request.overdue = false;
    if (request.state === 'ended') continue;
    // What began may have done its work: at most once, unless the caller says that it may run again.
    const neverBegan = unwritten.has(linkId) || isAfter(linkId, ending.begunThrough);
    if (neverBegan) request.attempts -= 1;
    const crashes = neverBegan || !ending.crashed ? 0 : suspect(core, pool, request);
    if (crashes > 0) end(core, request, poisonous(request.command, crashes));
    else if (neverBegan || (request.idempotent && request.attempts < pool.limits.maxAttempts)) again.push(request);
    else end(core, request, workerEnded(worker.workerId, ending));
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

/** Of numbers that wrap at 2^32, the later one is less than half the way round ahead (RFC 1982). */
function isAfter(linkId: number, begunThrough: number | null): boolean {
  return begunThrough !== null && ((linkId - begunThrough) | 0) > 0;
}

function onLeaving(core: Core, workerId: string): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined) return;
  displace(pool, worker);
  worker.leaving = true;
}

function onReturned(core: Core, workerId: string, linkIds: readonly number[]): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined) return;
  const again: Request[] = [];
  for (const linkId of linkIds) {
    const request = worker.running.get(linkId);
    if (request === undefined) continue;
    release(core, pool, worker, request);
    place(pool, worker);
    if (request.state === 'ended') continue;
    request.attempts -= 1;
    again.push(request);
  }
  requeue(core, pool, again);
  if (worker.paused && worker.counters.inFlight === 0) core.options.onIdle(workerId);
  serveQueue(core, pool);
}

/** Back to the front of the queue, in the order in which they came. */
function requeue(core: Core, pool: Pool, requests: Request[]): void {
  for (const request of requests.sort((a, b) => a.arrivedAtMs - b.arrivedAtMs).reverse()) {
    if (request.bareCrc32 !== null) {
      // Nobody here knows its payload: to whoever asks again it is new.
      forgetBare(core, pool, request);
      continue;
    }
    request.state = 'queued';
    request.workerId = '';
    request.sentAtMs = 0;
    pool.queue.unshift(request);
  }
}

function workerEnded(workerId: string, ending: WorkerEnd): RequestError {
  const [how] = ending.message.split('\n', 1);
  return refusal(code.unavailable, `worker ${workerId} ended (${ending.reason}) while it had the request: ${how}`, {
    workerId,
    exitReason: ending.reason,
  });
}

function removePool(core: Core, name: string): void {
  const pool = core.pools.get(name);
  if (pool === undefined) return;
  refuseQueued(core, pool, pool.closedBecause || `pool ${name} is removed`);
  core.pools.delete(name);
}

function refuseQueued(core: Core, pool: Pool, why: string): void {
  for (const queue of [pool.queue, pool.waiting]) {
    for (let request = queue.first(); request !== null; request = queue.first()) {
      end(core, request, refusal(code.unavailable, why));
    }
  }
}

function onChunk(core: Core, workerId: string, linkId: number, payload: Buffer, contentType: string): void {
  const worker = core.workers.get(workerId);
  const request = worker?.running.get(linkId) ?? worker?.kept.get(linkId);
  if (worker === undefined || request === undefined) return;
  worker.counters.lastEvidenceAtMs = core.options.nowMs();
  if (request.state === 'ended' || request.awaitsReplays > 0) return;
  request.behind = true;
  request.answers.chunk(payload, contentType, workerId);
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
  if (result.ran_us > 0 && pool.poison.suspects && request.state !== 'ended') {
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
  if (request.named && answeredNamed(worker, request)) {
    // It comes again, from its beginning.
  } else endByWorker(core, worker, request, result);
  if (worker.paused && counters.inFlight === 0) core.options.onIdle(workerId);
  if (worker.maxRequests > 0 && counters.completed + counters.failed === worker.maxRequests) {
    core.options.onBudgetSpent(workerId);
  }
  if (pool.queue.length > 0) serveQueue(core, pool);
}

function endByWorker(core: Core, { workerId }: DispatchWorker, request: Request, result: WorkerResult): void {
  const { error } = result;
  if (error === null) return end(core, request, null, result);
  const { type, traceback } = error;
  end(core, request, refusal(error.code, error.message, { type, traceback, workerId }), result);
}

function statsOf(pool: Pool | undefined): PoolStats {
  if (pool === undefined) return { queued: 0, queuedBytes: 0, inFlight: 0, completed: 0, failed: 0 };
  const { queue, waiting, inFlight, completed, failed } = pool;
  const queued = queue.length + waiting.length;
  return { queued, queuedBytes: queue.bytes + waiting.bytes, inFlight, completed, failed };
}
