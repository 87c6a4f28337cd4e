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

/** An error of pitwarden's own. */
export function refusal(errorCode: number, message: string, more: Partial<RequestError> = {}): RequestError {
  return {
    ...{ code: errorCode, type: '', message, traceback: '', workerId: '', exitReason: '', retryAfterMs: 0 },
    mayHaveBegun: false,
    ...more,
  };
}

/** What a caller asks. */
export interface RequestSpec {
  readonly pool: string;
  readonly command: string;
  readonly payload: Buffer;
  readonly contentType: string;
  readonly requestId: string;
  /** Its caller chose the id, and may ask again by it. */
  readonly hasCallerId: boolean;
  readonly sessionId: string;
  readonly idempotent: boolean;
  /** Monotonic; infinite: the pool's request.timeout. */
  readonly deadlineMs: number;
  /** The caller takes many results. */
  readonly streams: boolean;
}

/** Where a request's answers go. Exactly one of `result` and `error` is called, once, and nothing after it. */
export interface ResponseSink {
  chunk(payload: Buffer, contentType: string, workerId: string): void;
  /**
   * For a caller that streams, after its chunks, with an empty payload unless the command gave one plain value. The gRPC
   * status code that its caller was told: 0, unless the result could not be handed over.
   */
  result(payload: Buffer, contentType: string, workerId: string): number;
  error(error: RequestError): void;
  /** Where the caller asked for it: how far the command says it is. */
  progress?(report: ReportedProgress): void;
}

/** One request on its way: made by `submit`, ended by its one answer. */
export interface Request extends Omit<RequestSpec, 'streams' | 'idempotent' | 'deadlineMs' | 'contentType'> {
  /** Whom the answer goes to, until its caller's call is over; null: nobody is there. */
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
  /** When it was last sent; 0: not yet. */
  sentAtMs: number;
  attempts: number;
  /** The worker that has it. */
  workerId: string;
  linkId: number;
  /** Its caller does not keep up with its chunks. */
  paused: boolean;
  /** What its command last reported of how far it is. */
  progress: ReportedProgress | null;
  /** What it adds to its worker's `expectedMs`. */
  expectedMs: number;
  // So that a caller may ask again by the name it gave:
  /** How it ended, where its worker has no answer of it. */
  endError: RequestError | null;
  /** Chunks have come of it, or may have: another caller needs them from the first. */
  mayHaveEmitted: boolean;
  /** Chunks that its sink was handed. */
  chunksDelivered: number;
  /** Chunks that a replay begins with, and that its sink has already. */
  chunksToSkip: number;
  /** The metrics have it. */
  isCounted: boolean;
  /** What it adds to the bytes that are held for callers who have left: see unclaimed.ts. */
  unclaimedBytes: number;
  /** Replays that were asked for and have not begun: what comes until then is void. */
  pendingReplays: number;
  /** Its payload is not here (its worker has it, or had it): it is known by its CRC-32. */
  droppedPayloadCrc32: number | null;
  // Places in one of its pool's queues and in its deadline's list.
  queue: Queue | null;
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

/** `attempts` counts the sendings of which it is not known that the command did not begin. */
export function mayHaveBegun(request: Request): boolean {
  // One that waits for workers of an earlier agent may be running in one of them.
  return request.run === run.awaitingEarlierWorkers || request.attempts > 0;
}

/**
 * A caller whose connection breaks before it has read the answer may ask again by the name it gave, and a command that may
 * have begun must not begin anew: the end of such a request is remembered until it is known to be read.
 */
export function needsReceipt(request: Request): boolean {
  return request.hasCallerId && (request.run === run.kept || request.attempts > 0);
}
