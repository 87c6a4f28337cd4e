import type { WorkerCounters } from './counters.ts';
import type { Request } from './request.ts';

/** The line to one worker, as dispatch needs it. */
export interface RequestLink {
  request(request: LinkRequest): void;
  /** One that is not written yet never is, and comes back as `onReturned`. */
  cancel(linkId: number): void;
  /** Its caller does not keep up: the worker holds back its chunks until `resume`. */
  pause(linkId: number): void;
  resume(linkId: number): void;
  /** Asks for the requests back that have not begun; they come as `onReturned`, save those not written yet: these are given. */
  recall(): readonly number[];
  /** Its caller has the answer, or nobody will ask for it: the worker need not keep it. */
  ack(linkId: number): void;
  /** Asks for an answer from its beginning; `onReplayed` says when that comes. */
  replay(linkId: number): void;
  /** Link ids of requests that are not written yet: the worker cannot know of them. */
  unwritten(): ReadonlySet<number>;
}

/** A message of link.proto. */
export interface LinkRequest {
  readonly id: number;
  readonly command: string;
  readonly payload: Buffer;
  readonly content_type: string;
  readonly request_id: string;
  readonly session_id: string;
  readonly timeout_ms: number;
  /** Its answer is to be kept until it is acknowledged. */
  readonly keep: boolean;
}

/** HeldRequest of link.proto: what a worker that comes back brings along. */
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
  /** It tells, even when it dies, which requests began; those that did not can be sent elsewhere. */
  readonly marksBegun: boolean;
  /** The last link id that the worker marked as begun; null: any request may have begun. */
  lastBegunLinkId(): number | null;
  readonly counters: WorkerCounters;
  readonly link: RequestLink;
  /** What it did and has from before; null: it is new. */
  readonly resumed: Resumed | null;
  /** It takes no new requests until `resumeWorker`. */
  readonly paused: boolean;
}

interface WorkerCommand {
  readonly streams: boolean;
  readonly isAsync: boolean;
}

export interface DispatchWorker extends Omit<NewWorker, 'link' | 'resumed' | 'paused'> {
  /** Another one when it has dialled again. */
  link: RequestLink;
  /** By link id: answers that are not acknowledged: on their way to callers, waiting for them, or asked for again. */
  readonly kept: Map<number, Request>;
  /** By link id; a request that ended early keeps its place until the worker answers. */
  readonly running: Map<number, Request>;
  paused: boolean;
  /** It said that it takes no more requests. */
  leaving: boolean;
  nextLinkId: number;
  /** Payload bytes of what it has. */
  payloadBytes: number;
  /** How long what it has will take, by what such requests took lately. */
  expectedMs: number;
  lastAnswerAtMs: number;
  /** It was asked for what waits in it, and has answered nothing since. */
  stalled: boolean;
  /** Its load where FreeWorkers has it; -1: not there. */
  freeAt: number;
  nextFree: DispatchWorker | null;
  previousFree: DispatchWorker | null;
}

export interface WorkerEnd {
  readonly reason: string;
  readonly message: string;
  /** The last link id that the worker marked as begun; null: any of its requests may have begun. */
  readonly lastBegunLinkId: number | null;
  /** Nobody planned it: a request that it had may be why. */
  readonly crashed: boolean;
}
