import type { FSWatcher } from 'node:fs';
import { statSync, watch } from 'node:fs';
import { pieceBytes } from './output-file.ts';
import type { OutputSpace } from './output-space.ts';
import { createOutputSpace } from './output-space.ts';

/** The files of all workers, and the one watch that tells of new lines. */
export interface OutputDirectory {
  readonly path: string;
  readonly space: OutputSpace;
  /** A place to read to, used within one call. */
  readonly buffer: Buffer;
  /** Calls `look` soon after the worker wrote, and now and then; it says whether there is more. */
  add(workerId: string, look: () => boolean): void;
  remove(workerId: string): void;
  onTrouble(message: string): void;
  /** Stops looking. The files stay, for the next agent. */
  close(): void;
}

/** While workers write, their files are looked at so often: each look costs more than the lines that it finds. */
const lookEveryMs = 20;
/** How long looks may take before other work has its turn. */
const turnMs = 2;
/** Whatever the watch says: an event may be lost, or the directory taken away. */
const slowLookEveryMs = 2_000;
/** Troubles that are known to have been told; some name a worker, and workers come and go. */
const toldMax = 1_000;

/** `onTrouble` is told, once each, what does not work as well here as it might. */
export function openOutputDirectory(path: string, options: { onTrouble(message: string): void }): OutputDirectory {
  const looks = new Map<string, () => boolean>();
  let due = new Set<string>();
  let scheduled: NodeJS.Timeout | NodeJS.Immediate | null = null;
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  let watched: { readonly watcher: FSWatcher; readonly inode: number } | null = null;
  const told = new Set<string>();

  const onTrouble = (message: string): void => {
    if (!told.has(message)) options.onTrouble(message);
    if (told.size >= toldMax) told.clear();
    told.add(message);
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

  /** Anew when the directory was taken away and is there again. */
  const watchIt = (): void => {
    const inode = inodeOf(path);
    if (inode === watched?.inode) return;
    watched?.watcher.close();
    watched = null;
    if (inode === undefined) return;
    try {
      const watcher = watch(path, { persistent: false }, (_, fileName) => wake(fileName));
      watcher.on('error', (error) => onTrouble(`${path}: no watch: ${error.message}`));
      watched = { watcher, inode };
    } catch (error) {
      onTrouble(`${path}: no watch, lines come late: ${(error as Error).message}`);
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
    space: createOutputSpace({ onTrouble }),
    buffer: Buffer.allocUnsafe(pieceBytes),
    onTrouble,
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

/** Undefined: it is not there, or cannot be looked at. */
function inodeOf(path: string): number | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })?.ino;
  } catch {
    return undefined;
  }
}
