/** The load of all queues of one pool. */
export interface QueueLoad {
  requests: number;
  bytes: number;
}

/** The place of a request in the queue that it is in. */
export interface Queued<Item> {
  readonly payloadBytes: number;
  queue: Queue<Item> | null;
  nextQueued: Item | null;
  previousQueued: Item | null;
}

/** Requests that wait for a worker, first come, first served. Any of them leaves in O(1). A request is in at most one queue. */
export interface Queue<Item> {
  readonly length: number;
  first(): Item | null;
  push(request: Item): void;
  /** Puts a request that has waited before back to the front. */
  unshift(request: Item): void;
  remove(request: Item): void;
}

export function createQueue<Item extends Queued<Item>>(load: QueueLoad): Queue<Item> {
  let head: Item | null = null;
  let tail: Item | null = null;
  let length = 0;
  const added = (request: Item): void => {
    request.queue = queue;
    length += 1;
    load.requests += 1;
    load.bytes += request.payloadBytes;
  };
  const queue: Queue<Item> = {
    get length() {
      return length;
    },
    first: () => head,
    push: (request) => {
      request.previousQueued = tail;
      if (tail === null) head = request;
      else tail.nextQueued = request;
      tail = request;
      added(request);
    },
    unshift: (request) => {
      request.nextQueued = head;
      if (head === null) tail = request;
      else head.previousQueued = request;
      head = request;
      added(request);
    },
    remove: (request) => {
      if (request.previousQueued === null) head = request.nextQueued;
      else request.previousQueued.nextQueued = request.nextQueued;
      if (request.nextQueued === null) tail = request.previousQueued;
      else request.nextQueued.previousQueued = request.previousQueued;
      request.nextQueued = null;
      request.previousQueued = null;
      request.queue = null;
      length -= 1;
      load.requests -= 1;
      load.bytes -= request.payloadBytes;
    },
  };
  return queue;
}
