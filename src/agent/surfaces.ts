import { randomUUID } from 'node:crypto';
import type { Config } from '../config/load.ts';
import { limitsOf } from '../dispatch/limits.ts';
import { addApi, afterStart } from '../grpc/api.ts';
import { controlService } from '../grpc/control/service.ts';
import type { ControlSource } from '../grpc/control/source.ts';
import { executionService } from '../grpc/execution/service.ts';
import { systemClock } from '../os/clock.ts';
import type { PassedSocket } from '../os/systemd.ts';
import { startHttp } from '../telemetry/http.ts';
import type { Log } from '../telemetry/log.ts';
import type { AgentCore } from './core.ts';
import type { Deferred } from './deferred.ts';
import type { DescriptorPlan } from './descriptor-plan.ts';
import type { Host } from './host.ts';
import { serveWorkers } from './link.ts';
import { loopHealth } from './loop.ts';
import type { Opened } from './opened.ts';
import { healthReporter } from './pool-health.ts';
import { readiness } from './readiness.ts';
import { watchRuntime } from './runtime-watch.ts';
import type { Servers } from './servers.ts';

export interface SurfaceParts {
  readonly config: Config;
  readonly core: AgentCore;
  readonly host: Host;
  readonly servers: Servers;
  readonly control: ControlSource;
  /** The API's socket if the service manager passed one; null if the agent creates it. */
  readonly passedSocket: PassedSocket | null;
  /** Calls of Control wait for this. */
  readonly started: Deferred<void>;
  readonly log: Log;
  descriptorPlan(): DescriptorPlan;
  /** Filled in here, as far as the start succeeds. */
  readonly opened: Opened;
  readonly addresses: { listenAddress: string; httpAddress: string };
}

/** Adds the services to the servers, adopts the survivors, and listens: for callers first, for workers last. */
export async function openSurfaces(parts: SurfaceParts): Promise<void> {
  const { config, core, host, servers, passedSocket, log, opened, addresses } = parts;
  addServices(parts);
  // Before callers can connect: a request must find its pool, and wait for survivors that may have it already.
  for (const pool of config.node.pools.values()) core.dispatch.setPool(pool.name, limitsOf(pool));
  for (const survivor of host.adoption.survivors) {
    core.workers.adopt(survivor);
    host.notAdopted.delete(survivor.entry.worker_id);
    // A worker that was not ready has never had a request.
    if (survivor.entry.state === 'ready') core.dispatch.expectWorker(survivor.pool.name, survivor.entry.worker_id);
  }
  // Before callers are refused at agent.sock and told to come here.
  await servers.bindControl();
  if (passedSocket === null) await servers.bindApi();
  else await servers.api.bindDescriptor(passedSocket.fd);
  if (config.listen !== null) addresses.listenAddress = await servers.bindTcp(config.listen);
  addGauges(parts);
  if (config.http !== null) {
    opened.http = await openHttp(parts, config.http);
    addresses.httpAddress = opened.http.address;
  }
  // From now on workers dial in.
  await servers.bindLink();
  const { runtimeDir: directory, socketGroup: group, controlGroup } = config;
  const watched = { directory, paths: host.paths, passedSocket, group, controlGroup, log };
  opened.runtimeWatch = watchRuntime({ ...watched, ...servers });
}

function addServices({ config, core, servers, control, started }: SurfaceParts): void {
  const { workers, dispatch, loop, metrics, apps, budgets, subscribers } = core;
  const { nowMs } = systemClock;
  serveWorkers(servers.link, { workers, dispatch, loop, metrics, apps, budget: budgets.workers, nowMs });
  const execution = executionService({
    dispatch,
    nowMs,
    toMonotonicMs: (unixMs) => nowMs() + unixMs - Date.now(),
    newRequestId: randomUUID,
    payloadMaxBytes: config.messageMaxBytes,
    unreadMaxBytes: config.unreadMaxBytes,
    leaving: control.leaving,
  });
  const health = addApi(servers.api.server, execution, afterStart(controlService(control), started));
  // Until the first step knows them. They are no unknown pools.
  for (const pool of config.node.pools.keys()) health.setPool(pool, 'NOT_SERVING');
  subscribers.subscribe(healthReporter(health, loop.state));
  control.leaving.addEventListener('abort', health.leave, { once: true });
}

function addGauges({ core, host, servers, opened }: SurfaceParts): void {
  const { loop, dispatch, budgets, metrics, apps } = core;
  metrics.addApps(apps);
  metrics.addGauges({
    state: loop.state,
    budgets,
    poolNumbers: dispatch.poolStats,
    oldestRequest: dispatch.oldestRequest,
    tls: () => opened.tls.numbers(),
    eventsDropped: host.history.dropped,
    connections: () => ({
      grpc: servers.api.connections(),
      control_socket: servers.api.controlConnections(),
      worker_link: servers.link.connections(),
      http: opened.http?.connections() ?? null,
    }),
  });
}

function openHttp(parts: SurfaceParts, address: NonNullable<Config['http']>) {
  const { core, started, opened, descriptorPlan, log } = parts;
  const source = {
    metrics: core.metrics.render,
    health: () => loopHealth(core.loop.lateMs()),
    readiness: () =>
      started.isResolved()
        ? readiness(core.loop.state(), opened.runtimeWatch?.problem() ?? '')
        : { ok: false, text: 'the agent is starting' },
  };
  return startHttp(address, source, {
    maxConnections: () => descriptorPlan().httpConnections,
    onRefused: log.warn,
  });
}
