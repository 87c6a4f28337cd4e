import { lookup } from 'node:dns/promises';
import type { Http2Server, Http2Session } from 'node:http2';
import type { AddressInfo, Server as Listener, ListenOptions, Socket } from 'node:net';
import { createServer, isIP } from 'node:net';
import type { Server } from '@grpc/grpc-js';
import { ServerCredentials } from '@grpc/grpc-js';
import { limitResets } from './cancels.ts';
import { connectionOfSession } from './connection.ts';
import type { ConnectionLimitOptions, ConnectionNumbers, Evictable } from './connection-limit.ts';
import { limitConnections } from './connection-limit.ts';
import { closeDeadSessions } from './dead-sessions.ts';
import { createFairReading } from './fair-reading.ts';
import { shortenTimeout } from './long-timeouts.ts';

/**
 * Listens for a gRPC server and hands its connections in, so that they are ours to count and to close: grpc-js bounds
 * neither how many there are, nor how long one may stay silent, nor how long its other side may take to hang up.
 */
export interface Acceptor {
  /** A unix socket's path. Again for a path whose socket was taken away: connections that are open go on. */
  listenAtPath(path: string): Promise<void>;
  /** All addresses of a name; the port that it got. */
  listenAtHost(host: string, port: number): Promise<number>;
  /** A listening socket of somebody else, who keeps it: nothing is unlinked at the end. */
  listenAtDescriptor(fd: number): Promise<void>;
  /** No new connections. */
  close(): void;
  /** Settles when all connections are gone. */
  none(): Promise<void>;
  destroyAll(): void;
  connections(): ConnectionNumbers;
}

export type AcceptorOptions = Omit<ConnectionLimitOptions, 'evictable'>;

/** An HTTP/2 connection begins with so many bytes of its client's. */
const prefaceBytes = 24;
const prefaceTimeoutMs = 10_000;
/** How long the other side may take to hang up after this side has. */
const hangUpTimeoutMs = 5_000;
const sweepEveryMs = 2_500;

export function createAcceptor(server: Server, options: AcceptorOptions): Acceptor {
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const reading = createFairReading();
  for (const http2Server of http2ServersOf(server)) {
    http2Server.on('session', (session) => {
      const connection = connectionOfSession(session);
      connection.worked = reading.add(session);
      connection.wasReset = limitResets(session);
      // Before Node hands the call to grpc-js.
      session.prependListener('stream', (_, headers) => {
        connection.worked();
        shortenTimeout(headers);
      });
    });
  }
  const limit = limitConnections({ ...options, evictable: () => longestIdle(server) });
  const listeners = new Set<Listener>();
  const atPath = new Map<string, Listener>();
  const acceptedAtMs = new Map<Socket, number>();
  const hungUpAtMs = new WeakMap<Socket, number>();

  const accept = (socket: Socket): void => {
    if (!limit.admit(socket)) return;
    acceptedAtMs.set(socket, performance.now());
    socket.once('close', () => acceptedAtMs.delete(socket));
    injector.injectConnection(socket);
  };

  const isOver = (socket: Socket, nowMs: number): boolean => {
    if (socket.writableEnded) {
      const sinceMs = hungUpAtMs.get(socket) ?? nowMs;
      hungUpAtMs.set(socket, sinceMs);
      return nowMs - sinceMs >= hangUpTimeoutMs;
    }
    return socket.bytesRead < prefaceBytes && nowMs - (acceptedAtMs.get(socket) ?? nowMs) >= prefaceTimeoutMs;
  };

  const sweep = setInterval(() => {
    const nowMs = performance.now();
    for (const socket of limit.open) if (isOver(socket, nowMs)) socket.destroy();
  }, sweepEveryMs);
  sweep.unref();
  const endSearch = closeDeadSessions(() => sessionsOf(server));

  const listen = async (where: ListenOptions, named: string): Promise<Listener> => {
    const listener = createServer({ noDelay: true }, accept);
    await new Promise<void>((resolve, reject) => {
      const refused = (error: Error): void => reject(new Error(`could not listen at ${named}: ${error.message}`));
      listener.once('error', refused);
      listenPrivately(listener, where, () => {
        listener.off('error', refused);
        // An accept that fails for want of descriptors is tried again with the next connection.
        listener.on('error', (error) => options.onRefused(`a connection at ${named} failed: ${error.message}`));
        resolve();
      });
    });
    listeners.add(listener);
    return listener;
  };

  return {
    listenAtPath: async (path) => {
      // Its close unlinks the path, so it comes before the new socket is there.
      atPath.get(path)?.close();
      atPath.set(path, await listen({ path }, path));
    },
    listenAtDescriptor: async (fd) => void (await listen({ fd } as ListenOptions, `file descriptor ${fd}`)),
    listenAtHost: async (host, port) => {
      const addresses = await addressesOf(host);
      let got = port;
      for (const [index, address] of addresses.entries()) {
        try {
          const listener = await listen({ host: address, port: got }, `${host}:${got}`);
          got = (listener.address() as AddressInfo).port;
        } catch (error) {
          // A host may be without IPv6 though its name has such an address.
          if (index === 0) throw error;
        }
      }
      return got;
    },
    close: () => {
      for (const listener of listeners) listener.close();
      listeners.clear();
    },
    none: limit.none,
    destroyAll: () => {
      clearInterval(sweep);
      endSearch();
      limit.destroyAll();
    },
    connections: limit.numbers,
  };
}

/**
 * A unix socket is made closed to all other users, and not only closed to them afterwards. Node makes it before `listen`
 * returns, so nothing else of this thread is made under this mask.
 */
function listenPrivately(listener: Listener, where: ListenOptions, listening: () => void): void {
  const mask = process.umask(0o077);
  try {
    listener.listen(where, listening);
  } finally {
    process.umask(mask);
  }
}

async function addressesOf(host: string): Promise<string[]> {
  if (isIP(host) !== 0) return [host];
  const found = await lookup(host, { all: true });
  // IPv4 first: most clients of a loopback name try it first.
  return [...new Set(found.sort((a, b) => a.family - b.family).map(({ address }) => address))];
}

/**
 * The session that has been without calls for longest. grpc-js counts calls for its own idle timeout and keeps the count to
 * itself: should that move in a later version, none is evicted and new connections are refused at the limit.
 */
function longestIdle(server: Server): Evictable | undefined {
  let found: Http2Session | undefined;
  let idleSinceMs = Number.POSITIVE_INFINITY;
  for (const [session, { activeStreams, lastIdle }] of sessionsOf(server)) {
    if (activeStreams > 0 || session.destroyed || lastIdle >= idleSinceMs) continue;
    found = session;
    idleSinceMs = lastIdle;
  }
  return found;
}

interface SessionUse {
  readonly activeStreams: number;
  readonly lastIdle: number;
}

function sessionsOf(server: Server): ReadonlyMap<Http2Session, SessionUse> {
  const { sessionIdleTimeouts } = server as unknown as {
    readonly sessionIdleTimeouts?: ReadonlyMap<Http2Session, SessionUse>;
  };
  return sessionIdleTimeouts ?? new Map();
}

/** What an injector hands its connections to; grpc-js keeps it to itself. */
function http2ServersOf(server: Server): Iterable<Http2Server> {
  const { http2Servers } = server as unknown as { readonly http2Servers?: ReadonlyMap<Http2Server, unknown> };
  return http2Servers?.keys() ?? [];
}
