import { setTimeout as delay } from 'node:timers/promises';
import type { NodeConfig } from '../domain/config.ts';
import type { Adopted } from '../domain/event.ts';
import type { Leftover } from '../domain/state.ts';
import type { Cgroups, WorkerCgroup } from '../os/cgroup/cgroup.ts';
import type { ProcessIdentity } from '../os/process/identity.ts';
import { isGone, isOfThisBoot } from '../os/process/identity.ts';
import { carriesWorkerId, findWorker } from '../os/process/own-process.ts';
import type { TreeTarget } from '../os/process/process-table.ts';
import { terminateGroup } from '../os/process/signal.ts';
import { sweepTree } from '../os/process/tree.ts';
import type { Ledger, LedgerEntry, LedgerSnapshot } from '../os/storage/ledger.ts';
import type { Log } from '../telemetry/log.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { Survivor } from './adopt.ts';
import { warnOfSuspects } from './stop.ts';

/**
 * What becomes of the workers that an earlier agent has left: the live ones are adopted, those that nobody wants are ended,
 * the dead are forgotten, and nothing else is touched.
 */
export interface Adoption {
  readonly survivors: readonly Survivor[];
  /** Alive, but of a pool that the config no longer has. */
  readonly unwanted: readonly Found[];
  /** What is left of their trees is swept. */
  readonly dead: readonly LedgerEntry[];
  /** Alive, but not seen to be ours: not touched. Should one be, it is refused when it dials, and leaves. */
  readonly unproven: readonly LedgerEntry[];
  readonly setAside: LedgerSnapshot['setAside'];
}

interface Found {
  readonly entry: LedgerEntry;
  readonly identity: ProcessIdentity;
}

interface ClearLimits {
  /** How long a worker that nobody wants may take to end what it has, before it is killed. */
  readonly unwantedGraceMs: number;
  readonly sweepTimeoutMs: number;
}

const usualLimits: ClearLimits = { unwantedGraceMs: 10_000, sweepTimeoutMs: 10_000 };
const lookEveryMs = 50;

export async function classifySurvivors(found: LedgerSnapshot, config: NodeConfig): Promise<Adoption> {
  const survivors: Survivor[] = [];
  const unwanted: Found[] = [];
  const dead: LedgerEntry[] = [];
  const unproven: LedgerEntry[] = [];
  for (const entry of found.entries) {
    const identity = await identityOf(entry);
    const pool = config.pools.get(entry.pool);
    if (identity === undefined || isGone(identity)) dead.push(entry);
    else if (!carriesWorkerId(identity.pid, entry.worker_id)) unproven.push(entry);
    else if (pool === undefined) unwanted.push({ entry, identity });
    else survivors.push({ entry, identity, pool });
  }
  return { survivors, unwanted, dead, unproven, setAside: found.setAside };
}

async function identityOf({ boot_id, pid, start_time, worker_id }: LedgerEntry): Promise<ProcessIdentity | undefined> {
  // Its agent died between the spawn and the word of it.
  return pid === 0 ? findWorker(worker_id) : { bootId: boot_id, pid, startTime: start_time };
}

/** What the domain needs to know of a survivor. */
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

/** What `reapLeftovers` is to end: until then it may use what belongs to its slot. */
export function leftoversOf({ unwanted, dead }: Adoption): Leftover[] {
  const entries = [...unwanted.map(({ entry }) => entry), ...dead];
  return entries.map(({ worker_id: workerId, pool, slot, generation }) => ({ workerId, pool, slot, generation }));
}

/**
 * Ends those that nobody wants, and sweeps what the dead have left; then the ledger forgets them. What could not be looked at
 * stays in the ledger, for the next agent. Calls `onSwept` for each of `leftoversOf`, whatever came of it. Never rejects.
 */
export async function reapLeftovers(
  adoption: Adoption,
  ledger: Ledger,
  cgroups: Cgroups,
  log: Log,
  onSwept: (workerId: string) => void,
  limits: ClearLimits = usualLimits,
): Promise<void> {
  const { unwanted, dead, unproven } = adoption;
  const away = async (entry: LedgerEntry, sweep: () => Promise<void>): Promise<void> => {
    try {
      await sweep();
    } catch (error) {
      return log.error(`${entry.worker_id}: what is left of it could not be swept: ${(error as Error).message}`);
    } finally {
      onSwept(entry.worker_id);
    }
    ledger.forget(entry.worker_id);
  };
  const host = { cgroups, log, limits };
  await Promise.all([
    ...unwanted.map((found) => away(found.entry, () => endUnwanted(found, host))),
    ...dead.map((entry) => away(entry, () => sweepDead(entry, host))),
    ...unproven.map(async (entry) => ledger.forget(entry.worker_id)),
  ]);
}

interface Host {
  readonly cgroups: Cgroups;
  readonly log: Log;
  readonly limits: ClearLimits;
}

async function endUnwanted({ entry, identity }: Found, host: Host): Promise<void> {
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
  // The end of that boot has ended all of it.
  if (wasSpawned && !isOfThisBoot(identity)) return;
  const cgroup = host.cgroups.findLeftover(workerId);
  // One that was never spawned has left nothing.
  if (wasSpawned || cgroup !== undefined) await sweep({ workerId, identity }, cgroup, host);
}

async function sweep(target: TreeTarget, cgroup: WorkerCgroup | undefined, { log, limits }: Host): Promise<void> {
  const { survivors, suspects } = await sweepTree(target, { timeoutMs: limits.sweepTimeoutMs, cgroup });
  warnOfSuspects(log, target.workerId, suspects);
  if (survivors.length > 0)
    log.error(`${target.workerId}: processes that could not be killed: ${survivors.join(', ')}`);
  cgroup?.remove();
}

/** One line, and what should be looked at. */
export function reportAdoption(adoption: Adoption, log: Log, metrics: Pick<Metrics, 'adoption'>): void {
  const { survivors, unwanted, dead, unproven, setAside } = adoption;
  metrics.adoption('adopted', survivors.length);
  metrics.adoption('unwanted', unwanted.length);
  metrics.adoption('dead', dead.length);
  metrics.adoption('unproven', unproven.length);
  metrics.adoption('set_aside', setAside.length);
  for (const { file, why } of setAside) log.warn(`set aside: ${file}: ${why}`);
  for (const entry of unproven) {
    log.warn(`${entry.worker_id}: process ${entry.pid} is not seen to be this worker: it is not touched`);
  }
  if (survivors.length + unwanted.length + dead.length + unproven.length + setAside.length === 0) return;
  const counts = [
    `${survivors.length} adopted`,
    `${unwanted.length} ended, for no pool wants them`,
    `${dead.length} had died`,
    `${unproven.length} not proven to be ours`,
    `${setAside.length} files set aside`,
  ];
  log.info(`workers of an earlier agent: ${counts.join(', ')}`);
}
