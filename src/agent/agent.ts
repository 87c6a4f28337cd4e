import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { Config } from '../config/load.ts';
import type { NodeConfig } from '../domain/config.ts';
import type { State } from '../domain/state.ts';
import type { ControlSource, Listener } from '../grpc/control/source.ts';
import { unixAddress } from '../grpc/unix-address.ts';
import { descriptorLimit } from '../os/descriptors.ts';
import { holdSpares } from '../os/spare-descriptors.ts';
import type { LentSocket } from '../os/systemd.ts';
import type { Log } from '../telemetry/log.ts';
import { adoptedOf, leftoversOf, reapLeftovers, reportAdoption } from '../workers/restore.ts';
import { controlSource } from './control-source.ts';
import type { Core } from './core.ts';
import { createCore } from './core.ts';
import { createDeferred } from './deferred.ts';
import { createDescriptorCheck, planDescriptors, workersConfigured, workersExpected } from './descriptor-plan.ts';
import type { TcpAddresses } from './exposure.ts';
import { exposureWarnings } from './exposure.ts';
import { handOver } from './handover.ts';
import type { Host } from './host.ts';
import { openHost } from './host.ts';
import type { Opened } from './opened.ts';
import { isFullyReady } from './readiness.ts';
import { createServers } from './servers.ts';
import type { Ending } from './shutdown.ts';
import { shutDown } from './shutdown.ts';
import { openSurfaces } from './surfaces.ts';

/** A running agent. */
export interface Agent {
  /** Where it listens, for people. */
  readonly addresses: readonly string[];
  readonly apiSocket: string;
  /** Every pool of the first config has had all its workers ready. */
  readonly ready: Promise<void>;
  /** `restartNeeded`: keys that changed too, and take effect with the next start. */
  reload(node: NodeConfig, restartNeeded: readonly string[]): void;
  refuseReload(message: string): void;
  state(): State;
  /** Calls `listener` after every step that changed something, until the returned function is called. */
  subscribe(listener: Listener): () => void;
  /** How long the loop has had something to do and not done it. */
  lateMs(): number;
  /** `drain`: requests may end first. `now`: kill all workers. The second call may be harsher than the first. */
  stop(how: 'drain' | 'now'): void;
  /** Nothing listens any more, and all workers are gone, or left to the next agent (Control.Handover). */
  readonly ended: Promise<{
    readonly ending: Ending;
    /** A thread of this process hangs, such as one that writes to a disk that does not answer. */
    readonly isStuck: boolean;
  }>;
}

/**
 * Starts an agent: takes what it needs of the host, makes the parts, listens, and tells the loop what there is. With a socket that the
 * service manager lends, callers are served there, and wait there while no agent runs.
 */
export async function startAgent(
  config: Config,
  log: Log,
  lent: LentSocket | null,
  checkConfig: ControlSource['checkConfig'],
): Promise<Agent> {
  const startedAtMs = Date.now();
  const agentId = randomUUID();
  const descriptors = descriptorLimit();
  const checkDescriptors = createDescriptorCheck(descriptors, log);
  checkDescriptors(workersConfigured(config.node));
  holdSpares();
  const host = await openHost(config, lent, log);

  const ended = createDeferred<Ending>();
  const ready = createDeferred<void>();
  /** The first step is done: pools and workers are known. */
  const started = createDeferred<void>();
  const leaving = new AbortController();
  // Each open stream listens.
  setMaxListeners(0, leaving.signal);
  const opened: Opened = { http: null, runtime: null };
  const addresses = { httpAddress: '', listenAddress: '' };

  const core = createCore({ agentId, config, host, log, finish: () => ended.resolve('stopped') });
  const { loop, metrics, dispatch, workers, budgets, subscribers } = core;
  metrics.configTaken(startedAtMs);
  subscribers.subscribe(() => {
    checkDescriptors(workersExpected(loop.state()));
    if (!ready.isResolved() && isFullyReady(loop.state())) ready.resolve();
  });
  const descriptorPlan = () => planDescriptors(descriptors, workersExpected(loop.state()));
  const servers = createServers({ config, paths: host.paths, budgets, log, descriptorPlan });
  const leave = () =>
    handOver({ loop, dispatch, servers, opened, leaving, log, finish: () => ended.resolve('handed-over') });
  const { ledger } = host;
  const about = { agentId, startedAtMs, config, core, ledger, addresses };
  const control = controlSource({ ...about, leaving: leaving.signal, handOver: leave, checkConfig });
  const toClose = { config, host, loop, dispatch, handles: workers.handles, servers, opened, leaving, log };
  try {
    const surfaces = { config, core, host, servers, control, lent, started, log, descriptorPlan, opened, addresses };
    await openSurfaces(surfaces);
  } catch (error) {
    await shutDown(toClose, 'stopped');
    throw error;
  }
  for (const warning of exposureWarnings(addresses)) log.warn(warning);
  const reaped = takeStock(config, host, core, log);
  // After the loop's turn, which decides on all that was enqueued.
  setImmediate(() => started.resolve());
  return {
    addresses: addressesOf(host.paths.apiSocket, addresses),
    apiSocket: host.paths.apiSocket,
    ready: ready.promise,
    reload: (config, restartNeeded) => {
      metrics.configTaken(Date.now());
      loop.enqueue({ type: 'config', config, restartNeeded });
    },
    refuseReload: (message) => loop.enqueue({ type: 'config-refused', message }),
    state: loop.state,
    subscribe: subscribers.subscribe,
    lateMs: loop.lateMs,
    stop: (how) => {
      // Who calls from now on waits for the next agent.
      if (lent !== null) void servers.api.retire();
      loop.enqueue({ type: 'shutdown', how });
    },
    ended: ended.promise.then(async (ending) => {
      await reaped;
      // A stopped agent's orders end with it: the next start goes by its config.
      if (ending === 'stopped') host.ledger.forgetOrders();
      return { ending, isStuck: await shutDown(toClose, ending) };
    }),
  };
}

/** Tells the loop what it starts with: the config, earlier orders, survivors. Settles when what dead workers left is swept. */
function takeStock(config: Config, host: Host, { loop, metrics }: Core, log: Log): Promise<void> {
  const { adoption, ledger, cgroups, guardian, ledgerSnapshot } = host;
  guardian.killPredecessors();
  reportAdoption(adoption, log, metrics);
  loop.enqueue({ type: 'config', config: config.node });
  if (ledgerSnapshot.orders !== null) loop.enqueue({ type: 'recall-orders', orders: ledgerSnapshot.orders });
  loop.enqueue({ type: 'adopt', workers: adoption.survivors.map(adoptedOf), leftovers: leftoversOf(adoption) });
  return reapLeftovers(adoption, ledger, cgroups, log, (workerId) =>
    loop.enqueue({ type: 'leftover-swept', workerId }),
  );
}

function addressesOf(socket: string, { listenAddress, httpAddress }: TcpAddresses): string[] {
  const addresses = [`gRPC at ${socket === '' ? "the service manager's socket" : unixAddress(socket)}`];
  if (listenAddress !== '') addresses.push(`gRPC at ${listenAddress}`);
  if (httpAddress !== '') addresses.push(`http://${httpAddress}/metrics`);
  return addresses;
}
