/** Reads from a worker's files. Returns whether there is more to read. */
export type Look = () => boolean;

/** Decides when the output files of each worker are looked at. */
export interface LookSchedule {
  add(workerId: string, look: Look): void;
  remove(workerId: string): void;
  /** The worker has written: its files are looked at soon. An unknown worker is ignored. */
  due(workerId: string): void;
  dueAll(): void;
  /** Looks at nothing any more. */
  close(): void;
}

/** Minimum interval between two looks at the files: each look costs more than reading the lines does. */
const lookEveryMs = 20;
/** How long a round of looks may run before it yields to other work. */
const turnMs = 2;

export function createLookSchedule(): LookSchedule {
  const looks = new Map<string, Look>();
  let dueIds = new Set<string>();
  let scheduled: NodeJS.Timeout | NodeJS.Immediate | null = null;
  let lookedAtMs = Number.NEGATIVE_INFINITY;

  const schedule = (): void => {
    if (scheduled !== null || dueIds.size === 0) return;
    const waitMs = Math.ceil(lookedAtMs + lookEveryMs - performance.now());
    scheduled = waitMs > 0 ? setTimeout(round, waitMs) : setImmediate(round);
  };

  const round = (): void => {
    const workerIds = dueIds.values();
    dueIds = new Set();
    lookedAtMs = performance.now();
    turn(workerIds);
  };

  const turn = (workerIds: Iterator<string>): void => {
    const startedAtMs = performance.now();
    for (let next = workerIds.next(); !next.done; next = workerIds.next()) {
      if (looks.get(next.value)?.()) dueIds.add(next.value);
      if (performance.now() - startedAtMs < turnMs) continue;
      scheduled = setImmediate(() => turn(workerIds));
      return;
    }
    scheduled = null;
    schedule();
  };

  const due = (workerId: string): void => {
    if (!looks.has(workerId)) return;
    dueIds.add(workerId);
    schedule();
  };

  return {
    add: (workerId, look) => {
      looks.set(workerId, look);
      due(workerId);
    },
    remove: (workerId) => looks.delete(workerId),
    due,
    dueAll: () => {
      for (const workerId of looks.keys()) dueIds.add(workerId);
      schedule();
    },
    close: () => looks.clear(),
  };
}
