import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { Config, Loaded } from '../config/load.ts';
import type { State } from '../domain/state.ts';
import type { Listener } from '../grpc/control/source.ts';
import { unixAddress } from '../grpc/unix-address.ts';
import { systemClock } from '../os/clock.ts';
import { descriptorLimit } from '../os/descriptors.ts';
import { holdSpares } from '../os/spare-descriptors.ts';
import type { PassedSocket } from '../os/systemd.ts';
import type { Log } from '../telemetry/log.ts';
import { adoptedOf, leftoversOf, reapLeftovers, reportAdoption } from '../workers/restore.ts';
import { configReload } from './config-reload.ts';
import { controlSource } from './control-source.ts';
import type { AgentCore } from './core.ts';
import { createCore } from './core.ts';
import { createDeferred } from './deferred.ts';
import { createDescriptorCheck, planDescriptors, workersConfigured, workersExpected } from './descriptor-plan.ts';
import { createDesired } from './desired.ts';
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
import { openTls } from './tls.ts';

/** A running agent. */
export interface Agent {
  /** The addresses it listens at, shown to users. */
  readonly addresses: readonly string[];
  readonly apiSocket: string;
  /** Resolves once all pools of the first config have all their workers ready. */
  readonly ready: Promise<void>;
  /** Reads the configuration again, and applies it or refuses it. Never rejects. */
  reload(): Promise<void>;
  state(): State;
  /** Calls `listener` after every step that changed something, until the returned function is called. */
  subscribe(listener: Listener): () => void;
  /** How long the loop is overdue. */
  lateMs(): number;
  /** `drain`: running requests may end first. `now`: kills all workers. A second call may be harsher than the first. */
  stop(how: 'drain' | 'now'): void;
  /** Resolves when nothing listens any more and all workers are gone, or left to the next agent (Control.Handover). */
  readonly ended: Promise<{
    readonly ending: Ending;
    /** A thread of this process hangs, for example in a write to a disk that does not respond. */
    readonly isStuck: boolean;
  }>;
}

/**
 * Starts an agent: acquires what it needs on the host, creates the parts, listens, and enqueues the initial events. If
 * the service manager passes a socket, callers are served there, and wait there while no agent runs.
 */
export async function startAgent(
  config: Config,
  log: Log,
  passedSocket: PassedSocket | null,
  loadConfig: () => Promise<Loaded>,
): Promise<Agent> {
  const startedAtMs = Date.now();
  const agentId = randomUUID();
  const descriptors = descriptorLimit();
  const checkDescriptors = createDescriptorCheck(descriptors, log);
  checkDescriptors(workersConfigured(config.node));
  holdSpares();
  const tls = await openTls(config.tls, config.listenInsecureControl);
  const host = await openHost(config, passedSocket, log);

  const ended = createDeferred<Ending>();
  const ready = createDeferred<void>();
  /** Resolves after the first step, when pools and workers are known. */
  const started = createDeferred<void>();
  const leaving = new AbortController();
  // Each open stream adds a listener.
  setMaxListeners(0, leaving.signal);
  const opened: Opened = { tls, http: null, runtimeWatch: null };
  const addresses = { httpAddress: '', listenAddress: '' };

  const core = createCore({ agentId, config, host, log, finish: () => ended.resolve('stopped') });
  const { loop, metrics, dispatch, workers, budgets, subscribers } = core;
  metrics.configApplied(startedAtMs);
  subscribers.subscribe(() => {
    checkDescriptors(workersExpected(loop.state()));
    if (!ready.isResolved() && isFullyReady(loop.state())) ready.resolve();
  });
  const descriptorPlan = () => planDescriptors(descriptors, workersExpected(loop.state()));
  const servers = createServers({ config, paths: host.paths, budgets, log, overTcp: tls.access, descriptorPlan });
  tls.watch({
    renew: servers.api.renewTcp,
    endRevoked: servers.api.endRevokedTcp,
    report: (record) => loop.enqueue({ type: 'tls', record }),
  });
  const startHandover = () =>
    handOver({ loop, dispatch, servers, opened, leaving, log, finish: () => ended.resolve('handed-over') });
  const { ledger, history } = host;
  const { listenInsecureControl } = config;
  const exposed = () => exposureWarnings({ ...addresses, hasTls: config.tls !== null, listenInsecureControl });
  const warnings = () => [...exposed(), ...tls.warnings()];
  const desired = createDesired({ loop, file: host.intentFile, nowMs: systemClock.nowMs });
  const { reload, checkConfig } = configReload(config, core, loadConfig);
  const about = { agentId, startedAtMs, config, core, ledger, history, addresses, warnings };
  const control = controlSource({
    ...about,
    leaving: leaving.signal,
    handOver: startHandover,
    checkConfig,
    reload,
    desired,
  });
  const shutdownParts = { config, host, loop, dispatch, handles: workers.handles, servers, opened, leaving, log };
  try {
    const surfaces = {
      config,
      core,
      host,
      servers,
      control,
      passedSocket,
      started,
      log,
      descriptorPlan,
      opened,
      addresses,
    };
    await openSurfaces(surfaces);
  } catch (error) {
    await shutDown(shutdownParts, 'stopped');
    throw error;
  }
  for (const warning of [...exposed(), ...tls.incomplete()]) log.warn(warning);
  const reaped = enqueueInitialEvents(config, host, core, log);
  // In the next turn, after the loop has handled all enqueued events.
  setImmediate(() => started.resolve());
  return {
    addresses: addressesOf(host.paths.apiSocket, addresses),
    apiSocket: host.paths.apiSocket,
    ready: ready.promise,
    reload: async () => {
      await reload.apply();
    },
    state: loop.state,
    subscribe: subscribers.subscribe,
    lateMs: loop.lateMs,
    stop: (how) => {
      // New callers wait for the next agent.
      if (passedSocket !== null) void servers.api.retire();
      loop.enqueue({ type: 'shutdown', how });
    },
    ended: ended.promise.then(async (ending) => {
      await reaped;
      // A stopped agent's orders end with it: the next start uses only its config.
      if (ending === 'stopped') host.ledger.forgetOrders();
      return { ending, isStuck: await shutDown(shutdownParts, ending) };
    }),
  };
}

/**
 * Enqueues what the loop starts with: the config, earlier orders, survivors. Settles when the leftovers of dead workers
 * are swept.
 */
function enqueueInitialEvents(config: Config, host: Host, { loop, metrics }: AgentCore, log: Log): Promise<void> {
  const { adoption, ledger, cgroups, guardian, ledgerSnapshot } = host;
  guardian.killPredecessors();
  reportAdoption(adoption, log, metrics);
  loop.enqueue({ type: 'config', config: config.node });
  if (ledgerSnapshot.orders !== null) loop.enqueue({ type: 'recall-orders', orders: ledgerSnapshot.orders });
  const { intent, problem } = host.intentSnapshot;
  if (intent !== null) loop.enqueue({ type: 'recall-intent', intent, orders: ledgerSnapshot.orders });
  if (problem !== '') loop.enqueue({ type: 'intent-lost', message: intentLost(problem) });
  loop.enqueue({ type: 'adopt', workers: adoption.survivors.map(adoptedOf), leftovers: leftoversOf(adoption) });
  return reapLeftovers(adoption, ledger, cgroups, log, (workerId) =>
    loop.enqueue({ type: 'leftover-swept', workerId }),
  );
}

function intentLost(problem: string): string {
  return `the control plane's intent was set aside, and this node is not managed until it gets another: ${problem}`;
}

function addressesOf(socket: string, { listenAddress, httpAddress }: TcpAddresses): string[] {
  const addresses = [`gRPC at ${socket === '' ? "the service manager's socket" : unixAddress(socket)}`];
  if (listenAddress !== '') addresses.push(`gRPC at ${listenAddress}`);
  if (httpAddress !== '') addresses.push(`http://${httpAddress}/metrics`);
  return addresses;
}
