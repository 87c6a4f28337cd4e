import type { WorkerCounters } from './counters.ts';
import type { Request } from './request.ts';

/** The line to one worker, as dispatch needs it. */
export interface RequestLink {
  request(request: LinkRequest): void;
  cancel(linkId: number): void;
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
}

export interface NewWorker {
  readonly workerId: string;
  readonly pool: string;
  readonly concurrency: number;
  /** 0: no limit. */
  readonly maxRequests: number;
  readonly commands: ReadonlyMap<string, { readonly streams: boolean }>;
  readonly counters: WorkerCounters;
  readonly link: RequestLink;
}

export interface DispatchWorker extends NewWorker {
  /** By link id; a request that ended early keeps its place until the worker answers. */
  readonly running: Map<number, Request>;
  paused: boolean;
  /** Its load where FreeWorkers has it; -1: not there. */
  freeAt: number;
}
