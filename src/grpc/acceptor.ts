import { lookup } from 'node:dns/promises';
import type { Http2Server, Http2Session } from 'node:http2';
import type { AddressInfo, Server as Listener, ListenOptions, Socket } from 'node:net';
import { createServer, isIP } from 'node:net';
import type { Server } from '@grpc/grpc-js';
import { experimental, ServerCredentials } from '@grpc/grpc-js';
import { authorize } from './access/authorize.ts';
import type { SocketAccess } from './access/socket-access.ts';
import type { TcpAccess } from './access/tcp-access.ts';
import { insecureAccess } from './access/tcp-access.ts';
import { createTlsConnections } from './access/tls-connections.ts';
import { limitResets } from './cancels.ts';
import { connectionOfSession } from './connection.ts';
import type { ConnectionLimit, ConnectionLimitOptions, ConnectionNumbers, Evictable } from './connection-limit.ts';
import { limitConnections } from './connection-limit.ts';
import type { Entrance } from './connection-shares.ts';
import { limitShares } from './connection-shares.ts';
import { closeDeadSessions } from './dead-sessions.ts';
import { createFairReading } from './fair-reading.ts';
import { shortenTimeout } from './long-timeouts.ts';

/**
 * Listens for a gRPC server and injects the connections into it, so that we can count and close them. grpc-js bounds neither
 * their number, nor how long a connection may stay silent, nor how long a client may take to hang up.
 */
export interface Acceptor {
  /**
   * Listens at the path of a unix socket. Called again if the socket file was removed; open connections go on. `entrance`:
   * `control` for `control.sock`.
   */
  listenAtPath(path: string, entrance?: UnixEntrance): Promise<void>;
  /** Listens at all addresses of a name. Resolves to the port. */
  listenAtHost(host: string, port: number): Promise<number>;
  /** Uses a listening socket that another process owns. Its file is not unlinked at the end. */
  listenAtDescriptor(fd: number): Promise<void>;
  /** Accepts no new connections. */
  close(): void;
  /** Settles when all connections are closed. */
  none(): Promise<void>;
  destroyAll(): void;
  /** Makes clients over TCP connect again, so that their certificates are verified again. */
  renewTcp(): void;
  /** Cuts connections over TCP whose certificates are revoked now. */
  endRevokedTcp(): void;
  /** Those at `control.sock` are counted apart. */
  connections(): ConnectionNumbers;
  controlConnections(): ConnectionNumbers;
}

export type UnixEntrance = Exclude<Entrance, 'tcp'>;

export interface AcceptorOptions extends Omit<ConnectionLimitOptions, 'evictable'> {
  /** Default: callers over TCP may call everything, as callers at a unix socket. With it they may take only part of the connections. */
  readonly overTcp?: TcpAccess;
  /** Who calls at the unix sockets. Default: callers there may call everything. */
  readonly atSockets?: SocketAccess;
  /** How many connections `control.sock` may have beside those of `max`. Default: none. */
  controlMax?(): number;
}

/** The client's first bytes on an HTTP/2 connection. */
const prefaceBytes = 24;
const prefaceTimeoutMs = 10_000;
/** How long a client may take to hang up after we have. */
const hangUpTimeoutMs = 5_000;
const sweepEveryMs = 2_500;

export function createAcceptor(server: Server, options: AcceptorOptions): Acceptor {
  const { max, onRefused, overTcp = insecureAccess(true), atSockets, controlMax = () => 0 } = options;
  const entrances = new WeakMap<Http2Session, Entrance>();
  const openEntrance = (
    entrance: Entrance,
    credentials: ServerCredentials,
    identityOf: TcpAccess['identityOf'] | undefined,
  ): { readonly inject: (socket: Socket) => void; readonly http2Servers: Http2Server[] } => {
    const others = new Set(http2ServersOf(server));
    const authorizing = identityOf === undefined ? [] : [authorize(identityOf)];
    const injector = server.createConnectionInjector(
      experimental.createServerCredentialsWithInterceptors(credentials, authorizing),
    );
    const http2Servers = [...http2ServersOf(server)].filter((each) => !others.has(each));
    for (const each of http2Servers) each.on('session', (session) => entrances.set(session, entrance));
    return { inject: (socket) => injector.injectConnection(socket), http2Servers };
  };
  const openUnix = (entrance: UnixEntrance) => {
    const identity = atSockets?.[entrance];
    return openEntrance(entrance, ServerCredentials.createInsecure(), identity && (() => identity));
  };
  const opened = {
    socket: openUnix('socket'),
    control: openUnix('control'),
    tcp: openEntrance('tcp', overTcp.credentials, options.overTcp?.identityOf),
  };
  watchSessions(server);
  const idle = (isCandidate: (session: Http2Session) => boolean) => longestIdle(server, isCandidate);
  const all = limitConnections({ max, onRefused, evictable: () => idle(() => true) });
  const entranceOf = (session: Http2Session) => entrances.get(session);
  const limits: Readonly<Record<Entrance, ConnectionLimit>> =
    options.overTcp === undefined
      ? { socket: all, control: all, tcp: all }
      : limitShares({ max, controlMax, onRefused, longestIdle: idle, entranceOf });
  const silent = createSilenceWatch();
  const tcpConnections = createTlsConnections(overTcp.connectionMaxAgeMs, overTcp.isRevoked);
  for (const http2Server of opened.tcp.http2Servers) {
    http2Server.on('session', tcpConnections.add);
    // The socket below it does not show that we have hung up.
    http2Server.on('secureConnection', silent.add);
  }
  const endSearch = closeDeadSessions(() => sessionsOf(server));
  const listeners = new Set<Listener>();
  const atPath = new Map<string, Listener>();

  const listenAt = async (where: ListenOptions, named: string, entrance: Entrance): Promise<Listener> => {
    const accept = (socket: Socket): void => {
      if (!limits[entrance].admit(socket)) return;
      silent.add(socket);
      opened[entrance].inject(socket);
    };
    const listener = await listen(where, named, accept, options.onRefused);
    listeners.add(listener);
    return listener;
  };

  return {
    listenAtPath: async (path, entrance = 'socket') => {
      // Closing a listener unlinks its path, so the old one is closed before the new socket exists.
      atPath.get(path)?.close();
      atPath.set(path, await listenAt({ path }, path, entrance));
    },
    listenAtDescriptor: async (fd) => {
      const listener = await listenAt({ fd } as ListenOptions, `file descriptor ${fd}`, 'socket');
      const address = listener.address();
      // The file of a unix socket says who may connect. Over TCP anyone could.
      if (typeof address === 'object' && address !== null) {
        listener.close();
        const wanted = 'expected a unix socket from the service manager (ListenStream=PATH)';
        throw new Error(
          `${wanted}, got TCP at ${address.address}:${address.port}; for TCP set listen in the configuration`,
        );
      }
    },
    listenAtHost: async (host, port) => {
      const addresses = await addressesOf(host);
      let got = port;
      for (const [index, address] of addresses.entries()) {
        try {
          const listener = await listenAt({ host: address, port: got }, `${host}:${got}`, 'tcp');
          got = (listener.address() as AddressInfo).port;
        } catch (error) {
          // A host may lack IPv6 although its name has an IPv6 address.
          if (index === 0) throw error;
        }
      }
      return got;
    },
    close: () => {
      for (const listener of listeners) listener.close();
      listeners.clear();
    },
    none: async () => void (await Promise.all(Object.values(limits).map((limit) => limit.none()))),
    destroyAll: () => {
      silent.stop();
      endSearch();
      for (const limit of Object.values(limits)) limit.destroyAll();
    },
    renewTcp: tcpConnections.renewAll,
    endRevokedTcp: tcpConnections.endRevoked,
    connections: () => {
      const numbers = [...new Set([limits.socket, limits.tcp])].map((limit) => limit.numbers());
      const sum = (of: (each: ConnectionNumbers) => number) => numbers.reduce((total, each) => total + of(each), 0);
      return {
        open: sum(({ open }) => open),
        max: max(),
        refused: sum(({ refused }) => refused),
        evicted: sum(({ evicted }) => evicted),
      };
    },
    controlConnections: () => limits.control.numbers(),
  };
}

/** Makes connections take turns, and bounds what their clients may cancel. */
function watchSessions(server: Server): void {
  const reading = createFairReading();
  for (const http2Server of http2ServersOf(server)) {
    http2Server.on('session', (session) => {
      const connection = connectionOfSession(session);
      connection.worked = reading.add(session);
      connection.wasReset = limitResets(session);
      // This listener runs before grpc-js gets the call.
      session.prependListener('stream', (_, headers) => {
        connection.worked();
        shortenTimeout(headers);
      });
    });
  }
}

/** Cuts connections whose clients send no preface in time, or do not hang up after we have. */
function createSilenceWatch(): { add(socket: Socket): void; stop(): void } {
  const acceptedAtMs = new Map<Socket, number>();
  const hungUpAtMs = new WeakMap<Socket, number>();
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
    for (const socket of acceptedAtMs.keys()) if (isOver(socket, nowMs)) socket.destroy();
  }, sweepEveryMs);
  sweep.unref();
  return {
    add: (socket) => {
      acceptedAtMs.set(socket, performance.now());
      socket.once('close', () => acceptedAtMs.delete(socket));
    },
    stop: () => clearInterval(sweep),
  };
}

async function listen(
  where: ListenOptions,
  named: string,
  accept: (socket: Socket) => void,
  onFailed: (message: string) => void,
): Promise<Listener> {
  const listener = createServer({ noDelay: true }, accept);
  await new Promise<void>((resolve, reject) => {
    const refused = (error: Error): void => reject(new Error(`could not listen at ${named}: ${error.message}`));
    listener.once('error', refused);
    listenPrivately(listener, where, () => {
      listener.off('error', refused);
      // An accept that fails without free descriptors is retried with the next connection.
      listener.on('error', (error) => onFailed(`a connection at ${named} failed: ${error.message}`));
      resolve();
    });
  });
  return listener;
}

/**
 * Creates a unix socket that is never open to other users, not even for a moment. Node creates it before `listen` returns, so
 * nothing else is created under this mask.
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
  // IPv4 comes first, because most clients of a loopback name try it first.
  return [...new Set(found.sort((a, b) => a.family - b.family).map(({ address }) => address))];
}

/**
 * The session that has had no calls for the longest time. It is read from a private field of grpc-js. If a later version renames
 * the field, no session is evicted, and new connections are refused at the limit.
 */
function longestIdle(server: Server, isCandidate: (session: Http2Session) => boolean): Evictable | undefined {
  let found: Http2Session | undefined;
  let idleSinceMs = Number.POSITIVE_INFINITY;
  for (const [session, { activeStreams, lastIdle }] of sessionsOf(server)) {
    if (activeStreams > 0 || session.destroyed || lastIdle >= idleSinceMs || !isCandidate(session)) continue;
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

/** The HTTP/2 servers that an injector passes its connections to, from a private field of grpc-js. */
function http2ServersOf(server: Server): Iterable<Http2Server> {
  const { http2Servers } = server as unknown as { readonly http2Servers?: ReadonlyMap<Http2Server, unknown> };
  return http2Servers?.keys() ?? [];
}
