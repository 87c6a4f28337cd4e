import type { Http2Session } from 'node:http2';

/**
 * Makes connections take turns. Node reads a connection for as long as bytes come in, up to 2 MiB at a time: enough to
 * begin and cancel tens of thousands of calls before any other connection is read. So after some work a connection
 * is not read again until the others have been. Of several such connections one is read in each turn of the event loop.
 */
export interface FairReading {
  /** Returns what is to be called for each piece of work that the connection makes: a call, or a piece of a message. */
  add(session: Http2Session): () => void;
}

/** After so many calls and pieces it is another's turn. What Node has read by then, up to 64 KiB, is worked on all the same. */
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

/** While a write is underway Node reads nothing, and begins to read when the write has ended. */
function startReading(session: Http2Session): void {
  const handle = handleOf(session);
  if (handle?.writeQueueSize === 0) handle.readStart();
}

interface SocketHandle {
  readonly writeQueueSize: number;
  readStop(): void;
  readStart(): void;
}

/** Node's HTTP/2 reads beside the socket, whose own `pause` is forbidden. */
function handleOf({ destroyed, socket }: Http2Session): SocketHandle | undefined {
  if (destroyed) return undefined;
  return (socket as unknown as { readonly _handle?: SocketHandle | null } | undefined)?._handle ?? undefined;
}
