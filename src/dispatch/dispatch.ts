import type { ReportedProgress, RequestNote } from '../domain/evidence.ts';
import type { PoolGate } from './admission.ts';
import { admitRequest, countRefused, removePool, setPool, setPoolOpen } from './admission.ts';
import { cancel, settle } from './caller-left.ts';
import { dropPayload } from './completion.ts';
import type { Core, DispatchOptions, WorkerResult } from './core.ts';
import { createDeadlines } from './deadlines.ts';
import { isAnswered } from './delivery.ts';
import { expire } from './expiry.ts';
import type { PoolLimits } from './pool.ts';
import type { Request, RequestSpec, ResponseSink } from './request.ts';
import { onReturned } from './scheduling.ts';
import { setStreamPaused } from './stream-pause.ts';
import type { PoolStats } from './views.ts';
import { lastEvidenceOf, oldestOf, progressOf, requestsOf, statsOf } from './views.ts';
import type { NewWorker, WorkerEnd } from './worker.ts';
import type { ProgressOf } from './worker-answers.ts';
import { onChunk, onProgress, onReplayed, onResult } from './worker-answers.ts';
import { addWorker, onLeaving, pauseWorker, removeWorker, resumeWorker } from './workers.ts';

export type { PoolGate } from './admission.ts';
export type { Outcome, WorkerResult } from './core.ts';
export type { PoolLimits } from './pool.ts';
export type { PoolStats } from './views.ts';
export type { WorkerEnd } from './worker.ts';

/** Moves requests to workers, and answers back. It has no I/O and no clock of its own. Operations on requests are O(1). */
export interface Dispatch {
  setPool(pool: string, limits: PoolLimits): void;
  /** A closed pool refuses new requests. It serves those that it has, unless the gate refuses them too. */
  setPoolOpen(pool: string, gate: PoolGate): void;
  /** Refuses the requests that still wait. */
  removePool(pool: string): void;
  /** A worker of an earlier agent will dial in, and may hold requests. Until then named requests of its pool wait. */
  expectWorker(pool: string, workerId: string): void;
  /** The worker is new, or has dialled again. */
  addWorker(worker: NewWorker): void;
  pauseWorker(workerId: string): void;
  resumeWorker(workerId: string): void;
  /** The worker ended. Its requests run again if that is safe, and fail otherwise. */
  removeWorker(workerId: string, end: WorkerEnd): void;
  /** Undefined: the request was refused, and `sink.error` was called. */
  submit(spec: RequestSpec, sink: ResponseSink): Request | undefined;
  /** Counts a request that was refused with this gRPC status code before it came to `submit`. */
  countRefused(pool: string, refusedWith: number): void;
  /** The caller cancelled. `sink` is the one given to `submit`: nothing happens if another call has the request by now. */
  cancel(request: Request, sink: ResponseSink): void;
  /** The call is over. `isRead`: the caller is known to have read the answer. */
  settle(request: Request, sink: ResponseSink, isRead: boolean): void;
  /** Keeps only the checksum of an ended request's payload. */
  dropPayload(request: Request, sink: ResponseSink): void;
  /** The caller does not keep up: the worker holds back chunks until `resume`, or until another call takes over the request. */
  pause(request: Request, sink: ResponseSink): void;
  resume(request: Request, sink: ResponseSink): void;
  /** Ends requests whose time is over. Returns when to call this next; infinite: never. */
  expire(): number;
  onChunk(workerId: string, linkId: number, payload: Buffer, contentType: string): void;
  onResult(workerId: string, linkId: number, result: WorkerResult): void;
  /** The worker takes no more requests, and will return those that it is sent. */
  onLeaving(workerId: string): void;
  /** The worker returned requests that it had not begun, because of a recall or because it leaves. */
  onReturned(workerId: string, linkIds: readonly number[]): void;
  /** The worker sends these answers from their beginning now. */
  onReplayed(workerId: string, linkIds: readonly number[]): void;
  /** Commands of the worker reported their progress. */
  onProgress(workerId: string, reports: readonly ProgressOf[]): void;
  poolStats(pool: string): PoolStats;
  /** Ages in ms of the oldest waiting request and of the oldest request in a worker; 0: there is none. */
  oldestRequest(pool: string): { readonly queuedMs: number; readonly runningMs: number };
  /** Monotonic time of the last proof of progress (result, chunk, progress report) in the pool; 0: there was none. */
  lastEvidenceAtMs(pool: string): number;
  /** The worker's requests, oldest first. For views: it is not O(1). */
  requestsOf(workerId: string): readonly RequestNote[];
  /** The latest report of the worker's oldest request that reports its progress. */
  progressOf(workerId: string): ReportedProgress | null;
}

export function createDispatch(options: DispatchOptions): Dispatch {
  const core: Core = {
    options,
    pools: new Map(),
    workers: new Map(),
    deadlines: createDeadlines(),
    prefetched: new Set(),
    recallAtMs: Number.POSITIVE_INFINITY,
    armedAtMs: Number.POSITIVE_INFINITY,
  };
  return {
    setPool: (pool, limits) => setPool(core, pool, limits),
    setPoolOpen: (pool, gate) => setPoolOpen(core, pool, gate),
    removePool: (pool) => removePool(core, pool),

    expectWorker: (pool, workerId) => void core.pools.get(pool)?.expected.add(workerId),
    addWorker: (worker) => addWorker(core, worker),
    pauseWorker: (workerId) => pauseWorker(core, workerId),
    resumeWorker: (workerId) => resumeWorker(core, workerId),
    removeWorker: (workerId, end) => removeWorker(core, workerId, end),

    submit: (spec, sink) => admitRequest(core, spec, sink),
    countRefused: (pool, refusedWith) => countRefused(core, pool, refusedWith),
    cancel: (request, sink) => cancel(core, request, sink),
    settle: (request, sink, isRead) => settle(core, request, sink, isRead),
    dropPayload: (request, sink) => {
      if (request.currentSink === sink && isAnswered(request)) dropPayload(core, request);
    },
    pause: (request, sink) => {
      if (request.currentSink === sink) setStreamPaused(core, request, true);
    },
    resume: (request, sink) => {
      if (request.currentSink === sink) setStreamPaused(core, request, false);
    },
    expire: () => expire(core),

    onChunk: (workerId, linkId, payload, contentType) => onChunk(core, workerId, linkId, payload, contentType),
    onResult: (workerId, linkId, result) => onResult(core, workerId, linkId, result),
    onProgress: (workerId, reports) => onProgress(core, workerId, reports),
    onReplayed: (workerId, linkIds) => onReplayed(core, workerId, linkIds),
    onReturned: (workerId, linkIds) => onReturned(core, workerId, linkIds),
    onLeaving: (workerId) => onLeaving(core, workerId),

    poolStats: (pool) => statsOf(core.pools.get(pool)),
    oldestRequest: (pool) => oldestOf(core.pools.get(pool), options.nowMs()),
    lastEvidenceAtMs: (pool) => lastEvidenceOf(core.pools.get(pool)),
    requestsOf: (workerId) => requestsOf(core, workerId),
    progressOf: (workerId) => progressOf(core, workerId),
  };
}
