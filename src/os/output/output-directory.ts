import type { FSWatcher } from 'node:fs';
import { statSync, watch } from 'node:fs';
import type { Look } from './look-schedule.ts';
import { createLookSchedule } from './look-schedule.ts';
import { pieceBytes } from './output-file.ts';
import type { OutputSpace } from './output-space.ts';
import { createOutputSpace } from './output-space.ts';

/** The output files of all workers, and the single watch that reports new output. */
export interface OutputDirectory {
  readonly path: string;
  readonly space: OutputSpace;
  /** A buffer that all readers share; valid within one call only. */
  readonly buffer: Buffer;
  /** Calls `look` soon after the worker writes, and every 2 s in any case. */
  add(workerId: string, look: Look): void;
  remove(workerId: string): void;
  onProblem(message: string): void;
  /** Stops watching. The files stay for the next agent. */
  close(): void;
}

/** Interval of unconditional looks: a watch event may get lost, or the directory may be removed. */
const slowLookEveryMs = 2_000;
/** How many reported problems are remembered; some name a worker, and workers come and go. */
const reportedMax = 1_000;

/** `onProblem` is called once for each problem that makes output reading slower or less complete. */
export function openOutputDirectory(path: string, options: { onProblem(message: string): void }): OutputDirectory {
  const looks = createLookSchedule();
  let watched: { readonly watcher: FSWatcher; readonly inode: number } | null = null;
  const reported = new Set<string>();

  const onProblem = (message: string): void => {
    if (!reported.has(message)) options.onProblem(message);
    if (reported.size >= reportedMax) reported.clear();
    reported.add(message);
  };

  const onChange = (fileName: string | null): void => {
    if (fileName === null) looks.dueAll();
    else if (!fileName.endsWith('.read')) looks.due(fileName.slice(0, -'.out'.length));
  };

  /** Watches again if the directory was removed and recreated. */
  const watchIt = (): void => {
    const inode = inodeOf(path);
    if (inode === watched?.inode) return;
    watched?.watcher.close();
    watched = null;
    if (inode === undefined) return;
    try {
      const watcher = watch(path, { persistent: false }, (_, fileName) => onChange(fileName));
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
    looks.dueAll();
  }, slowLookEveryMs);
  slow.unref();
  watchIt();

  return {
    path,
    space: createOutputSpace({ onProblem }),
    buffer: Buffer.allocUnsafe(pieceBytes),
    onProblem,
    add: (workerId, look) => {
      if (watched === null) watchIt();
      looks.add(workerId, look);
    },
    remove: looks.remove,
    close: () => {
      clearInterval(slow);
      looks.close();
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
