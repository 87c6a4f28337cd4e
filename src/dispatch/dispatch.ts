import type { ReportedProgress, RequestNote } from '../domain/evidence.ts';
import type { PoolGate } from './admission.ts';
import { removePool, setPool, setPoolOpen, submit } from './admission.ts';
import { cancel, settle } from './caller-ids.ts';
import { dropPayload } from './completion.ts';
import type { Core, DispatchOptions, WorkerResult } from './core.ts';
import { createDeadlines } from './deadlines.ts';
import { hasEnded } from './delivery.ts';
import { expire } from './expiry.ts';
import type { PoolLimits } from './pool.ts';
import type { Request, RequestSpec, ResponseSink } from './request.ts';
import { onReturned, setPaused } from './scheduling.ts';
import type { PoolStats } from './views.ts';
import { oldestOf, progressOf, requestsOf, statsOf } from './views.ts';
import type { NewWorker, WorkerEnd } from './worker.ts';
import type { ProgressOf } from './worker-answers.ts';
import { onChunk, onProgress, onReplayed, onResult } from './worker-answers.ts';
import { addWorker, onLeaving, pauseWorker, removeWorker, resumeWorker } from './workers.ts';

export type { PoolGate } from './admission.ts';
export type { Outcome, WorkerResult } from './core.ts';
export type { PoolLimits } from './pool.ts';
export type { PoolStats } from './views.ts';
export type { WorkerEnd } from './worker.ts';

/** Moves requests to workers and sink back. No I/O and no clock of its own; every operation is O(1). */
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
  /** Undefined: it was refused, and `sink.error` has said so. */
  submit(spec: RequestSpec, sink: ResponseSink): Request | undefined;
  /** Its caller wants it no more. `sink` are those given to `submit`: another caller may have it by now. */
  cancel(request: Request, sink: ResponseSink): void;
  /** Its caller's call is over: the caller has read the answer, or may not have. */
  settle(request: Request, sink: ResponseSink, delivered: boolean): void;
  /** An ended request is to be known by its payload's checksum alone. */
  dropPayload(request: Request, sink: ResponseSink): void;
  /** The caller does not keep up: the worker holds back chunks until `resume`, or until another call takes over the request. */
  pause(request: Request, sink: ResponseSink): void;
  resume(request: Request, sink: ResponseSink): void;
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
  onProgress(workerId: string, reports: readonly ProgressOf[]): void;
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

    submit: (spec, sink) => submit(core, spec, sink),
    cancel: (request, sink) => cancel(core, request, sink),
    settle: (request, sink, delivered) => settle(core, request, sink, delivered),
    dropPayload: (request, sink) => {
      if (request.currentSink === sink && hasEnded(request)) dropPayload(core, request);
    },
    pause: (request, sink) => {
      if (request.currentSink === sink) setPaused(core, request, true);
    },
    resume: (request, sink) => {
      if (request.currentSink === sink) setPaused(core, request, false);
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
    requestsOf: (workerId) => requestsOf(core, workerId),
    progressOf: (workerId) => progressOf(core, workerId),
  };
}
