import type { FSWatcher } from 'node:fs';
import { statSync, watch } from 'node:fs';
import { pieceBytes } from './output-file.ts';
import type { OutputSpace } from './output-space.ts';
import { createOutputSpace } from './output-space.ts';

/** The output files of all workers, and the single watch that reports new output. */
export interface OutputDirectory {
  readonly path: string;
  readonly space: OutputSpace;
  /** A buffer that all readers share; valid within one call only. */
  readonly buffer: Buffer;
  /**
   * Calls `look` soon after the worker writes, and every 2 s in any case. `look` returns whether there is more to read.
   */
  add(workerId: string, look: () => boolean): void;
  remove(workerId: string): void;
  onProblem(message: string): void;
  /** Stops watching. The files stay for the next agent. */
  close(): void;
}

/** Minimum interval between two looks at the files: each look costs more than reading the lines does. */
const lookEveryMs = 20;
/** How long a round of looks may run before it yields to other work. */
const turnMs = 2;
/** Interval of unconditional looks: a watch event may get lost, or the directory may be removed. */
const slowLookEveryMs = 2_000;
/** How many reported problems are remembered; some name a worker, and workers come and go. */
const reportedMax = 1_000;

/** `onProblem` is called once for each problem that makes output reading slower or less complete. */
export function openOutputDirectory(path: string, options: { onProblem(message: string): void }): OutputDirectory {
  const looks = new Map<string, () => boolean>();
  let due = new Set<string>();
  let scheduled: NodeJS.Timeout | NodeJS.Immediate | null = null;
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  let watched: { readonly watcher: FSWatcher; readonly inode: number } | null = null;
  const reported = new Set<string>();

  const onProblem = (message: string): void => {
    if (!reported.has(message)) options.onProblem(message);
    if (reported.size >= reportedMax) reported.clear();
    reported.add(message);
  };

  const schedule = (): void => {
    if (scheduled !== null || due.size === 0) return;
    const waitMs = Math.ceil(lookedAtMs + lookEveryMs - performance.now());
    scheduled = waitMs > 0 ? setTimeout(() => turn(take()), waitMs) : setImmediate(() => turn(take()));
  };

  const take = (): Iterator<string> => {
    const taken = due;
    due = new Set();
    lookedAtMs = performance.now();
    return taken.values();
  };

  const turn = (workerIds: Iterator<string>): void => {
    const startedAtMs = performance.now();
    for (let next = workerIds.next(); !next.done; next = workerIds.next()) {
      if (looks.get(next.value)?.()) due.add(next.value);
      if (performance.now() - startedAtMs < turnMs) continue;
      scheduled = setImmediate(() => turn(workerIds));
      return;
    }
    scheduled = null;
    schedule();
  };

  const wake = (fileName: string | null): void => {
    if (fileName === null) return wakeAll();
    const stem = fileName.slice(0, -'.out'.length);
    if (fileName.endsWith('.read') || !looks.has(stem)) return;
    due.add(stem);
    schedule();
  };

  const wakeAll = (): void => {
    for (const workerId of looks.keys()) due.add(workerId);
    schedule();
  };

  /** Watches again if the directory was removed and recreated. */
  const watchIt = (): void => {
    const inode = inodeOf(path);
    if (inode === watched?.inode) return;
    watched?.watcher.close();
    watched = null;
    if (inode === undefined) return;
    try {
      const watcher = watch(path, { persistent: false }, (_, fileName) => wake(fileName));
      watcher.on('error', (error) =>
        onProblem(`${path}: watching it failed, worker output is read every 2 s: ${error.message}`),
      );
      watched = { watcher, inode };
    } catch (error) {
      onProblem(`${path}: cannot watch it, worker output is read every 2 s: ${(error as Error).message}`);
    }
  };

  const slow = setInterval(() => {
    watchIt();
    wakeAll();
  }, slowLookEveryMs);
  slow.unref();
  watchIt();

  return {
    path,
    space: createOutputSpace({ onProblem }),
    buffer: Buffer.allocUnsafe(pieceBytes),
    onProblem,
    add: (workerId, look) => {
      looks.set(workerId, look);
      if (watched === null) watchIt();
      due.add(workerId);
      schedule();
    },
    remove: (workerId) => looks.delete(workerId),
    close: () => {
      clearInterval(slow);
      looks.clear();
      watched?.watcher.close();
    },
  };
}

/** Undefined if the path does not exist or cannot be read. */
function inodeOf(path: string): number | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })?.ino;
  } catch {
    return undefined;
  }
}
