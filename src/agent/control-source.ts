import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import type { Config } from '../config/load.ts';
import type { ControlSource } from '../grpc/control/source.ts';
import type { Recorded } from '../grpc/control/view.ts';
import { systemClock } from '../os/clock.ts';
import { hostBootId } from '../os/process/identity.ts';
import { version } from '../version.ts';
import type { WorkerHandle } from '../workers/handle.ts';
import type { AgentCore } from './core.ts';
import type { TcpAddresses } from './exposure.ts';
import type { Host } from './host.ts';

export interface ControlParts {
  readonly agentId: string;
  readonly startedAtMs: number;
  readonly config: Config;
  readonly core: AgentCore;
  readonly ledger: Host['ledger'];
  readonly history: Host['history'];
  /** Filled in while the agent starts. */
  readonly addresses: TcpAddresses;
  /** Surfaces without authentication, and files of `tls` that cannot be used: for `status` and GetNode. */
  warnings(): readonly string[];
  readonly leaving: AbortSignal;
  readonly handOver: ControlSource['handOver'];
  readonly checkConfig: ControlSource['checkConfig'];
  readonly reload: ControlSource['reload'];
  readonly desired: ControlSource['desired'];
}

/** Connects Control to the parts that provide its data and carry out its commands. */
export function controlSource(parts: ControlParts): ControlSource {
  const { agentId, startedAtMs, config, core, ledger, history, addresses, warnings } = parts;
  const { leaving, handOver, checkConfig, reload, desired } = parts;
  const { loop, dispatch, workers, exits, exitCounts, subscribers, apps } = core;
  return {
    state: loop.state,
    node: () => ({
      nodeId: config.node.nodeId,
      agentId,
      version,
      pid: process.pid,
      startedAtMs,
      configPath: config.path,
      ...addresses,
      warnings: warnings(),
    }),
    counters: (workerId) => workers.handles.get(workerId)?.counters,
    recorded: (workerId) => recordedOf(workers.handles.get(workerId), subscribers.revisionOf(workerId)),
    poolNumbers: dispatch.poolStats,
    exits: exits.list,
    history: history.read,
    requestsOf: dispatch.requestsOf,
    progressOf: dispatch.progressOf,
    nowMs: systemClock.nowMs,
    toUnixMs: systemClock.toUnixMs,
    command: loop.applyNow,
    ordersKept: ledger.ordersKept,
    subscribe: subscribers.subscribe,
    followTelemetry: apps.follow,
    report: {
      bootId: hostBootId(),
      loopLateMs: loop.lateMs,
      workOf: (pool) => {
        const { queuedMs, runningMs } = dispatch.oldestRequest(pool);
        const { capacity } = dispatch.poolStats(pool);
        return { queuedMs, runningMs, capacity, lastEvidenceAtMs: dispatch.lastEvidenceAtMs(pool) };
      },
      exitCounts: exitCounts.of,
    },
    commandLine: [process.execPath, ...process.argv.slice(1).map((word) => absolute(word, config))],
    leaving,
    handOver,
    checkConfig,
    reload,
    desired,
  };
}

/** Makes the agent's own paths on its command line absolute, because users paste it elsewhere. */
function absolute(word: string, { path, runtimeDir, stateDir }: Config): string {
  const [, flag = '', value = ''] = /^(--[\w-]+=)?(.*)$/s.exec(word) ?? [];
  const whole = resolve(value);
  return [path, runtimeDir, stateDir].includes(whole) ? `${flag}${whole}` : word;
}

function recordedOf(handle: WorkerHandle | undefined, revision: number): Recorded | undefined {
  if (handle === undefined) return undefined;
  const { boot_id: bootId, start_time: startTime, launch } = handle.entry;
  const config = createHash('sha256').update(launch).digest('hex').slice(0, 16);
  return { bootId, startTime, config, adopted: handle.adopted, revision };
}
