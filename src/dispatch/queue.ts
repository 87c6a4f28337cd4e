import type { Request } from './request.ts';

/** Requests that wait for a worker, first come first served; any of them leaves in O(1). */
export interface Queue {
  readonly length: number;
  readonly bytes: number;
  first(): Request | null;
  push(request: Request): void;
  /** Back to the front: it has waited already. */
  unshift(request: Request): void;
  remove(request: Request): void;
}

export function createQueue(): Queue {
  let head: Request | null = null;
  let tail: Request | null = null;
  let length = 0;
  let bytes = 0;
  return {
    get length() {
      return length;
    },
    get bytes() {
      return bytes;
    },
    first: () => head,
    push: (request) => {
      request.previousQueued = tail;
      if (tail === null) head = request;
      else tail.nextQueued = request;
      tail = request;
      length += 1;
      bytes += request.payloadBytes;
    },
    unshift: (request) => {
      request.nextQueued = head;
      if (head === null) tail = request;
      else head.previousQueued = request;
      head = request;
      length += 1;
      bytes += request.payloadBytes;
    },
    remove: (request) => {
      if (request.previousQueued === null) head = request.nextQueued;
      else request.previousQueued.nextQueued = request.nextQueued;
      if (request.nextQueued === null) tail = request.previousQueued;
      else request.nextQueued.previousQueued = request.previousQueued;
      request.nextQueued = null;
      request.previousQueued = null;
      length -= 1;
      bytes -= request.payloadBytes;
    },
  };
}
