import { lstatSync, rmSync } from 'node:fs';
import { lockDirectory, lockHolder } from '../os/storage/agent-lock.ts';
import type { RuntimeDirectory } from '../os/storage/directories.ts';
import { prepareRuntimeDirectory } from '../os/storage/directories.ts';
import type { Log } from '../telemetry/log.ts';

/**
 * Something may take the runtime directory away while the agent runs: a cleaner of /tmp, a script, a tmpfs that is mounted over
 * it. Callers and workers then find no socket to dial, and a second agent no lock. What is ours is made again; where that fails the
 * log and /readyz say so until it works.
 */
export interface RuntimeWatch {
  /** What is wrong, for people; empty: nothing. */
  trouble(): string;
  close(): void;
}

export interface RuntimeWatchOptions {
  readonly directory: string;
  readonly paths: RuntimeDirectory;
  /** The API's socket of the service manager; null: it is ours. */
  readonly lent: { readonly path: string } | null;
  /** The group that may use the API's socket; null: none may. */
  readonly group: number | null;
  readonly log: Pick<Log, 'warn' | 'error'>;
  bindApi(): Promise<void>;
  bindLink(): Promise<void>;
}

const lookEveryMs = 2_000;

interface OwnSocket {
  readonly path: string;
  inode: number | undefined;
  bind(): Promise<void>;
}

/** To be called once the sockets are there. */
export function watchRuntime(options: RuntimeWatchOptions): RuntimeWatch {
  const { directory, paths, lent, group, log } = options;
  const socketOf = (path: string, bind: () => Promise<void>): OwnSocket => ({ path, inode: inodeOf(path), bind });
  const link = socketOf(paths.linkSocket, options.bindLink);
  const sockets = lent === null ? [socketOf(paths.apiSocket, options.bindApi), link] : [link];
  let trouble = '';
  let looking = false;
  let closed = false;

  const look = async (): Promise<void> => {
    const lost = sockets.filter(({ path, inode }) => inodeOf(path) !== inode);
    const isLocked = lockHolder(directory) !== 'nobody or another';
    if (lost.length > 0 || !isLocked) await restore(lost, isLocked);
    if (lent !== null && lent.path !== '' && inodeOf(lent.path) === undefined) {
      throw new Error(`${lent.path}, the service manager's socket, is gone: restart its socket unit`);
    }
  };

  const restore = async (lost: readonly OwnSocket[], isLocked: boolean): Promise<void> => {
    prepareRuntimeDirectory(directory, { lent, group, warn: log.warn });
    // Throws where another agent has taken the directory meanwhile.
    if (!isLocked) lockDirectory(directory);
    for (const socket of lost) {
      if (closed) return;
      rmSync(socket.path, { force: true });
      await socket.bind();
      socket.inode = inodeOf(socket.path);
    }
    const what = [...lost.map(({ path }) => path), ...(isLocked ? [] : ['the lock'])].join(', ');
    log.warn(`${directory}: something took away what an agent needs there; made again: ${what}`);
  };

  const timer = setInterval(() => {
    if (looking) return;
    looking = true;
    void look()
      .then(
        () => '',
        (error: unknown) => (error instanceof Error ? error.message : String(error)),
      )
      .then((found) => {
        looking = false;
        if (closed) return;
        if (found !== '' && found !== trouble) log.error(`the runtime directory cannot be used: ${found}`);
        trouble = found;
      });
  }, lookEveryMs);
  timer.unref();

  return {
    trouble: () => trouble,
    close: () => {
      closed = true;
      clearInterval(timer);
    },
  };
}

/** Undefined: there is none, or it cannot be seen. */
function inodeOf(path: string): number | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false })?.ino;
  } catch {
    return undefined;
  }
}
