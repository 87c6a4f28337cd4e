import type { Http2Session } from 'node:http2';

/**
 * Makes connections take turns. Node reads one connection for as long as bytes arrive, up to 2 MiB at a time. That is enough to
 * begin and cancel tens of thousands of calls before another connection is read. So after some work the agent stops
 * reading a connection, which then waits. In each turn of the event loop one waiting connection is read again: the one that has
 * waited longest.
 */
export interface FairReading {
  /** Returns a function to call for each piece of work on the connection: a call, or a piece of a message. */
  add(session: Http2Session): () => void;
}

/** Calls and pieces of one turn. Bytes that Node has read by then, up to 64 KiB, are still handled. */
const workPerTurn = 64;

export function createFairReading(): FairReading {
  const waiting = new Set<Http2Session>();
  const readNext = (): void => {
    const [session] = waiting;
    if (session === undefined) return;
    waiting.delete(session);
    startReading(session);
    if (waiting.size > 0) setImmediate(readNext);
  };
  return {
    add: (session) => {
      let work = 0;
      return () => {
        work += 1;
        if (work < workPerTurn) return;
        work = 0;
        if (waiting.has(session)) return;
        handleOf(session)?.readStop();
        waiting.add(session);
        if (waiting.size === 1) setImmediate(readNext);
      };
    },
  };
}

/** Does nothing during a write: Node starts to read by itself when the write has ended. */
function startReading(session: Http2Session): void {
  const handle = handleOf(session);
  if (handle?.writeQueueSize === 0) handle.readStart();
}

interface SocketHandle {
  readonly writeQueueSize: number;
  readStop(): void;
  readStart(): void;
}

/** Node's HTTP/2 reads through the handle, and forbids the socket's own `pause`. */
function handleOf({ destroyed, socket }: Http2Session): SocketHandle | undefined {
  if (destroyed) return undefined;
  return (socket as unknown as { readonly _handle?: SocketHandle | null } | undefined)?._handle ?? undefined;
}
