import type { Http2Session, ServerHttp2Stream } from 'node:http2';
import type { Request, ResponseSink } from '../dispatch/request.ts';
import type { Identity } from './access/identity.ts';
import type { Receipts } from './execution/receipts.ts';
import type { MemoryAccount } from './memory-budget.ts';

/** The state that all calls of one HTTP/2 connection share. */
export interface Connection {
  /** Bytes of answers that the client has not received yet. */
  unreadBytes: number;
  /** Answers to named requests that were written, and are not proven to be read; undefined: there were none yet. */
  receipts: Receipts<UnprovenAnswer> | undefined;
  /** Payload bytes of those requests. They count towards the node's budget too. */
  unprovenBytes: number;
  /** The memory that the agent holds for the connection; undefined: the server has no budget, or no call was made yet. */
  memory: MemoryAccount | undefined;
  /** Settles when the last compressed message is decompressed. */
  decompression: Promise<unknown>;
  /** Called for each call and each piece of a message that arrives: see fair-reading.ts. */
  worked: () => void;
  /** Called for each call that ended by a reset: see cancels.ts. */
  wasReset: () => void;
  /** Who calls over it; undefined: whoever connects may call everything, or no call was made yet. */
  identity: Identity | undefined;
  /** Undefined: grpc-js does not show it. */
  readonly session: Http2Session | undefined;
}

/** An answered request, and the sink that received the answer. */
export interface UnprovenAnswer {
  readonly request: Request;
  readonly sink: ResponseSink;
  /** Bytes of the request's payload that are still held. */
  readonly payloadBytes: number;
  /** `payloadBytes`, and those of the rest of the request. */
  readonly heldBytes: number;
}

/** Counts bytes of answers that were written or, if negative, received. They count towards the node's budget too. */
export function addUnread(connection: Connection, bytes: number): void {
  connection.unreadBytes += bytes;
  connection.memory?.add(bytes);
}

/** False: the connection may not leave this much more unread, and nothing was counted. */
export function tryAddUnread(connection: Connection, bytes: number): boolean {
  const { memory } = connection;
  if (memory !== undefined && !memory.take(bytes)) return false;
  connection.unreadBytes += bytes;
  return true;
}

/** The unread answers of one call. They count as unread answers of its connection too. */
export interface CallUnread {
  readonly bytes: number;
  add(bytes: number): void;
  /** False: the connection may not leave this much more unread, and nothing was counted. */
  tryAdd(bytes: number): boolean;
  taken(bytes: number): void;
  /** The call is over, so its caller receives nothing more. */
  forget(): void;
}

export function unreadOfCall(connection: Connection): CallUnread {
  let bytes = 0;
  return {
    get bytes() {
      return bytes;
    },
    add: (added) => {
      bytes += added;
      addUnread(connection, added);
    },
    tryAdd: (added) => {
      if (!tryAddUnread(connection, added)) return false;
      bytes += added;
      return true;
    },
    taken: (takenBytes) => {
      // grpc-js may report a message as written after the call is over.
      const known = Math.min(takenBytes, bytes);
      bytes -= known;
      addUnread(connection, -known);
    },
    forget: () => {
      addUnread(connection, -bytes);
      bytes = 0;
    },
  };
}

const connections = new WeakMap<Http2Session, Connection>();

/**
 * The connection of a call. It is read from a private field of grpc-js. If a later version renames the field, each call counts as
 * a connection of its own.
 */
export function connectionOf(call: object): Connection {
  return connectionOfStream(streamOf(call));
}

export function connectionOfStream(stream: ServerHttp2Stream | undefined): Connection {
  const session = stream?.session;
  return session === undefined ? newConnection(session) : connectionOfSession(session);
}

export function connectionOfSession(session: Http2Session): Connection {
  let connection = connections.get(session);
  if (connection === undefined) {
    connection = newConnection(session);
    connections.set(session, connection);
  }
  return connection;
}

function newConnection(session: Http2Session | undefined): Connection {
  return {
    unreadBytes: 0,
    receipts: undefined,
    unprovenBytes: 0,
    memory: undefined,
    decompression: Promise.resolve(),
    worked: () => undefined,
    wasReset: () => undefined,
    identity: undefined,
    session,
  };
}

/**
 * How a call has ended. `written`: the kernel has the whole answer. `cancelled`: the caller reset the stream, because it
 * cancelled or its own deadline passed. `broken`: the connection broke.
 */
export function howEnded(call: object, { session }: Connection): 'written' | 'cancelled' | 'broken' {
  if (session === undefined || session.destroyed || session.socket.destroyed) {
    return streamOf(call)?.rstCode === 0 ? 'written' : 'broken';
  }
  return streamOf(call)?.rstCode === 0 ? 'written' : 'cancelled';
}

function streamOf(call: object): ServerHttp2Stream | undefined {
  const { call: inner } = call as { readonly call?: { readonly stream?: ServerHttp2Stream } };
  return inner?.stream;
}
