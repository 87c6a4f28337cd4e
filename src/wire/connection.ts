import type { ServerHttp2Session } from 'node:http2';

/** What the calls of one HTTP/2 connection share. */
export interface Connection {
  /** Bytes of answers that its other side has not taken yet. */
  unreadBytes: number;
}

/**
 * Bytes that may be on their way to us unasked, per stream and per connection. Node's default of 64 KiB has a large message
 * wait for its receiver sixteen times a MiB, and grpc-js's option grpc-node.flow_control_window is for clients only.
 */
const windowBytes = 1024 * 1024;

const connections = new WeakMap<ServerHttp2Session, Connection>();

/**
 * The connection that a call came by. grpc-js keeps it to itself, so it is read off the stream inside of the call: should
 * that move in a later version, calls get a connection each, and the default windows.
 */
export function connectionOf(call: object): Connection {
  const { call: inner } = call as { readonly call?: { readonly stream?: { readonly session?: ServerHttp2Session } } };
  const session = inner?.stream?.session;
  if (session === undefined) return { unreadBytes: 0 };
  let connection = connections.get(session);
  if (connection === undefined) {
    connection = { unreadBytes: 0 };
    connections.set(session, connection);
    widen(session);
  }
  return connection;
}

function widen(session: ServerHttp2Session): void {
  if (session.destroyed || session.closed) return;
  session.setLocalWindowSize(windowBytes);
  session.settings({ initialWindowSize: windowBytes });
}
