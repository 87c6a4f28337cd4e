import type { DispatchWorker } from './worker.ts';

/** The workers of a pool that can take another request, by how many they have: O(1) to find the least loaded. */
export interface FreeWorkers {
  readonly size: number;
  /** The least loaded; of equals the one that waits longest. */
  first(): DispatchWorker | null;
  /** Least loaded first. */
  all(): Iterable<DispatchWorker>;
  add(worker: DispatchWorker): void;
  remove(worker: DispatchWorker): void;
}

export function createFreeWorkers(): FreeWorkers {
  // One list a load; a Set keeps the order of arrival and forgets in O(1).
  const byLoad: Set<DispatchWorker>[] = [];
  let size = 0;
  let least = 0;
  return {
    get size() {
      return size;
    },
    first: () => {
      if (size === 0) return null;
      while ((byLoad[least]?.size ?? 0) === 0) least += 1;
      for (const worker of byLoad[least] ?? []) return worker;
      return null;
    },
    all: function* () {
      for (const workers of byLoad) yield* workers;
    },
    add: (worker) => {
      const load = worker.counters.inFlight;
      while (byLoad.length <= load) byLoad.push(new Set());
      byLoad[load]?.add(worker);
      worker.freeAt = load;
      size += 1;
      if (load < least) least = load;
    },
    remove: (worker) => {
      if (worker.freeAt < 0) return;
      byLoad[worker.freeAt]?.delete(worker);
      worker.freeAt = -1;
      size -= 1;
    },
  };
}
