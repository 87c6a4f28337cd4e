import { setTimeout as delay } from 'node:timers/promises';
import type { ServerOptions } from '@grpc/grpc-js';
import { Server } from '@grpc/grpc-js';
import type { AcceptorOptions } from './acceptor.ts';
import { createAcceptor } from './acceptor.ts';
import { cancelOptions } from './cancels.ts';
import type { ConnectionNumbers } from './connection-limit.ts';
import { boundIncoming } from './incoming/interceptor.ts';
import type { MemoryBudget } from './memory-budget.ts';

/** A gRPC server for our own sockets. */
export interface ApiServer {
  readonly server: Server;
  /** Listens at a target such as `unix:/path` or `127.0.0.1:0`; the port it got (0 for a unix socket). */
  bind(target: string): Promise<number>;
  /** Serves what comes in at a listening socket of somebody else, who keeps it: nothing is unlinked at the end. */
  bindDescriptor(fd: number): Promise<void>;
  /**
   * No new connections; those there are take no new calls (GOAWAY), and close when their last call has ended. Settles when
   * all are closed.
   */
  retire(): Promise<void>;
  /**
   * Retires. No new calls; those running may end until `graceMs` is over, then their connections are cut.
   */
  stop(graceMs: number): Promise<void>;
  connections(): ConnectionNumbers;
}

/** Headers of one call. */
const headersMaxBytes = 16 * 1024;
/** How long connections that were cut may take to be gone. */
const cutMs = 100;

/** A connection without calls is closed after this; its client dials again at its next call. */
const idleTimeoutMs = 5 * 60_000;
const unlimited: AcceptorOptions = { max: () => Number.POSITIVE_INFINITY, onRefused: () => undefined };
/** What a message holds beside its payload: names. Also all that a message of Control may have. */
const namesMaxBytes = 64 * 1024;
const carriesPayloads = /^\/pitwarden\.v1\.(?:Execution|WorkerLink)\//;

export interface ApiServerOptions {
  /** Payload of the largest message that is received. */
  readonly messageMaxBytes: number;
  readonly budget: MemoryBudget;
  /** How long a large message of a stream may wait for room in the budget, in ms. Default: 0, which refuses it. */
  readonly waitForRoomMs?: number;
  /** How many calls one connection may have at once. Default: 10,000. */
  readonly callsPerConnection?: number;
  /** How often messages that arrive slowly are looked at, in ms; see stall-watch.ts. Default: they may take for ever. */
  readonly lookAtStalledMs?: number;
  /** Default: as many connections as come. */
  readonly connections?: AcceptorOptions;
}

export function createServer(options: ApiServerOptions): ApiServer {
  const { messageMaxBytes, budget, waitForRoomMs } = options;
  const maxBytes = (path: string): number => (carriesPayloads.test(path) ? messageMaxBytes : 0) + namesMaxBytes;
  const waits = waitForRoomMs === undefined ? {} : { waitForRoomMs };
  const looks = options.lookAtStalledMs === undefined ? {} : { lookAtStalledMs: options.lookAtStalledMs };
  const grpcOptions: ServerOptions = {
    interceptors: [boundIncoming({ budget, maxBytes, ...waits, ...looks })],
    'grpc.max_receive_message_length': messageMaxBytes + namesMaxBytes,
    'grpc.max_send_message_length': -1,
    'grpc.max_concurrent_streams': options.callsPerConnection ?? 10_000,
    // Dead peers on a socket of this host are seen by the kernel: no keepalive is needed.
    'grpc.keepalive_permit_without_calls': 1,
    'grpc.max_connection_idle_ms': idleTimeoutMs,
    // Nobody asks it, and it counts every call and message.
    'grpc.enable_channelz': 0,
    'grpc-node.max_session_memory': Number.MAX_SAFE_INTEGER,
  };
  const server = new Server(grpcOptions);
  setHttp2Limits(server);
  const acceptor = createAcceptor(server, options.connections ?? unlimited);
  let ended: Promise<void> | null = null;
  const retire = (): Promise<void> => {
    acceptor.close();
    // Node 24 calls connections that were handed in closed before they are.
    ended ??= new Promise<void>((resolve) => server.tryShutdown(() => resolve())).then(acceptor.none);
    return ended;
  };
  return {
    server,
    bind: async (target) => {
      const path = /^unix:(.*)$/s.exec(target)?.[1];
      if (path !== undefined) {
        await acceptor.listenAtPath(path);
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
    connections: acceptor.connections,
  };
}

/**
 * grpc-js has no options for these: test/grpc/cancels.test.ts and incoming.test.ts fail if this moves.
 *
 * HPACK makes 64 KiB of headers, which Node allows, from some bytes a call, and a connection may have 10,000 calls. No gRPC
 * client sends more than 16 KiB unless it is told to; a call with more is reset (ENHANCE_YOUR_CALM, which clients show as
 * RESOURCE_EXHAUSTED).
 */
function setHttp2Limits(server: Server): void {
  const { commonServerOptions } = server as unknown as { readonly commonServerOptions?: Record<string, unknown> };
  if (commonServerOptions === undefined) return;
  const settings = commonServerOptions['settings'] as object | undefined;
  const limited = { ...settings, maxHeaderListSize: headersMaxBytes };
  Object.assign(commonServerOptions, cancelOptions, { settings: limited });
}

/** `HOST:PORT`, an IPv6 address in brackets. */
function hostAndPort(target: string): { readonly host: string; readonly port: number } {
  const [, host = '', port = ''] = /^\[?(.+?)\]?:(\d+)$/.exec(target) ?? [];
  return { host, port: Number(port) };
}
