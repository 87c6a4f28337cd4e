import type { WorkerCounters } from './counters.ts';
import type { Request } from './request.ts';

/** The link to one worker, as dispatch uses it. */
export interface RequestLink {
  request(request: LinkRequest): void;
  /** A request that is not written yet is never written: `onReturned` is called for it. */
  cancel(linkId: number): void;
  /** The worker holds back the request's chunks until `resume`. */
  pause(linkId: number): void;
  resume(linkId: number): void;
  /**
   * Asks the worker to return the requests that it has not begun, which `onReturned` will report. Returns those that are not
   * written yet, which are not written any more.
   */
  recall(): readonly number[];
  /** The worker need not keep the answer any longer: the caller has it, or nobody will ask for it. */
  ack(linkId: number): void;
  /** Asks for an answer from its beginning. `onReplayed` is called before its first chunk. */
  replay(linkId: number): void;
  /** Link ids of requests that are not written yet, so the worker does not know of them. */
  unwritten(): ReadonlySet<number>;
}

/** Request of link.proto. */
export interface LinkRequest {
  readonly id: number;
  readonly command: string;
  readonly payload: Buffer;
  readonly content_type: string;
  readonly request_id: string;
  readonly session_id: string;
  readonly timeout_ms: number;
  /** The worker keeps the answer until it is acknowledged. */
  readonly keep: boolean;
}

/** HeldRequest of link.proto: a request that a worker has when it dials again. */
export interface HeldRequest {
  readonly id: number;
  readonly request_id: string;
  readonly command: string;
  readonly keep: boolean;
  readonly ended: boolean;
  readonly remaining_ms: number;
  readonly age_ms: number;
  readonly payload_bytes: number;
  readonly payload_crc32: number;
  readonly cancelled: boolean;
}

export interface Resumed {
  readonly last_id: number;
  readonly completed: number;
  readonly failed: number;
  readonly held: readonly HeldRequest[];
}

export interface NewWorker {
  readonly workerId: string;
  readonly pool: string;
  readonly concurrency: number;
  /** 0: no limit. */
  readonly maxRequests: number;
  readonly commands: ReadonlyMap<string, WorkerCommand>;
  /** The worker marks which requests began, and the mark survives it. Requests that did not begin can be sent elsewhere. */
  readonly marksBegun: boolean;
  /** The last link id that the worker marked as begun; null: any request may have begun. */
  lastBegunLinkId(): number | null;
  readonly counters: WorkerCounters;
  readonly link: RequestLink;
  /** What the worker did and holds from earlier links; null: it is new. */
  readonly resumed: Resumed | null;
  /** The worker gets no new requests until `resumeWorker`. */
  readonly paused: boolean;
}

interface WorkerCommand {
  readonly streams: boolean;
  readonly isAsync: boolean;
}

export interface DispatchWorker extends Omit<NewWorker, 'link' | 'resumed' | 'paused'> {
  /** The current link: each dial makes a new one. */
  link: RequestLink;
  /** Requests whose answers the worker keeps, because they are not acknowledged yet; by link id. */
  readonly kept: Map<number, Request>;
  /** Requests that the worker has, by link id. A request that was given up keeps its place until the worker answers. */
  readonly running: Map<number, Request>;
  paused: boolean;
  /** The worker announced that it takes no more requests. */
  leaving: boolean;
  nextLinkId: number;
  /** Payload bytes of the requests in `running`. */
  payloadBytes: number;
  /** How long the requests in `running` will take, judged by how long such requests took lately. */
  expectedMs: number;
  lastAnswerAtMs: number;
  /** The worker was asked to return waiting requests, and has not caught up since. */
  stalled: boolean;
  /** The load by which FreeWorkers lists the worker; -1: it is not listed. */
  freeAt: number;
  nextFree: DispatchWorker | null;
  previousFree: DispatchWorker | null;
}

export interface WorkerEnd {
  readonly reason: string;
  readonly message: string;
  /** The last link id that the worker marked as begun; null: any of its requests may have begun. */
  readonly lastBegunLinkId: number | null;
  /** The end was not planned: a request may have caused it. */
  readonly crashed: boolean;
}
