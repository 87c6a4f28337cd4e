import { setTimeout as delay } from 'node:timers/promises';
import type { ServerOptions } from '@grpc/grpc-js';
import { Server } from '@grpc/grpc-js';
import type { AcceptorOptions, UnixEntrance } from './acceptor.ts';
import { createAcceptor } from './acceptor.ts';
import { cancelOptions } from './cancels.ts';
import type { ConnectionNumbers } from './connection-limit.ts';
import { boundIncoming } from './incoming/interceptor.ts';
import type { MemoryBudget } from './memory-budget.ts';

/** A gRPC server on sockets of ours. */
export interface ApiServer {
  readonly server: Server;
  /**
   * Listens at a target such as `unix:/path` or `127.0.0.1:0`. Resolves to the port; 0 for a unix socket. `entrance`: `control` for
   * `control.sock`.
   */
  bind(target: string, entrance?: UnixEntrance): Promise<number>;
  /** Accepts connections from a listening socket that another process owns. Its file is not unlinked at the end. */
  bindDescriptor(fd: number): Promise<void>;
  /**
   * Accepts no new connections. Open connections take no new calls (GOAWAY), and close when their last call has ended. Settles
   * when all are closed.
   */
  retire(): Promise<void>;
  /** Retires, and cuts the connections that still have calls after `graceMs`. */
  stop(graceMs: number): Promise<void>;
  /** Makes clients over TCP connect again, so that their certificates are verified again. */
  renewTcp(): void;
  /** Cuts connections over TCP whose certificates are revoked now. */
  endRevokedTcp(): void;
  /** Those at `control.sock` are counted apart. */
  connections(): ConnectionNumbers;
  controlConnections(): ConnectionNumbers;
}

/** The headers of one call. */
const headersMaxBytes = 16 * 1024;
/** How long connections may take to close after they were cut. */
const cutMs = 100;

/** A connection without calls is closed after this time. Its client dials again for its next call. */
const idleTimeoutMs = 5 * 60_000;
const unlimited: AcceptorOptions = { max: () => Number.POSITIVE_INFINITY, onRefused: () => undefined };
/** A message's bytes beside its payload, which are names. It is also the bound for a whole message of Control. */
const namesMaxBytes = 64 * 1024;
const carriesPayloads = /^\/pitwarden\.v1\.(?:Execution|WorkerLink)\//;

export interface ApiServerOptions {
  /** The largest payload of a message that is received. */
  readonly messageMaxBytes: number;
  readonly budget: MemoryBudget;
  /** The budget of calls whose sender has not proven yet who it is. Default: `budget`. */
  readonly unprovenBudget?: MemoryBudget;
  /** How long a large message of a stream may wait for room in the budget, in ms. Default: 0, which refuses it. */
  readonly waitForRoomMs?: number;
  /** How many calls one connection may have at once. Default: 10,000. */
  readonly callsPerConnection?: number;
  /** How often messages that arrive slowly are checked, in ms; see stall-watch.ts. Default: they may take forever. */
  readonly lookAtStalledMs?: number;
  /** Default: any number of connections. */
  readonly connections?: AcceptorOptions;
}

export function createServer(options: ApiServerOptions): ApiServer {
  const { messageMaxBytes, budget, unprovenBudget, waitForRoomMs } = options;
  const maxBytes = (path: string): number => (carriesPayloads.test(path) ? messageMaxBytes : 0) + namesMaxBytes;
  const unproven = unprovenBudget === undefined ? {} : { unprovenBudget };
  const waits = waitForRoomMs === undefined ? {} : { waitForRoomMs };
  const looks = options.lookAtStalledMs === undefined ? {} : { lookAtStalledMs: options.lookAtStalledMs };
  const grpcOptions: ServerOptions = {
    interceptors: [boundIncoming({ budget, maxBytes, ...unproven, ...waits, ...looks })],
    'grpc.max_receive_message_length': messageMaxBytes + namesMaxBytes,
    'grpc.max_send_message_length': -1,
    'grpc.max_concurrent_streams': options.callsPerConnection ?? 10_000,
    // No keepalive is needed: the kernel reports dead peers on sockets of this host.
    'grpc.keepalive_permit_without_calls': 1,
    'grpc.max_connection_idle_ms': idleTimeoutMs,
    // channelz counts every call and message, and nobody reads it.
    'grpc.enable_channelz': 0,
    'grpc-node.max_session_memory': Number.MAX_SAFE_INTEGER,
  };
  const server = new Server(grpcOptions);
  setHttp2Limits(server);
  const acceptor = createAcceptor(server, options.connections ?? unlimited);
  let ended: Promise<void> | null = null;
  const retire = (): Promise<void> => {
    acceptor.close();
    // Node 24 reports injected connections as closed before they are, so the acceptor is asked too.
    ended ??= new Promise<void>((resolve) => server.tryShutdown(() => resolve())).then(acceptor.none);
    return ended;
  };
  return {
    server,
    bind: async (target, entrance) => {
      const path = /^unix:(.*)$/s.exec(target)?.[1];
      if (path !== undefined) {
        await acceptor.listenAtPath(path, entrance);
        return 0;
      }
      const { host, port } = hostAndPort(target);
      return acceptor.listenAtHost(host, port);
    },
    bindDescriptor: acceptor.listenAtDescriptor,
    retire,
    stop: async (graceMs) => {
      const cut = new AbortController();
      const cutOff = delay(graceMs, undefined, { signal: cut.signal }).then(async () => {
        server.forceShutdown();
        acceptor.destroyAll();
        await delay(cutMs, undefined, { signal: cut.signal });
      });
      await Promise.race([retire(), cutOff]);
      cut.abort();
      await cutOff.catch(() => undefined);
    },
    renewTcp: acceptor.renewTcp,
    endRevokedTcp: acceptor.endRevokedTcp,
    connections: acceptor.connections,
    controlConnections: acceptor.controlConnections,
  };
}

/**
 * Sets limits in a private field of grpc-js, which has no options for them. test/grpc/cancels.test.ts and incoming.test.ts fail if
 * a later version renames the field.
 *
 * With HPACK a client can make 64 KiB of headers, which Node allows, from a few bytes a call, and a connection may have 10,000
 * calls. No gRPC client sends more than 16 KiB by default. A call with more is reset (ENHANCE_YOUR_CALM, which clients show as
 * RESOURCE_EXHAUSTED).
 */
function setHttp2Limits(server: Server): void {
  const { commonServerOptions } = server as unknown as { readonly commonServerOptions?: Record<string, unknown> };
  if (commonServerOptions === undefined) return;
  const settings = commonServerOptions['settings'] as object | undefined;
  const limited = { ...settings, maxHeaderListSize: headersMaxBytes };
  Object.assign(commonServerOptions, cancelOptions, { settings: limited });
}

/** Parses `HOST:PORT`; an IPv6 address is in brackets. */
function hostAndPort(target: string): { readonly host: string; readonly port: number } {
  const [, host = '', port = ''] = /^\[?(.+?)\]?:(\d+)$/.exec(target) ?? [];
  return { host, port: Number(port) };
}
