import { setTimeout as delay } from 'node:timers/promises';
import type { NodeConfig } from '../domain/config.ts';
import type { Adopted } from '../domain/event.ts';
import type { Leftover } from '../domain/state.ts';
import type { Cgroups, WorkerCgroup } from '../os/cgroup/cgroup.ts';
import type { ProcessIdentity } from '../os/process/identity.ts';
import { isGone, isOfThisBoot } from '../os/process/identity.ts';
import { carriesWorkerId, findSpawnedWorker } from '../os/process/own-process.ts';
import type { TreeTarget } from '../os/process/process-table.ts';
import { terminateGroup } from '../os/process/send-signal.ts';
import { sweepTree } from '../os/process/tree.ts';
import type { Ledger, LedgerEntry, LedgerSnapshot } from '../os/storage/ledger.ts';
import type { Log } from '../telemetry/log.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { Survivor } from './adopt.ts';
import { warnOfSuspects } from './stop.ts';

/**
 * What happens to the workers of an earlier agent: live ones are adopted, unwanted ones are ended, dead ones are
 * forgotten, and nothing else is touched.
 */
export interface Adoption {
  readonly survivors: readonly Survivor[];
  /** Alive, but their pool is no longer in the config. */
  readonly unwanted: readonly ProvenWorker[];
  /** Dead; the rest of their process trees is swept. */
  readonly dead: readonly LedgerEntry[];
  /**
   * Alive, but not proven to be ours, so not touched. If one is ours after all, it is refused when it dials, and exits.
   */
  readonly unproven: readonly LedgerEntry[];
  readonly setAside: LedgerSnapshot['setAside'];
}

interface ProvenWorker {
  readonly entry: LedgerEntry;
  readonly identity: ProcessIdentity;
}

interface ClearLimits {
  /** How long an unwanted worker may take to exit before it is killed. */
  readonly unwantedGraceMs: number;
  readonly sweepTimeoutMs: number;
}

const defaultLimits: ClearLimits = { unwantedGraceMs: 10_000, sweepTimeoutMs: 10_000 };
const lookEveryMs = 50;

export async function classifySurvivors(snapshot: LedgerSnapshot, config: NodeConfig): Promise<Adoption> {
  const survivors: Survivor[] = [];
  const unwanted: ProvenWorker[] = [];
  const dead: LedgerEntry[] = [];
  const unproven: LedgerEntry[] = [];
  for (const entry of snapshot.entries) {
    const identity = await identityOf(entry);
    const pool = config.pools.get(entry.pool);
    if (identity === undefined || isGone(identity)) dead.push(entry);
    else if (!carriesWorkerId(identity.pid, entry.worker_id)) unproven.push(entry);
    else if (pool === undefined) unwanted.push({ entry, identity });
    else survivors.push({ entry, identity, pool });
  }
  return { survivors, unwanted, dead, unproven, setAside: snapshot.setAside };
}

async function identityOf({ boot_id, pid, start_time, worker_id }: LedgerEntry): Promise<ProcessIdentity | undefined> {
  // Pid 0: its agent died between spawning it and recording the pid.
  return pid === 0 ? findSpawnedWorker(worker_id) : { bootId: boot_id, pid, startTime: start_time };
}

/** The survivor as the domain sees it. */
export function adoptedOf({ entry, identity }: Survivor): Adopted {
  return {
    id: entry.worker_id,
    pool: entry.pool,
    slot: entry.slot,
    generation: entry.generation,
    fingerprint: entry.fingerprint,
    launch: entry.launch,
    pid: identity.pid,
    startedAtMs: entry.started_at_boot_ms,
    concurrency: entry.concurrency,
    spawnedAtMs: entry.spawned_at_boot_ms === 0 ? entry.started_at_boot_ms : entry.spawned_at_boot_ms,
    readyAtMs: entry.state === 'ready' ? entry.ready_at_boot_ms : 0,
    limits: { maxAgeMs: entry.max_age_ms, maxRequests: entry.max_requests },
  };
}

/** Workers that `reapLeftovers` ends. Until then their processes may use resources of their slots. */
export function leftoversOf({ unwanted, dead }: Adoption): Leftover[] {
  const entries = [...unwanted.map(({ entry }) => entry), ...dead];
  return entries.map(({ worker_id: workerId, pool, slot, generation }) => ({ workerId, pool, slot, generation }));
}

/**
 * Ends unwanted workers and sweeps what dead ones have left, then removes them from the ledger. Workers whose sweep
 * failed stay in the ledger for the next agent. Calls `onSwept` for each of `leftoversOf`, whatever the result. Never
 * rejects.
 */
export async function reapLeftovers(
  adoption: Adoption,
  ledger: Ledger,
  cgroups: Cgroups,
  log: Log,
  onSwept: (workerId: string) => void,
  limits: ClearLimits = defaultLimits,
): Promise<void> {
  const { unwanted, dead, unproven } = adoption;
  const reap = async (entry: LedgerEntry, sweep: () => Promise<void>): Promise<void> => {
    try {
      await sweep();
    } catch (error) {
      return log.error(`${entry.worker_id}: its remaining processes could not be swept: ${(error as Error).message}`);
    } finally {
      onSwept(entry.worker_id);
    }
    ledger.forget(entry.worker_id);
  };
  const host = { cgroups, log, limits };
  await Promise.all([
    ...unwanted.map((worker) => reap(worker.entry, () => endUnwanted(worker, host))),
    ...dead.map((entry) => reap(entry, () => sweepDead(entry, host))),
    ...unproven.map(async (entry) => ledger.forget(entry.worker_id)),
  ]);
}

interface Host {
  readonly cgroups: Cgroups;
  readonly log: Log;
  readonly limits: ClearLimits;
}

async function endUnwanted({ entry, identity }: ProvenWorker, host: Host): Promise<void> {
  const cgroup = host.cgroups.find(entry.worker_id, identity.pid);
  terminateGroup(identity);
  const endsAtMs = performance.now() + host.limits.unwantedGraceMs;
  while (!isGone(identity) && performance.now() < endsAtMs) await delay(lookEveryMs);
  await sweep({ workerId: entry.worker_id, identity }, cgroup, host);
}

async function sweepDead(entry: LedgerEntry, host: Host): Promise<void> {
  const { worker_id: workerId, boot_id: bootId, pid, start_time: startTime } = entry;
  const identity = { bootId, pid, startTime };
  const wasSpawned = pid > 0;
  // No process survives a reboot.
  if (wasSpawned && !isOfThisBoot(identity)) return;
  const cgroup = host.cgroups.findLeftover(workerId);
  // A worker that was never spawned has left nothing.
  if (wasSpawned || cgroup !== undefined) await sweep({ workerId, identity }, cgroup, host);
}

async function sweep(target: TreeTarget, cgroup: WorkerCgroup | undefined, { log, limits }: Host): Promise<void> {
  const { survivors, suspects } = await sweepTree(target, { timeoutMs: limits.sweepTimeoutMs, cgroup });
  warnOfSuspects(log, target.workerId, suspects);
  if (survivors.length > 0)
    log.error(`${target.workerId}: processes that could not be killed: ${survivors.join(', ')}`);
  cgroup?.remove();
}

/** Logs one summary line, and a warning for each entry that needs attention. */
export function reportAdoption(adoption: Adoption, log: Log, metrics: Pick<Metrics, 'adoption'>): void {
  const { survivors, unwanted, dead, unproven, setAside } = adoption;
  metrics.adoption('adopted', survivors.length);
  metrics.adoption('unwanted', unwanted.length);
  metrics.adoption('dead', dead.length);
  metrics.adoption('unproven', unproven.length);
  metrics.adoption('set_aside', setAside.length);
  for (const { file, why } of setAside) log.warn(`set aside: ${file}: ${why}`);
  for (const entry of unproven) {
    log.warn(`${entry.worker_id}: process ${entry.pid} is not proven to be this worker, and is left alone`);
  }
  if (survivors.length + unwanted.length + dead.length + unproven.length + setAside.length === 0) return;
  const counts = [
    `${survivors.length} adopted`,
    `${unwanted.length} ended, because their pool was removed`,
    `${dead.length} had exited`,
    `${unproven.length} not proven to be ours`,
    `${setAside.length} files set aside`,
  ];
  log.info(`workers of an earlier agent: ${counts.join(', ')}`);
}
