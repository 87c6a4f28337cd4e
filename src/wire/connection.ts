import type { ServerHttp2Session } from 'node:http2';

/** What the calls of one HTTP/2 connection share. */
export interface Connection {
  /** Bytes of answers that its other side has not taken yet. */
  unreadBytes: number;
}

const connections = new WeakMap<ServerHttp2Session, Connection>();

/**
 * The connection that a call came by. grpc-js keeps it to itself, so it is read off the stream inside of the call: should
 * that move in a later version, calls get a connection each.
 */
export function connectionOf(call: object): Connection {
  const { call: inner } = call as { readonly call?: { readonly stream?: { readonly session?: ServerHttp2Session } } };
  const session = inner?.stream?.session;
  if (session === undefined) return { unreadBytes: 0 };
  let connection = connections.get(session);
  if (connection === undefined) {
    connection = { unreadBytes: 0 };
    connections.set(session, connection);
  }
  return connection;
}
