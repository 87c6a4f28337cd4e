import type { Socket } from 'node:net';

/** Something that can be closed at once to make room, such as a connection without a call. */
export interface Evictable {
  destroy(): void;
}

export interface ConnectionLimitOptions {
  /** Called for each new connection, because the limit depends on the number of workers. */
  max(): number;
  /** The connection that can best be closed for a new one; undefined: all are in use. */
  evictable(open: ReadonlySet<Socket>): Evictable | undefined;
  /** New connections were closed, because all others are in use. Called at most once a minute. */
  onRefused(message: string): void;
}

/** The numbers of one server's connections, for the metrics. */
export interface ConnectionNumbers {
  readonly open: number;
  readonly max: number;
  /** New connections that were closed at once, because all others were in use. */
  readonly refused: number;
  /** Idle connections that were closed for a new one. */
  readonly evicted: number;
}

export interface ConnectionLimit {
  readonly open: ReadonlySet<Socket>;
  /** False: there is no room, and the socket was closed. */
  admit(socket: Socket): boolean;
  /** Settles when no connection is open. `admit` may still be called afterwards. */
  none(): Promise<void>;
  destroyAll(): void;
  numbers(): ConnectionNumbers;
}

const reportEveryMs = 60_000;

/**
 * Bounds the connections of one server. At the bound an idle connection is closed for a new one, so that a stranger who holds
 * idle connections keeps nobody out.
 */
export function limitConnections({ max, evictable, onRefused }: ConnectionLimitOptions): ConnectionLimit {
  const open = new Set<Socket>();
  let waiting: (() => void)[] = [];
  let refused = 0;
  let evicted = 0;
  /** How many of `refused` were reported. */
  let reportedRefused = 0;
  let reportedAtMs = Number.NEGATIVE_INFINITY;

  const refuse = (socket: Socket): void => {
    socket.destroy();
    refused += 1;
    const nowMs = performance.now();
    if (nowMs - reportedAtMs < reportEveryMs) return;
    reportedAtMs = nowMs;
    onRefused(
      `${refused - reportedRefused} new connections were closed: ${open.size} are open and in use, and there is room for no more`,
    );
    reportedRefused = refused;
  };

  const forget = (socket: Socket): void => {
    open.delete(socket);
    if (open.size > 0) return;
    for (const resolve of waiting) resolve();
    waiting = [];
  };

  return {
    open,
    admit: (socket) => {
      // The server notices a broken connection itself.
      socket.on('error', () => undefined);
      if (open.size >= max()) {
        const victim = evictable(open);
        if (victim === undefined) {
          refuse(socket);
          return false;
        }
        victim.destroy();
        evicted += 1;
      }
      open.add(socket);
      socket.once('close', () => forget(socket));
      return true;
    },
    none: () => (open.size === 0 ? Promise.resolve() : new Promise((resolve) => waiting.push(resolve))),
    destroyAll: () => {
      for (const socket of open) socket.destroy();
    },
    numbers: () => ({ open: open.size, max: max(), refused, evicted }),
  };
}
