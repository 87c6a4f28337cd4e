import type { NodeRecord } from '../../domain/action.ts';
import type { MemoryLimits, PoolConfig } from '../../domain/config.ts';
import { workersOf } from '../../domain/draft.ts';
import type { Counters } from '../../domain/event.ts';
import type { Evidence, KeptExit, ReportedProgress, RequestNote } from '../../domain/evidence.ts';
import { managingIntent, nodeDrift, poolDrift } from '../../domain/intent.ts';
import type { HealthVerdict } from '../../domain/policies/health.ts';
import { limitInMs, memoryBytes, memorySource, slopeOf } from '../../domain/policies/memory.ts';
import { slotsBackingOff } from '../../domain/policies/restart.ts';
import { rollProgress } from '../../domain/roll.ts';
import type { Health, NodeStatus, OfferedCommand, Phase, Pool, Roll, State, Worker } from '../../domain/state.ts';
import type { StoredEvent } from '../../domain/stored-event.ts';
import { commandsMax } from '../../domain/text-bounds.ts';
import { waitingSlots } from '../../domain/waiting-slots.ts';

/** Makes messages of control.proto from values of the domain. Field names are the proto's. */

/** Facts about the node that the domain's state does not have. */
export interface NodeFacts {
  readonly nodeId: string;
  readonly agentId: string;
  readonly version: string;
  readonly pid: number;
  readonly startedAtMs: number;
  readonly configPath: string;
  readonly httpAddress: string;
  readonly listenAddress: string;
  readonly warnings: readonly string[];
}

export interface PoolNumbers {
  readonly queued: number;
  readonly queuedBytes: number;
  readonly inFlight: number;
  readonly completed: number;
  readonly failed: number;
}

type ToUnixMs = (monotonicMs: number) => number;

const workerStates: Readonly<Record<Phase, string>> = {
  starting: 'WORKER_STATE_STARTING',
  ready: 'WORKER_STATE_READY',
  draining: 'WORKER_STATE_DRAINING',
  stopping: 'WORKER_STATE_STOPPING',
  exited: 'WORKER_STATE_EXITED',
};

const workerHealths: Readonly<Record<Health, string>> = {
  unknown: 'WORKER_HEALTH_UNSPECIFIED',
  well: 'WORKER_HEALTH_WELL',
  slow: 'WORKER_HEALTH_SLOW',
  busy: 'WORKER_HEALTH_BUSY',
  hung: 'WORKER_HEALTH_HUNG',
};

export const nodeStates: Readonly<Record<NodeStatus['phase'], string>> = {
  running: 'NODE_STATE_RUNNING',
  draining: 'NODE_STATE_DRAINING',
  stopping: 'NODE_STATE_STOPPING',
  stopped: 'NODE_STATE_STOPPING',
};

export const poolStates: Readonly<Record<Pool['phase'], string>> = {
  running: 'POOL_STATE_RUNNING',
  draining: 'POOL_STATE_DRAINING',
  removed: 'POOL_STATE_REMOVED',
};

const rollStates: Readonly<Record<Roll['phase'], string>> = {
  running: 'ROLL_STATE_RUNNING',
  paused: 'ROLL_STATE_PAUSED',
  done: 'ROLL_STATE_DONE',
  aborted: 'ROLL_STATE_ABORTED',
  failed: 'ROLL_STATE_FAILED',
};

const noLimits: MemoryLimits = { softBytes: 0, hardBytes: 0, samples: 1, of: 1 };

/** Whole ms; 0 stands for never. */
function finite(ms: number): number {
  return Number.isFinite(ms) ? Math.max(1, Math.round(ms)) : 0;
}

/** The Unix time of a monotonic time. 0, which stands for not yet, stays 0. */
function moment(monotonicMs: number, toUnixMs: ToUnixMs): number {
  return monotonicMs === 0 ? 0 : Math.round(toUnixMs(monotonicMs));
}

export function workerView(
  worker: Worker,
  pool: PoolConfig | undefined,
  counters: Counters | undefined,
  toUnixMs: ToUnixMs,
): object {
  const limits = pool?.recycle.memory ?? noLimits;
  return {
    worker_id: worker.id,
    pool: worker.pool,
    slot: worker.slot,
    generation: worker.generation,
    pid: worker.pid,
    state: workerStates[worker.phase],
    health: workerHealths[worker.health],
    reason: worker.ending ?? worker.due?.reason ?? '',
    started_at_ms: moment(worker.startedAtMs, toUnixMs),
    ready_at_ms: moment(worker.readyAtMs, toUnixMs),
    in_flight: counters?.inFlight ?? 0,
    requests_completed: counters?.completed ?? 0,
    requests_failed: counters?.failed ?? 0,
    last_evidence_at_ms: moment(counters?.lastEvidenceAtMs ?? 0, toUnixMs),
    last_pong_at_ms: moment(worker.heartbeat.lastPongAtMs, toUnixMs),
    ping_round_trip_ms: worker.heartbeat.roundTripMs,
    missed_pings: worker.heartbeat.missed,
    rss_bytes: worker.usage.rssBytes,
    pss_bytes: worker.usage.pssBytes,
    memory_bytes: memoryBytes(worker.usage),
    memory_source: worker.usage.sampledAtMs === 0 ? '' : memorySource(worker.usage),
    cpu: worker.usage.cpu,
    memory_slope_bytes_per_s: slopeOf(worker.usage.history),
    memory_limit_in_ms: finite(limitInMs(worker.usage, limits)),
    concurrency: worker.concurrency,
    sdk_version: worker.hello?.sdkVersion ?? '',
    python_version: worker.hello?.pythonVersion ?? '',
    start_interpreter_ms: worker.hello?.start.interpreterMs ?? 0,
    start_import_ms: worker.hello?.start.importMs ?? 0,
    start_hooks_ms: worker.hello?.start.hooksMs ?? 0,
  };
}

export function poolView(pool: Pool, state: State, numbers: PoolNumbers, toUnixMs: ToUnixMs): object {
  const count = { starting: 0, ready: 0, draining: 0, stopping: 0, exited: 0 };
  const offers = new Set<readonly OfferedCommand[]>();
  const workers = workersOf(state, pool.name);
  for (const worker of workers) {
    count[worker.phase] += 1;
    if (worker.phase === 'ready' && worker.hello !== null) offers.add(worker.hello.commands);
  }
  return {
    pool: pool.name,
    state: poolStates[pool.phase],
    drift: poolDrift(state, pool),
    size: pool.size,
    workers_starting: count.starting,
    workers_ready: count.ready,
    workers_draining: count.draining,
    workers_stopping: count.stopping + count.exited,
    queued: numbers.queued,
    queued_bytes: numbers.queuedBytes,
    in_flight: numbers.inFlight,
    requests_completed: numbers.completed,
    requests_failed: numbers.failed,
    commands: commandsOf(offers),
    app: pool.config.app,
    slots_backing_off: slotsBackingOff(pool),
    last_failure: pool.lastFailure?.message ?? '',
    last_failure_at_ms: moment(pool.lastFailure?.atMs ?? 0, toUnixMs),
    quarantine: pool.quarantine,
    waiting_slots: waitingSlots(pool, workers, state.node.leftovers.values()),
    roll: pool.roll === null ? null : rollView(pool.name, pool.roll, workers, toUnixMs),
  };
}

/** The commands of all ready workers. Each worker may offer others, so the total is bounded too. */
function commandsOf(offers: ReadonlySet<readonly OfferedCommand[]>): OfferedCommand[] {
  const commands = new Map<string, OfferedCommand>();
  for (const offer of offers) {
    for (const command of offer) {
      if (commands.size >= commandsMax) break;
      commands.set(command.name, command);
    }
  }
  return [...commands.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

export function rollView(pool: string, roll: Roll, workers: Iterable<Worker>, toUnixMs: ToUnixMs): object {
  const { phase, ...progress } = rollProgress(roll, workers);
  return {
    pool,
    roll_id: roll.id,
    state: rollStates[phase],
    ...progress,
    started_at_ms: moment(roll.startedAtMs, toUnixMs),
    ended_at_ms: moment(roll.endedAtMs, toUnixMs),
  };
}

/** Facts about a worker that the ledger has and the domain's state does not have. */
export interface Recorded {
  readonly bootId: string;
  readonly startTime: string;
  readonly config: string;
  readonly adopted: boolean;
  /** The revision of the last change that a watcher can see. */
  readonly revision: number;
}

export function registryEntryView(worker: Worker, recorded: Recorded, toUnixMs: ToUnixMs): object {
  return {
    worker_id: worker.id,
    pool: worker.pool,
    slot: worker.slot,
    generation: worker.generation,
    boot_id: recorded.bootId,
    pid: worker.pid,
    start_time: recorded.startTime,
    state: workerStates[worker.phase],
    attached: worker.attached,
    config: recorded.config,
    started_at_ms: moment(worker.startedAtMs, toUnixMs),
    ready_at_ms: moment(worker.readyAtMs, toUnixMs),
    revision: recorded.revision,
    adopted: recorded.adopted,
  };
}

export function nodeView(state: State, facts: NodeFacts): object {
  const intent = managingIntent(state.node);
  let ready = 0;
  for (const worker of state.workers.values()) if (worker.phase === 'ready') ready += 1;
  return {
    node_id: facts.nodeId,
    state: nodeStates[state.node.phase],
    version: facts.version,
    pid: facts.pid,
    started_at_ms: facts.startedAtMs,
    revision: state.revision,
    agent_id: facts.agentId,
    pools: state.pools.size,
    workers: state.workers.size,
    workers_ready: ready,
    config_path: facts.configPath,
    http_address: facts.httpAddress,
    listen_address: facts.listenAddress,
    config_error: state.node.configError,
    restart_needed: state.node.restartNeeded,
    warnings: facts.warnings,
    memory_available_bytes: state.node.host.availableBytes,
    memory_floor_bytes: state.node.host.floorBytes,
    ledger_error: state.node.blockedStarts.because,
    managed_by: intent?.controller ?? '',
    cluster_uid: intent?.clusterUid ?? '',
    epoch: intent?.epoch ?? 0,
    generation: intent?.generation ?? 0,
    drift: nodeDrift(state),
  };
}

export function eventView(record: NodeRecord, toUnixMs: ToUnixMs): object {
  return {
    at_ms: moment(record.atMs, toUnixMs),
    kind: record.kind,
    pool: record.pool ?? '',
    worker_id: record.workerId ?? '',
    reason: record.reason ?? '',
    message: record.message,
    exit_code: record.exit?.code ?? 0,
    has_exit_code: typeof record.exit?.code === 'number',
    signal: record.exit?.signal ?? '',
  };
}

export function storedEventView({ atUnixMs, workerId, exitCode, ...event }: StoredEvent): object {
  return {
    ...event,
    at_ms: atUnixMs,
    worker_id: workerId,
    exit_code: exitCode ?? 0,
    has_exit_code: exitCode !== null,
  };
}

/** Why a live worker is considered healthy or not; the fields of control.proto's Explanation. */
export function explainView(verdict: HealthVerdict, requests: readonly RequestNote[]): object {
  const seen = verdict.observations;
  const ago = (ms: number): string => (Number.isFinite(ms) ? `${Math.round(ms)} ms ago` : 'never');
  const observations = {
    process: seen.process,
    'pings missed': `${seen.missedPings} of ${seen.maxMissed} (timeout ${seen.pingTimeoutMs} ms)`,
    'oldest ping unanswered': seen.oldestPingMs === 0 ? 'none' : `${Math.round(seen.oldestPingMs)} ms`,
    'last pong': `${ago(seen.lastPongMs)}; it said: ${seen.reported.running} running, the oldest for ${seen.reported.oldestMs} ms, asyncio lag ${seen.reported.loopLagMs} ms`,
    'requests in flight': String(seen.inFlight),
    'last result': ago(seen.lastEvidenceMs),
    'process state': `${seen.state === '' ? 'unknown' : seen.state} (${ago(seen.sampledMs)})`,
    cpu: `${Math.round(seen.cpuShare * 100)} % of a core, advanced ${ago(seen.cpuAdvancedMs)} (stands still after ${Math.round(seen.freshMs)} ms)`,
    busy: seen.busyMs === 0 ? 'no' : `for ${Math.round(seen.busyMs)} ms of ${seen.busyLimitMs} ms`,
    "agent's own lag forgiven": `${Math.round(seen.forgivenMs)} ms`,
  };
  return {
    health: verdict.health === 'exited' ? workerHealths.unknown : workerHealths[verdict.health],
    because: verdict.because,
    observations: Object.entries(observations).map(([name, value]) => ({ name, value })),
    requests: requests.map(requestNote),
  };
}

function requestNote({ command, requestId, ageMs, cancelled, progress }: RequestNote): object {
  return {
    ...{ command, request_id: requestId, age_ms: Math.max(0, Math.round(ageMs)), cancelled },
    ...progressView(progress),
  };
}

export function progressView(progress: ReportedProgress | null): object {
  return { progress: progress?.fraction ?? -1, progress_message: progress?.message ?? '' };
}

function evidenceView(evidence: Evidence, toUnixMs: ToUnixMs): object {
  return {
    taken_at_ms: moment(evidence.takenAtMs, toUnixMs),
    because: evidence.because,
    state: evidence.state,
    threads: evidence.threads,
    stacks: evidence.stacks,
    stacks_missing: evidence.stacksMissing,
    requests: evidence.requests.map(requestNote),
    last_lines: evidence.lastLines,
  };
}

export function exitView(record: KeptExit, toUnixMs: ToUnixMs): object {
  return {
    worker_id: record.workerId,
    pool: record.pool,
    slot: record.slot,
    generation: record.generation,
    pid: record.pid,
    reason: record.reason,
    unplanned: record.unplanned,
    exit_code: record.exit.code ?? 0,
    has_exit_code: record.exit.code !== null,
    signal: record.exit.signal ?? '',
    message: record.message,
    started_at_ms: moment(record.startedAtMs, toUnixMs),
    spawned_at_ms: moment(record.spawnedAtMs, toUnixMs),
    ready_at_ms: moment(record.readyAtMs, toUnixMs),
    exited_at_ms: moment(record.exitedAtMs, toUnixMs),
    in_flight: record.inFlight,
    requests_completed: record.completed,
    requests_failed: record.failed,
    memory_bytes: record.memoryBytes,
    cpu_ms: Math.round(record.cpuMs),
    start_interpreter_ms: record.start?.interpreterMs ?? 0,
    start_import_ms: record.start?.importMs ?? 0,
    start_hooks_ms: record.start?.hooksMs ?? 0,
    user_cpu_ms: Math.round(record.account?.userMs ?? 0),
    system_cpu_ms: Math.round(record.account?.systemMs ?? 0),
    oom_kills: record.account?.oomKills ?? 0,
    peak_memory_bytes: record.account?.peakBytes ?? 0,
    evidence: record.evidence === null ? null : evidenceView(record.evidence, toUnixMs),
  };
}
