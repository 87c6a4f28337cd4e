import type { DispatchWorker } from './worker.ts';

/** The workers of a pool that can take another request, by how many requests they have. Finding the least loaded is O(1). */
export interface FreeWorkers {
  readonly size: number;
  /** The least loaded worker; among equals the first. */
  first(): DispatchWorker | null;
  /** All workers, the least loaded first. */
  all(): Iterable<DispatchWorker>;
  add(worker: DispatchWorker, where: 'first' | 'last'): void;
  remove(worker: DispatchWorker): void;
}

/** Workers that have the same number of requests; linked through the workers themselves. */
interface List {
  first: DispatchWorker | null;
  last: DispatchWorker | null;
}

export function createFreeWorkers(): FreeWorkers {
  const byLoad: List[] = [];
  let size = 0;
  let least = 0;
  return {
    get size() {
      return size;
    },
    first: () => {
      if (size === 0) return null;
      for (; ; least += 1) {
        const worker = byLoad[least]?.first;
        if (worker) return worker;
      }
    },
    all: function* () {
      for (const list of byLoad) for (let worker = list.first; worker !== null; worker = worker.nextFree) yield worker;
    },
    add: (worker, where) => {
      const load = worker.counters.inFlight;
      while (byLoad.length <= load) byLoad.push({ first: null, last: null });
      const list = byLoad[load] as List;
      const [next, previous] = where === 'first' ? [list.first, null] : [null, list.last];
      worker.nextFree = next;
      worker.previousFree = previous;
      if (next === null) list.last = worker;
      else next.previousFree = worker;
      if (previous === null) list.first = worker;
      else previous.nextFree = worker;
      worker.freeAt = load;
      size += 1;
      if (load < least) least = load;
    },
    remove: (worker) => {
      const list = byLoad[worker.freeAt];
      if (list === undefined) return;
      const { nextFree: next, previousFree: previous } = worker;
      if (next === null) list.last = previous;
      else next.previousFree = previous;
      if (previous === null) list.first = next;
      else previous.nextFree = next;
      worker.nextFree = null;
      worker.previousFree = null;
      worker.freeAt = -1;
      size -= 1;
    },
  };
}
