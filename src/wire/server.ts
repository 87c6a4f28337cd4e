import type { Server as Listener } from 'node:net';
import { createServer as createListener } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { ServerOptions } from '@grpc/grpc-js';
import { Server, ServerCredentials } from '@grpc/grpc-js';

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
   * Retires. No new calls; those running may end until `graceMs` is over, then they are cut. A connection whose other side reads
   * nothing may stay open after that: its last bytes cannot be delivered.
   */
  stop(graceMs: number): Promise<void>;
}

/** How long connections that were cut may take to be gone. */
const cutMs = 100;

/** `messageMaxBytes` bounds what is received; infinite: not at all. */
export function createServer(options: { readonly messageMaxBytes: number }): ApiServer {
  const grpcOptions: ServerOptions = {
    // A message holds its payload and some names.
    'grpc.max_receive_message_length': Number.isFinite(options.messageMaxBytes)
      ? options.messageMaxBytes + 64 * 1024
      : -1,
    'grpc.max_send_message_length': -1,
    'grpc.max_concurrent_streams': 10_000,
    // Dead peers on a socket of this host are seen by the kernel: no keepalive is needed.
    'grpc.keepalive_permit_without_calls': 1,
    // Nobody asks it, and it counts every call and message.
    'grpc.enable_channelz': 0,
    'grpc-node.max_session_memory': Number.MAX_SAFE_INTEGER,
  };
  const server = new Server(grpcOptions);
  const listeners = new Set<Listener>();
  let ended: Promise<void> | null = null;
  const retire = (): Promise<void> => {
    for (const listener of listeners) listener.close();
    ended ??= new Promise((resolve) => server.tryShutdown(() => resolve()));
    return ended;
  };
  return {
    server,
    bind: (target) =>
      new Promise((resolve, reject) => {
        server.bindAsync(target, ServerCredentials.createInsecure(), (error, port) => {
          if (error === null) resolve(target.startsWith('unix:') ? 0 : port);
          else reject(new Error(`could not listen at ${target}: ${error.message}`));
        });
      }),
    bindDescriptor: (fd) =>
      new Promise((resolve, reject) => {
        const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
        const listener = createListener((socket) => injector.injectConnection(socket));
        listener.once('error', (error) => {
          reject(new Error(`could not listen at file descriptor ${fd}: ${error.message}`));
        });
        listener.listen({ fd }, resolve);
        listeners.add(listener);
      }),
    retire,
    stop: async (graceMs) => {
      const cut = new AbortController();
      const cutOff = delay(graceMs, undefined, { signal: cut.signal }).then(async () => {
        server.forceShutdown();
        await delay(cutMs, undefined, { signal: cut.signal });
      });
      await Promise.race([retire(), cutOff]);
      cut.abort();
      await cutOff.catch(() => undefined);
    },
  };
}
