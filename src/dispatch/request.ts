import type { ErrorReason } from '../domain/error-reason.ts';
import { reasonOfCode } from '../domain/error-reason.ts';
import type { ReportedProgress } from '../domain/evidence.ts';
import { delivery } from './delivery.ts';
import type { Queue } from './queue.ts';
import { run } from './run.ts';

export const nothing = Buffer.alloc(0);

/** gRPC status codes (google.rpc.Code) that dispatch itself answers with. */
export const code = {
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  internal: 13,
  unavailable: 14,
  dataLoss: 15,
} as const;

/** Why a request failed; the fields of execution.proto's Error. */
export interface RequestError {
  /** A gRPC status code. */
  readonly code: number;
  readonly reason: ErrorReason;
  /** The Python exception's qualified name; empty when it was not one. */
  readonly type: string;
  readonly message: string;
  readonly traceback: string;
  readonly workerId: string;
  readonly exitReason: string;
  /** 0: no advice. */
  readonly retryAfterMs: number;
  /** False: the command surely has not begun, so that sending the request again runs it once. */
  readonly mayHaveBegun: boolean;
}

/** `code` is a gRPC status code. By default it gives the reason, and everything else is empty. */
export function requestError(errorCode: number, message: string, more: Partial<RequestError> = {}): RequestError {
  return {
    reason: reasonOfCode(errorCode),
    ...{ code: errorCode, type: '', message, traceback: '', workerId: '', exitReason: '', retryAfterMs: 0 },
    mayHaveBegun: false,
    ...more,
  };
}

/** A request as its caller sends it. */
export interface RequestSpec {
  readonly pool: string;
  readonly command: string;
  readonly payload: Buffer;
  readonly contentType: string;
  readonly requestId: string;
  /** The caller chose the id, and may repeat the request by it. */
  readonly hasCallerId: boolean;
  readonly sessionId: string;
  readonly idempotent: boolean;
  /** Monotonic time. Infinite: the pool's request.timeout applies. */
  readonly deadlineMs: number;
  /** The caller accepts a stream of results. */
  readonly streams: boolean;
}

/** Receives a request's answer. Dispatch calls exactly one of `result` and `error`, once, and nothing after it. */
export interface ResponseSink {
  chunk(payload: Buffer, contentType: string, workerId: string): void;
  /**
   * For a caller that streams, this comes after the chunks; the payload is empty unless the command returned one plain value.
   * Returns the gRPC status code that the caller was sent: 0, unless the result could not be handed over.
   */
  result(payload: Buffer, contentType: string, workerId: string): number;
  error(error: RequestError): void;
  /** Present if the caller asked for reports of the command's progress. */
  progress?(report: ReportedProgress): void;
}

/** One request from `submit` until its id is forgotten. `run` and `delivery` are its states; the rest is plain data. */
export interface Request extends Omit<RequestSpec, 'streams' | 'idempotent' | 'deadlineMs' | 'contentType'> {
  /** The sink of the latest call that asked for the request, until that call is over; null: there is none. */
  currentSink: ResponseSink | null;
  payload: Buffer;
  contentType: string;
  payloadBytes: number;
  idempotent: boolean;
  streams: boolean;
  deadlineMs: number;
  readonly arrivedAtMs: number;
  /** A state of run.ts. */
  run: number;
  /** A state of delivery.ts. */
  delivery: number;
  /** When the request was last sent to a worker; 0: not yet. */
  sentAtMs: number;
  attempts: number;
  /** The worker that was last sent the request. */
  workerId: string;
  linkId: number;
  /** The caller does not keep up, so the worker holds back chunks. */
  paused: boolean;
  /** The command's latest report of progress. */
  progress: ReportedProgress | null;
  /** The request's share of its worker's `expectedMs`. */
  expectedMs: number;
  // For callers that repeat the request by its id:
  /** The error with which the request ended; null: it has not ended, or ended with a result. */
  endError: RequestError | null;
  /** The current run may have emitted chunks, so another sink needs a replay from the first one. */
  mayHaveEmitted: boolean;
  /** How many chunks `currentSink` has received. */
  chunksDelivered: number;
  /** How many of the next chunks to drop, because `currentSink` has received them before. */
  chunksToSkip: number;
  /** The metrics have counted the request. */
  isCounted: boolean;
  /** The request's share of the bytes that are held for callers who have left; see unclaimed.ts. */
  unclaimedBytes: number;
  /** Replays that were asked for and have not begun. Chunks that come before they begin are dropped. */
  pendingReplays: number;
  /** CRC-32 of a payload that was dropped, to compare repetitions with; null: `payload` is here. */
  droppedPayloadCrc32: number | null;
  // Links of the queue that the request is in, and of the list of its deadline.
  queue: Queue<Request> | null;
  nextQueued: Request | null;
  previousQueued: Request | null;
  /** -1: in no list. */
  deadlineTick: number;
  nextDue: Request | null;
  previousDue: Request | null;
}

export function newRequest(
  spec: RequestSpec,
  sink: ResponseSink | null,
  arrivedAtMs: number,
  timeoutMs: number,
): Request {
  return {
    pool: spec.pool,
    command: spec.command,
    payload: spec.payload,
    payloadBytes: spec.payload.length,
    contentType: spec.contentType,
    requestId: spec.requestId,
    hasCallerId: spec.hasCallerId,
    sessionId: spec.sessionId,
    idempotent: spec.idempotent,
    streams: spec.streams,
    deadlineMs: Number.isFinite(spec.deadlineMs) ? spec.deadlineMs : arrivedAtMs + timeoutMs,
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

/** `attempts` counts how often the request was sent, without the times after which the command is known not to have begun. */
export function mayHaveBegun(request: Request): boolean {
  // A request that waits for workers of an earlier agent may be running in one of them.
  return request.run === run.awaitingEarlierWorkers || request.attempts > 0;
}

/**
 * Whether the end of a request is remembered until the caller is known to have read it. If the caller's connection breaks before,
 * the caller may repeat the request, and a command that may have begun must not begin again.
 */
export function needsReceipt(request: Request): boolean {
  return request.hasCallerId && (request.run === run.kept || request.attempts > 0);
}
