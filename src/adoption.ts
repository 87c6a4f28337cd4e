import { setTimeout as delay } from 'node:timers/promises';
import type { NodeConfig } from './domain/config.ts';
import type { Adopted } from './domain/event.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import type { Cgroups, WorkerCgroup } from './os/cgroup.ts';
import type { ProcessIdentity } from './os/identity.ts';
import { isAlive } from './os/identity.ts';
import type { Ledger, LedgerEntry, LedgerFound } from './os/ledger.ts';
import { carriesWorkerId, findWorker } from './os/own-process.ts';
import type { TreeTarget } from './os/process-table.ts';
import { signalGroup, sweepTree } from './os/tree.ts';
import type { Survivor } from './perform.ts';

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
  readonly setAside: LedgerFound['setAside'];
}

interface Found {
  readonly entry: LedgerEntry;
  readonly identity: ProcessIdentity;
}

/** How long a worker that nobody wants may take to end what it has, before it is killed. */
const unwantedGraceMs = 10_000;
const lookEveryMs = 50;
const sweepTimeoutMs = 10_000;

export async function sortOut(found: LedgerFound, config: NodeConfig): Promise<Adoption> {
  const survivors: Survivor[] = [];
  const unwanted: Found[] = [];
  const dead: LedgerEntry[] = [];
  const unproven: LedgerEntry[] = [];
  for (const entry of found.entries) {
    const identity = await identityOf(entry);
    const pool = config.pools.get(entry.pool);
    if (identity === undefined || !isAlive(identity)) dead.push(entry);
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
    spawnedAtMs: entry.spawned_at_boot_ms === 0 ? entry.started_at_boot_ms : entry.spawned_at_boot_ms,
    readyAtMs: entry.state === 'ready' ? entry.ready_at_boot_ms : 0,
    limits: { maxAgeMs: entry.max_age_ms, maxRequests: entry.max_requests },
  };
}

/** Ends those that nobody wants, and sweeps what the dead have left; then the ledger forgets them. Never rejects. */
export async function clearAway(adoption: Adoption, ledger: Ledger, cgroups: Cgroups, log: Log): Promise<void> {
  const { unwanted, dead, unproven } = adoption;
  const away = async (entry: LedgerEntry, sweep: () => Promise<void>): Promise<void> => {
    try {
      await sweep();
    } catch (error) {
      log.error(`${entry.worker_id}: what is left of it could not be swept: ${(error as Error).message}`);
    }
    ledger.forget(entry.worker_id);
  };
  await Promise.all([
    ...unwanted.map((found) => away(found.entry, () => endUnwanted(found, cgroups, log))),
    ...dead.map((entry) => away(entry, () => sweepDead(entry, cgroups, log))),
    ...unproven.map((entry) => away(entry, async () => undefined)),
  ]);
}

async function endUnwanted({ entry, identity }: Found, cgroups: Cgroups, log: Log): Promise<void> {
  const cgroup = cgroups.find(entry.worker_id, identity.pid);
  signalGroup(identity, 'SIGTERM');
  const endsAtMs = performance.now() + unwantedGraceMs;
  while (isAlive(identity) && performance.now() < endsAtMs) await delay(lookEveryMs);
  await sweep({ workerId: entry.worker_id, identity }, cgroup, log);
}

async function sweepDead(entry: LedgerEntry, cgroups: Cgroups, log: Log): Promise<void> {
  const { worker_id: workerId, boot_id: bootId, pid, start_time: startTime } = entry;
  const cgroup = cgroups.findLeft(workerId);
  // One that was never spawned has left nothing.
  if (pid > 0 || cgroup !== undefined) await sweep({ workerId, identity: { bootId, pid, startTime } }, cgroup, log);
}

async function sweep(target: TreeTarget, cgroup: WorkerCgroup | undefined, log: Log): Promise<void> {
  const { survivors } = await sweepTree(target, { timeoutMs: sweepTimeoutMs, cgroup });
  if (survivors.length > 0) log.error(`${target.workerId}: processes that would not die: ${survivors.join(', ')}`);
  cgroup?.remove();
}

/** One line, and what should be looked at. */
export function tellAdoption(adoption: Adoption, log: Log, metrics: Pick<Metrics, 'adoption'>): void {
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
