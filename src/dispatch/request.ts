import type { ReportedProgress } from '../domain/evidence.ts';
import type { Queue } from './queue.ts';

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
export interface Ask {
  readonly pool: string;
  readonly command: string;
  readonly payload: Buffer;
  readonly contentType: string;
  readonly requestId: string;
  /** Its caller chose the id, and may ask again by it. */
  readonly named: boolean;
  readonly sessionId: string;
  readonly idempotent: boolean;
  /** Monotonic; infinite: the pool's request.timeout. */
  readonly deadlineMs: number;
  /** The caller takes many results. */
  readonly streams: boolean;
}

/** Where a request's answers go. Exactly one of `result` and `error` is called, once, and nothing after it. */
export interface Answers {
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
export interface Request extends Omit<Ask, 'streams' | 'idempotent' | 'deadlineMs' | 'contentType'> {
  /** Let go of at the end, as is the payload: see `letGo` in dispatch.ts. */
  answers: Answers;
  payload: Buffer;
  contentType: string;
  payloadBytes: number;
  idempotent: boolean;
  streams: boolean;
  deadlineMs: number;
  readonly arrivedAtMs: number;
  /** `moving`: in neither place, for the length of a call. `replaying`: its worker, which keeps the answer, was asked for it. */
  state: 'moving' | 'queued' | 'sent' | 'replaying' | 'ended';
  /** When it was last sent; 0: not yet. */
  sentAtMs: number;
  attempts: number;
  /** The worker that has it. */
  workerId: string;
  linkId: number;
  /** Its deadline passed in its worker, which is given some time to answer. */
  overdue: boolean;
  /** Its caller does not keep up with its chunks. */
  paused: boolean;
  /** What its command last reported of how far it is. */
  progress: ReportedProgress | null;
  /** What it adds to its worker's `expectedMs`. */
  expectedMs: number;
  // So that a caller may ask again by the name it gave:
  /** Whom its answer goes to, until that has got it; null: nobody is there. */
  caller: Answers | null;
  /** Waits until it is known whether a worker has it from an earlier agent. */
  waits: boolean;
  /** Its worker has answered it, and keeps the answer until it is acknowledged. */
  answered: boolean;
  /** How it ended, where its worker has no answer of it. */
  endError: RequestError | null;
  /** Chunks have come of it, or may have: another caller needs them from the first. */
  behind: boolean;
  /** Chunks that its caller was handed, and those that a replay begins with and it has already. */
  told: number;
  skip: number;
  /** The metrics have it. */
  counted: boolean;
  /** What it adds to the bytes that are held for callers who have left: see unclaimed.ts. */
  unclaimedBytes: number;
  /** Replays that were asked for and have not begun: what comes until then is void. */
  awaitsReplays: number;
  /** Its payload is not here (its worker has it, or had it): it is known by its CRC-32. */
  bareCrc32: number | null;
  // Places in one of its pool's queues and in its deadline's list.
  queue: Queue | null;
  nextQueued: Request | null;
  previousQueued: Request | null;
  /** -1: in no list. */
  deadlineTick: number;
  nextDue: Request | null;
  previousDue: Request | null;
}

/** `attempts` counts the sendings of which it is not known that the command did not begin. */
export function mayHaveBegun({ waits, attempts }: Request): boolean {
  // One that waits for workers of an earlier agent may be running in one of them.
  return waits || attempts > 0;
}

/**
 * A caller whose connection breaks before it has read the answer may ask again by the name it gave, and a command that may
 * have begun must not begin anew: the end of such a request is remembered until it is known to be read.
 */
export function needsReceipt({ named, answered, attempts }: Request): boolean {
  return named && (answered || attempts > 0);
}
