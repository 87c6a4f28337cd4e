import type { Deadlines } from './deadlines.ts';
import type { Pool } from './pool.ts';
import type { Request, RequestError, RequestSpec } from './request.ts';
import type { DispatchWorker } from './worker.ts';

/** What the files of dispatch share: its pools, its workers, and the one timer. */

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
  fingerprint(request: Pick<RequestSpec, 'command' | 'payload'>): string;
  /** `expire` wants to be called then, and no earlier time was asked for. */
  onDeadline(atMs: number): void;
  /** Counts what is held for callers who have left, towards the node's memory budget. */
  readonly unclaimed: UnclaimedBytes;
}

/** As much of a memory account as dispatch needs. */
interface UnclaimedBytes {
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

interface WorkerError {
  readonly code: number;
  readonly type: string;
  readonly message: string;
  readonly traceback: string;
}

export interface Core {
  readonly options: DispatchOptions;
  readonly pools: Map<string, Pool>;
  readonly workers: Map<string, DispatchWorker>;
  readonly deadlines: Deadlines;
  /** Workers with more requests than they may run at once. */
  readonly prefetched: Set<DispatchWorker>;
  /** When to look at those; infinite: there were none lately. */
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

/** Of numbers that wrap at 2^32, the later one is less than half the way round ahead (RFC 1982). */
export function isAfter(linkId: number, begunThrough: number | null): boolean {
  return begunThrough !== null && ((linkId - begunThrough) | 0) > 0;
}
