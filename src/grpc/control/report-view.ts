import { managingIntent } from '../../domain/intent.ts';
import { memoryBytes } from '../../domain/policies/memory.ts';
import { slotsBackingOff } from '../../domain/policies/restart.ts';
import type { Reason } from '../../domain/reason.ts';
import type { Pool, Worker } from '../../domain/state.ts';
import { takeFitting } from './paging.ts';
import type { ControlSource } from './source.ts';
import { nodeStates, poolStates } from './view.ts';

/** What Report shows and no list does. */
export interface ReportSource {
  /** Identifies the boot of the host; empty: unknown. */
  readonly bootId: string;
  /** How late the agent's loop is; 0: it is on time. */
  loopLateMs(): number;
  workOf(pool: string): PoolWork;
  /** How many workers of the pool have ended since the agent started. */
  exitCounts(pool: string): ReadonlyMap<Reason, number>;
}

export interface PoolWork {
  /** Ages of the oldest waiting and the oldest running request; 0: there is none. */
  readonly queuedMs: number;
  readonly runningMs: number;
  readonly capacity: number;
  /** Monotonic time; 0: no evidence yet. */
  readonly lastEvidenceAtMs: number;
}

/** One beat: what its messages have in common, and the pools of each. There is at least one message. */
export interface ReportBeat {
  readonly head: object;
  readonly parts: readonly (readonly object[])[];
}

export function makeBeat(source: ControlSource): ReportBeat {
  const { node, pools, revision } = source.state();
  const { nodeId, agentId } = source.node();
  const nowMs = source.nowMs();
  const head = {
    agent_id: agentId,
    boot_id: source.report.bootId,
    node_id: nodeId,
    revision,
    at_ms: Math.round(source.toUnixMs(nowMs)),
    state: nodeStates[node.phase],
    memory_available_bytes: node.host.availableBytes,
    ...appliedIntent(source),
  };
  const sums = sumsByPool(source);
  const sorted = [...pools.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  const parts: (readonly object[])[] = [];
  for (let rest: readonly Pool[] = sorted; rest.length > 0 || parts.length === 0; ) {
    const taken = takeFitting(rest, (pool) => poolReport(source, pool, sums.get(pool.name) ?? newSums(), nowMs));
    parts.push(taken.views);
    rest = taken.rest;
  }
  return { head, parts };
}

function appliedIntent(source: ControlSource): object {
  const intent = managingIntent(source.state().node);
  if (intent === null) return {};
  return { cluster_uid: intent.clusterUid, applied_epoch: intent.epoch, applied_generation: intent.generation };
}

/** Sums over the workers of one pool. */
interface Sums {
  readonly phases: Record<Worker['phase'], number>;
  readonly healths: Record<Worker['health'], number>;
  missedPingsMax: number;
  roundTripMaxMs: number;
  memoryBytes: number;
  memoryMaxBytes: number;
}

function newSums(): Sums {
  return {
    phases: { starting: 0, ready: 0, draining: 0, stopping: 0, exited: 0 },
    healths: { unknown: 0, well: 0, slow: 0, busy: 0, hung: 0 },
    missedPingsMax: 0,
    roundTripMaxMs: 0,
    memoryBytes: 0,
    memoryMaxBytes: 0,
  };
}

function sumsByPool(source: ControlSource): Map<string, Sums> {
  const ofPool = new Map<string, Sums>();
  for (const worker of source.state().workers.values()) {
    let sums = ofPool.get(worker.pool);
    if (sums === undefined) {
      sums = newSums();
      ofPool.set(worker.pool, sums);
    }
    addWorker(sums, worker);
  }
  return ofPool;
}

function addWorker(sums: Sums, { phase, health, heartbeat, usage }: Worker): void {
  sums.phases[phase] += 1;
  // The process has ended: its last pings and samples say nothing about the present.
  if (phase === 'exited') return;
  sums.healths[health] += 1;
  sums.missedPingsMax = Math.max(sums.missedPingsMax, heartbeat.missed);
  sums.roundTripMaxMs = Math.max(sums.roundTripMaxMs, heartbeat.roundTripMs);
  const bytes = memoryBytes(usage);
  sums.memoryBytes += bytes;
  sums.memoryMaxBytes = Math.max(sums.memoryMaxBytes, bytes);
}

function poolReport(source: ControlSource, pool: Pool, sums: Sums, nowMs: number): object {
  const { phases, healths } = sums;
  const numbers = source.poolNumbers(pool.name);
  const { queuedMs, runningMs, capacity, lastEvidenceAtMs } = source.report.workOf(pool.name);
  const evidence =
    lastEvidenceAtMs === 0 ? {} : { last_evidence_age_ms: Math.max(0, Math.round(nowMs - lastEvidenceAtMs)) };
  return {
    pool: pool.name,
    state: poolStates[pool.phase],
    open: pool.open,
    size: pool.size,
    workers_starting: phases.starting,
    workers_ready: phases.ready,
    workers_draining: phases.draining,
    workers_stopping: phases.stopping + phases.exited,
    workers_well: healths.well,
    workers_slow: healths.slow,
    workers_busy: healths.busy,
    workers_hung: healths.hung,
    missed_pings_max: sums.missedPingsMax,
    ping_round_trip_max_ms: sums.roundTripMaxMs,
    requests_completed: numbers.completed,
    requests_failed: numbers.failed,
    ...evidence,
    in_flight: numbers.inFlight,
    capacity,
    queued: numbers.queued,
    oldest_queued_ms: Math.round(queuedMs),
    oldest_running_ms: Math.round(runningMs),
    slots_backing_off: slotsBackingOff(pool),
    quarantined: pool.quarantine !== '',
    exits: [...source.report.exitCounts(pool.name)].map(([reason, count]) => ({ reason, count })),
    memory_bytes: sums.memoryBytes,
    worker_memory_max_bytes: sums.memoryMaxBytes,
  };
}
