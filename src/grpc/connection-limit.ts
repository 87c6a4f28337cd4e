import type { Socket } from 'node:net';

/** Something that can be closed at once to make room, such as a connection without a call. */
export interface Evictable {
  destroy(): void;
}

export interface ConnectionLimitOptions {
  /** Asked at each new connection, since it depends on how many workers there are. */
  max(): number;
  /** The connection that is missed least; undefined: all are in use. */
  evictable(open: ReadonlySet<Socket>): Evictable | undefined;
  /** All are in use and there is no room: a new connection was closed. Called at most once a minute. */
  onRefused(message: string): void;
}

/** What metrics show of one server's connections. */
export interface ConnectionNumbers {
  readonly open: number;
  readonly max: number;
  /** Closed at once, because all others were in use. */
  readonly refused: number;
  /** Idle connections that were closed for a new one. */
  readonly evicted: number;
}

export interface ConnectionLimit {
  readonly open: ReadonlySet<Socket>;
  /** False: there is no room, and the socket is closed. */
  admit(socket: Socket): boolean;
  /** Settles when none is open any more. New ones may come as long as somebody admits them. */
  none(): Promise<void>;
  destroyAll(): void;
  numbers(): ConnectionNumbers;
}

const tellEveryMs = 60_000;

/**
 * Bounds the connections of one server. At the bound a connection that does nothing gives way to the new one, so that a
 * stranger who holds idle ones keeps nobody out.
 */
export function limitConnections({ max, evictable, onRefused }: ConnectionLimitOptions): ConnectionLimit {
  const open = new Set<Socket>();
  let waiting: (() => void)[] = [];
  let refused = 0;
  let evicted = 0;
  /** Of `refused`, those that a message told of. */
  let toldRefused = 0;
  let toldAtMs = Number.NEGATIVE_INFINITY;

  const refuse = (socket: Socket): void => {
    socket.destroy();
    refused += 1;
    const nowMs = performance.now();
    if (nowMs - toldAtMs < tellEveryMs) return;
    toldAtMs = nowMs;
    onRefused(
      `${refused - toldRefused} new connections were closed: ${open.size} are open and in use, and there is room for no more`,
    );
    toldRefused = refused;
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
      // A connection that breaks is its owner's to notice.
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
