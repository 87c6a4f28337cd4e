import type { Config } from '../config/load.ts';
import { socketAccess } from '../grpc/access/socket-access.ts';
import type { TcpAccess } from '../grpc/access/tcp-access.ts';
import type { ApiServer } from '../grpc/server.ts';
import { createServer } from '../grpc/server.ts';
import type { RuntimeDirectory } from '../os/storage/directories.ts';
import { restrictSocket } from '../os/storage/socket-files.ts';
import type { Log } from '../telemetry/log.ts';
import type { Budgets } from './core.ts';
import type { DescriptorPlan } from './descriptor-plan.ts';

/** How long a large result waits for room. Afterwards it is read without room, but only one such result at a time. */
const linkWaitMs = 10_000;
/** A worker has one call at a time, plus calls that are just ending. */
const linkCallsPerConnection = 16;
/** Interval at which callers' slowly arriving messages are checked. */
const lookAtStalledMs = 10_000;

/** The two gRPC servers: `api` for callers and the control plane, `link` for workers. */
export interface Servers {
  readonly api: ApiServer;
  readonly link: ApiServer;
  /** Listens at the API's socket in the runtime directory. */
  bindApi(): Promise<void>;
  /** Listens at `control.sock`. */
  bindControl(): Promise<void>;
  bindLink(): Promise<void>;
  /** Returns the actual address. */
  bindTcp(address: { readonly host: string; readonly port: number }): Promise<string>;
}

export interface ServerParts {
  readonly config: Config;
  readonly paths: RuntimeDirectory;
  readonly budgets: Budgets;
  readonly log: Log;
  readonly overTcp: TcpAccess;
  descriptorPlan(): DescriptorPlan;
}

export function createServers({ config, paths, budgets, log, overTcp, descriptorPlan }: ServerParts): Servers {
  // Workers refuse results that are too large. A worker that sends such a frame anyway loses its link.
  const link = createServer({
    messageMaxBytes: linkFrameMaxBytes(config),
    budget: budgets.workers,
    unprovenBudget: budgets.unproven,
    waitForRoomMs: linkWaitMs,
    callsPerConnection: linkCallsPerConnection,
    connections: {
      max: () => descriptorPlan().linkConnections,
      onRefused: (message) => log.warn(`worker link: ${message}`),
    },
  });
  const api = createServer({
    messageMaxBytes: config.messageMaxBytes,
    budget: budgets.callers,
    lookAtStalledMs,
    connections: {
      max: () => descriptorPlan().apiConnections,
      onRefused: (message) => log.warn(`gRPC: ${message}`),
      overTcp,
      atSockets: socketAccess(paths.controlSocket),
      controlMax: () => descriptorPlan().controlConnections,
    },
  });
  return {
    api,
    link,
    bindApi: async () => {
      await api.bind(`unix:${paths.apiSocket}`);
      restrictSocket(paths.apiSocket, config.socketGroup);
    },
    bindControl: async () => {
      await api.bind(`unix:${paths.controlSocket}`, 'control');
      restrictSocket(paths.controlSocket, config.controlGroup, 'control_group');
    },
    bindLink: async () => void (await link.bind(`unix:${paths.linkSocket}`)),
    bindTcp: async (address) => {
      const host = address.host.includes(':') ? `[${address.host}]` : address.host;
      const port = await api.bind(`${host}:${address.port}`).catch((error: Error) => {
        throw new Error(`${error.message}; name another address with --listen HOST:PORT (config: listen), or off`);
      });
      return `${host}:${port}`;
    },
  };
}

/**
 * A frame has one large payload and up to 2 MiB of others. A kept result may be older than the current
 * message.max_bytes.
 */
function linkFrameMaxBytes({ messageMaxBytes }: Config): number {
  return Math.max(messageMaxBytes, 64 * 1024 * 1024) + 2 * 1024 * 1024;
}
