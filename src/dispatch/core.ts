import type { Affinity } from './affinity.ts';
import { createAffinity } from './affinity.ts';
import type { CommandStats } from './command-stats.ts';
import type { Deadlines } from './deadlines.ts';
import { delivery } from './delivery.ts';
import type { FreeWorkers } from './free-workers.ts';
import { createFreeWorkers } from './free-workers.ts';
import type { Poison, PoisonLimits } from './poison.ts';
import { createPoison } from './poison.ts';
import type { Queue, QueueLoad } from './queue.ts';
import { createQueue } from './queue.ts';
import type { ServiceRate } from './rate.ts';
import { createServiceRate } from './rate.ts';
import type { Answers, Ask, Request, RequestError } from './request.ts';
import { run } from './run.ts';
import type { DispatchWorker } from './worker.ts';

/** What the files of dispatch share: its pools, its workers, and the one timer. */

export const nothing = Buffer.alloc(0);

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
  /** How many such answers one worker keeps. */
  readonly keepMax: number;
}

/** How one request ended, for the metrics. */
export interface Outcome {
  readonly pool: string;
  /** gRPC status code; 0: it was answered. */
  readonly code: number;
  /** At the door: it neither waited nor ran. */
  readonly refused: boolean;
  readonly queuedMs: number;
  /** 0: it never ran. */
  readonly ranMs: number;
}

export interface DispatchOptions {
  nowMs(): number;
  /** A worker that takes no new requests has none left. */
  onIdle(workerId: string): void;
  /** A worker has ended as many requests as it was given. */
  onBudgetSpent(workerId: string): void;
  onOutcome(outcome: Outcome): void;
  /** A request failed that a worker had, for another reason than that its caller left. */
  onFailed(request: Request, error: RequestError): void;
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
  /** Counts what is held for callers who have left, towards the node's memory budget. */
  readonly unclaimed: UnclaimedBytes;
}

/** As much of a memory account as dispatch needs. */
export interface UnclaimedBytes {
  fits(bytes: number): boolean;
  add(bytes: number): void;
  give(bytes: number): void;
}

/** What a worker says at the end of a request; null: no error. */
export interface WorkerResult {
  readonly payload: Buffer;
  readonly content_type: string;
  readonly error: WorkerError | null;
  /** Microseconds that it ran; 0: unknown, or it never began. */
  readonly ran_us: number;
}

export interface WorkerError {
  readonly code: number;
  readonly type: string;
  readonly message: string;
  readonly traceback: string;
}

export interface Pool {
  readonly name: string;
  limits: PoolLimits;
  open: boolean;
  closedBecause: string;
  /** Closed, and nobody will serve what waits. */
  refusesQueued: boolean;
  /** Of all queues together. */
  readonly load: QueueLoad;
  /** Those that any worker may take, and those not looked at yet. */
  readonly queue: Queue;
  /** Those that wait for one worker (strict affinity), or for any of those that offer their command, while others are free. */
  readonly parked: Map<DispatchWorker | string, Queue>;
  /** Named requests by id, from their arrival until their callers have the answers or nobody asks any more. */
  readonly named: Map<string, Request>;
  /** Ended without an answer that a worker keeps, and not told to anybody yet; oldest first. */
  readonly undeliveredFailures: Set<Request>;
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

export interface Core {
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

export function newPool(name: string, limits: PoolLimits): Pool {
  const load: QueueLoad = { requests: 0, bytes: 0 };
  const pool: Pool = {
    name,
    limits,
    open: true,
    closedBecause: '',
    refusesQueued: false,
    load,
    queue: createQueue(load),
    parked: new Map(),
    named: new Map(),
    undeliveredFailures: new Set(),
    waiting: createQueue(load),
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

export function queuesOf(pool: Pool): Queue[] {
  return [pool.queue, pool.waiting, ...pool.parked.values()];
}

export function newRequest(ask: Ask, sink: Answers | null, arrivedAtMs: number, timeoutMs: number): Request {
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
    currentSink: sink,
    arrivedAtMs,
    run: run.arrived,
    delivery: sink === null ? delivery.detached : delivery.attached,
    sentAtMs: 0,
    attempts: 0,
    workerId: '',
    linkId: 0,
    paused: false,
    progress: null,
    expectedMs: 0,
    endError: null,
    mayHaveEmitted: false,
    chunksDelivered: 0,
    chunksToSkip: 0,
    isCounted: false,
    unclaimedBytes: 0,
    pendingReplays: 0,
    droppedPayloadCrc32: null,
    queue: null,
    nextQueued: null,
    previousQueued: null,
    deadlineTick: -1,
    nextDue: null,
    previousDue: null,
  };
}

export function nextAtMs(core: Core): number {
  return Math.min(core.deadlines.nextAtMs(), core.lookAheadAtMs);
}

export function arm(core: Core): void {
  const atMs = nextAtMs(core);
  if (atMs >= core.armedAtMs) return;
  core.armedAtMs = atMs;
  core.options.onDeadline(atMs);
}

/** Of numbers that wrap at 2^32, the later one is less than half the way round ahead (RFC 1982). */
export function isAfter(linkId: number, begunThrough: number | null): boolean {
  return begunThrough !== null && ((linkId - begunThrough) | 0) > 0;
}
