import { lstatSync, rmSync } from 'node:fs';
import { lockDirectory, lockHolder } from '../os/storage/agent-lock.ts';
import type { RuntimeDirectory } from '../os/storage/directories.ts';
import { prepareRuntimeDirectory } from '../os/storage/directories.ts';
import type { Log } from '../telemetry/log.ts';

/**
 * The runtime directory may be removed while the agent runs: by a cleaner of /tmp, by a script, or because a tmpfs is
 * mounted over it. Then callers and workers find no socket, and a second agent finds no lock. What belongs to this
 * agent is created again. If that fails, the log and /readyz report it until it succeeds.
 */
export interface RuntimeWatch {
  /** The problem that was found, as a message for users; empty if there is none. */
  problem(): string;
  close(): void;
}

export interface RuntimeWatchOptions {
  readonly directory: string;
  readonly paths: RuntimeDirectory;
  /** The API's socket if the service manager passed one; null if the agent created it. */
  readonly passedSocket: { readonly path: string } | null;
  /** The group that may use the API's socket; null: none. */
  readonly group: number | null;
  /** The group that may use control.sock; null: none. */
  readonly controlGroup: number | null;
  readonly log: Pick<Log, 'warn' | 'error'>;
  bindApi(): Promise<void>;
  bindControl(): Promise<void>;
  bindLink(): Promise<void>;
}

const lookEveryMs = 2_000;

interface OwnSocket {
  readonly path: string;
  inode: number | undefined;
  bind(): Promise<void>;
}

/** Call this once the sockets exist. */
export function watchRuntime(options: RuntimeWatchOptions): RuntimeWatch {
  const { directory, paths, passedSocket, group, controlGroup, log } = options;
  const socketOf = (path: string, bind: () => Promise<void>): OwnSocket => ({ path, inode: inodeOf(path), bind });
  const own = [socketOf(paths.controlSocket, options.bindControl), socketOf(paths.linkSocket, options.bindLink)];
  const sockets = passedSocket === null ? [socketOf(paths.apiSocket, options.bindApi), ...own] : own;
  let problem = '';
  let looking = false;
  let closed = false;

  const look = async (): Promise<void> => {
    const lost = sockets.filter(({ path, inode }) => inodeOf(path) !== inode);
    // While the lock cannot be read, it counts as ours.
    const lockIsOurs = lockHolder(directory) !== 'nobody or another';
    if (lost.length > 0 || !lockIsOurs) await restore(lost, lockIsOurs);
    if (passedSocket !== null && passedSocket.path !== '' && inodeOf(passedSocket.path) === undefined) {
      throw new Error(`${passedSocket.path}, the service manager's socket, is gone: restart its socket unit`);
    }
  };

  const restore = async (lost: readonly OwnSocket[], lockIsOurs: boolean): Promise<void> => {
    prepareRuntimeDirectory(directory, { passedSocket, group, controlGroup, warn: log.warn });
    // Throws if another agent has locked the directory meanwhile.
    if (!lockIsOurs) lockDirectory(directory);
    for (const socket of lost) {
      if (closed) return;
      rmSync(socket.path, { force: true });
      await socket.bind();
      socket.inode = inodeOf(socket.path);
    }
    const what = [...lost.map(({ path }) => path), ...(lockIsOurs ? [] : ['the lock'])].join(', ');
    log.warn(`${directory}: files that the agent needs were removed; created again: ${what}`);
  };

  const timer = setInterval(() => {
    if (looking) return;
    looking = true;
    void look()
      .then(
        () => '',
        (error: unknown) => (error instanceof Error ? error.message : String(error)),
      )
      .then((current) => {
        looking = false;
        if (closed) return;
        if (current !== '' && current !== problem) log.error(`the runtime directory cannot be used: ${current}`);
        problem = current;
      });
  }, lookEveryMs);
  timer.unref();

  return {
    problem: () => problem,
    close: () => {
      closed = true;
      clearInterval(timer);
    },
  };
}

/** Undefined if the file does not exist or cannot be read. */
function inodeOf(path: string): number | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false })?.ino;
  } catch {
    return undefined;
  }
}
