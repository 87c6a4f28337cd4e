import type { Deadlines } from './deadlines.ts';
import type { DispatchPool } from './pool.ts';
import type { Request, RequestError, RequestSpec } from './request.ts';
import type { DispatchWorker } from './worker.ts';

/** The state that the files of dispatch share: the pools, the workers and the one timer. */

/** How one request ended, for the metrics. */
export interface Outcome {
  readonly pool: string;
  /** gRPC status code; 0: the caller received a result. */
  readonly code: number;
  /** The request was refused on arrival: it neither waited nor ran. */
  readonly refused: boolean;
  readonly queuedMs: number;
  /** 0: the request never ran. */
  readonly ranMs: number;
}

export interface DispatchOptions {
  nowMs(): number;
  /** A paused worker has no requests left. */
  onIdle(workerId: string): void;
  /** A worker has answered as many requests as its `maxRequests`. */
  onBudgetSpent(workerId: string): void;
  onOutcome(outcome: Outcome): void;
  /** A request failed after it was sent to a worker, and not because its caller left. */
  onFailed(request: Request, error: RequestError): void;
  /** A worker still runs a request `killAfterMs` after the request's deadline. */
  onOverdue(workerId: string, message: string): void;
  /** From now on a request is refused, because it was running in workers that crashed. */
  onPoisoned(pool: string, message: string): void;
  /** CRC-32 of a payload, as zlib makes it. */
  checksum(payload: Buffer): number;
  /** Equal for requests of one pool with the same command and payload. */
  fingerprint(request: Pick<RequestSpec, 'command' | 'payload'>): string;
  /** Asks for a call of `expire` at this time, which is earlier than any time asked for before. */
  onDeadline(atMs: number): void;
  /** Counts the bytes that are held for callers who have left, towards the node's memory budget. */
  readonly unclaimed: UnclaimedBytes;
}

/** The part of a memory account that dispatch uses. */
interface UnclaimedBytes {
  fits(bytes: number): boolean;
  add(bytes: number): void;
  give(bytes: number): void;
}

/** A worker's answer to a request. */
export interface WorkerResult {
  readonly payload: Buffer;
  readonly content_type: string;
  readonly error: WorkerError | null;
  /** How long the command ran, in microseconds; 0: unknown, or the command never began. */
  readonly ran_us: number;
}

interface WorkerError {
  readonly code: number;
  readonly type: string;
  readonly message: string;
  readonly traceback: string;
}

export interface Core {
  readonly options: DispatchOptions;
  readonly pools: Map<string, DispatchPool>;
  readonly workers: Map<string, DispatchWorker>;
  readonly deadlines: Deadlines;
  /** Workers that have more requests than they may run at once. */
  readonly prefetched: Set<DispatchWorker>;
  /** When to look for stalled workers among `prefetched`; infinite: there are none to watch. */
  recallAtMs: number;
  armedAtMs: number;
}

export function nextAtMs(core: Core): number {
  return Math.min(core.deadlines.nextAtMs(), core.recallAtMs);
}

export function arm(core: Core): void {
  const atMs = nextAtMs(core);
  if (atMs >= core.armedAtMs) return;
  core.armedAtMs = atMs;
  core.options.onDeadline(atMs);
}

/**
 * Whether a link id is later than another; false if the other one is unknown (null). Ids wrap at 2^32: the later one is less than
 * half the range ahead (RFC 1982).
 */
export function isAfter(linkId: number, other: number | null): boolean {
  return other !== null && ((linkId - other) | 0) > 0;
}
