import { expandEnv } from '../config/env.ts';
import type { PoolConfig } from '../domain/config.ts';
import type { WorkerSpec } from '../domain/state.ts';
import type { WorkerSecret } from '../grpc/worker-link/token.ts';
import { newWorkerSecret } from '../grpc/worker-link/token.ts';
import type { WorkerCgroup } from '../os/cgroup/cgroup.ts';
import type { BegunMark } from '../os/process/begun-mark.ts';
import { createBegunMark } from '../os/process/begun-mark.ts';
import { workerEnvironment } from '../os/process/environment.ts';
import { resourceLimits, whyNotLimited } from '../os/process/resource-limits.ts';
import type { SpawnedWorker } from '../os/process/spawn-worker.ts';
import { spawnWorker } from '../os/process/spawn-worker.ts';
import { sweepTree } from '../os/process/tree.ts';
import { isShortage } from '../os/shortage.ts';
import type { LedgerEntry } from '../os/storage/ledger.ts';
import type { Log } from '../telemetry/log.ts';
import { raiseTasks, reportAttached } from './attach.ts';
import { finishEvidence } from './evidence.ts';
import { guard } from './guard.ts';
import type { WorkerHandle } from './handle.ts';
import { begunPath, newHandle, stacksPath } from './handle.ts';
import { identityFields } from './identity-fields.ts';
import type { WorkerParts } from './parts.ts';
import { messageOf } from './parts.ts';
import { sweepTimeoutMs } from './stop.ts';
import { logOutput } from './worker-output.ts';

/**
 * Starts a worker and follows its process until it ends. The ledger gets an entry before the spawn, so that a full disk
 * prevents the start. It gets the process identity before anything about the worker is reported.
 */
export async function spawn(
  parts: WorkerParts,
  handles: Map<string, WorkerHandle>,
  pool: PoolConfig,
  spec: WorkerSpec,
): Promise<void> {
  const { enqueue, ledger } = parts;
  const workerId = spec.id;
  const secret = newWorkerSecret();
  let begun: BegunMark;
  try {
    begun = createBegunMark(begunPath(parts, workerId));
  } catch (error) {
    return enqueue({ type: 'start-blocked', workerId, message: messageOf(error) });
  }
  const cgroup = parts.cgroups.create(workerId);
  const entry = newEntry(parts, spec, secret);
  const handle = newHandle(parts, { entry, pool, begun, cgroup, adopted: false });
  handles.set(workerId, handle);
  try {
    await ledger.enter(entry);
  } catch (error) {
    return enqueue({ type: 'start-blocked', workerId, message: unwritableLedger(error) });
  }
  raiseTasks(parts, handles);
  let spawned: SpawnedWorker;
  try {
    const inputs = { secret: secret.secret, begunPath: begun.path, cgroup };
    spawned = spawnProcess(parts, workerId, pool, spec.slot, inputs);
  } catch (error) {
    const type = isShortage(error) ? 'start-blocked' : 'spawn-failed';
    return enqueue({ type, workerId, message: messageOf(error) });
  }
  handle.process = { ...spawned, look: () => undefined };
  const started = await spawned.started;
  if (!started.ok) {
    const type = started.isShortage ? 'start-blocked' : 'spawn-failed';
    return enqueue({ type, workerId, message: started.message });
  }
  const { identity } = started;
  handle.identity = identity;
  guard(parts, handle);
  handle.entry = {
    ...handle.entry,
    ...identityFields(identity),
    state: 'starting',
    spawned_at_boot_ms: parts.nowMs(),
  };
  try {
    await ledger.enter(handle.entry);
  } catch (error) {
    // The next agent would not know the worker, so it must not live.
    await sweepTree({ identity, workerId }, { timeoutMs: sweepTimeoutMs, cgroup }).catch(() => undefined);
    return enqueue({ type: 'start-blocked', workerId, message: unwritableLedger(error) });
  }
  enqueue({ type: 'spawned', workerId, pid: identity.pid });
  handle.recorded = true;
  if (handle.hello !== null) reportAttached(parts, handles, handle, handle.hello);
  await reportExit(parts, handle, spawned);
}

/**
 * Reports the exit once the worker's output and evidence are read. Only then does dispatch take away its requests: a result may
 * still have been on its way, and their callers' errors tell how the worker ended.
 */
async function reportExit(parts: WorkerParts, handle: WorkerHandle, spawned: SpawnedWorker): Promise<void> {
  const { workerId, cgroup } = handle;
  const exit = await spawned.exited;
  handle.account = cgroup?.account() ?? null;
  const outOfMemory = exit.signal === 'SIGKILL' && handle.account !== null && handle.account.oomKills > 0;
  const place = await finishEvidence(parts, handle, exit);
  const lastLines = [...spawned.lastLines()];
  parts.enqueue({ type: 'exited', workerId, exit: outOfMemory ? { ...exit, outOfMemory } : exit, lastLines, place });
}

function newEntry({ agentId }: Pick<WorkerParts, 'agentId'>, spec: WorkerSpec, secret: WorkerSecret): LedgerEntry {
  return {
    worker_id: spec.id,
    pool: spec.pool,
    slot: spec.slot,
    generation: spec.generation,
    boot_id: '',
    pid: 0,
    start_time: '',
    agent_id: agentId,
    state: 'spawning',
    started_at_boot_ms: spec.startedAtMs,
    spawned_at_boot_ms: 0,
    ready_at_boot_ms: 0,
    max_age_ms: spec.limits.maxAgeMs,
    max_requests: spec.limits.maxRequests,
    concurrency: spec.concurrency,
    fingerprint: spec.fingerprint,
    launch: spec.launch,
    verifier: secret.verifier,
    repeats_token: false,
  };
}

interface SpawnInputs {
  readonly secret: Buffer;
  readonly begunPath: string;
  readonly cgroup: WorkerCgroup | undefined;
}

function spawnProcess(
  parts: WorkerParts,
  workerId: string,
  pool: PoolConfig,
  slot: number,
  { secret, begunPath, cgroup }: SpawnInputs,
): SpawnedWorker {
  const { log, linkPath, apiSocket, outputDirectory, tasksOfAll } = parts;
  const limitedByCgroup = cgroup?.limit(pool.limits) ?? { pids: false, memory: false };
  warnOfNoLimit(log, pool, whyNotLimited(pool.limits, limitedByCgroup, tasksOfAll(), process.geteuid?.() ?? -1));
  return spawnWorker({
    command: pool.python,
    args: ['-m', 'pitwarden.worker'],
    cwd: pool.cwd,
    cgroup: cgroup?.path ?? null,
    env: workerEnvironment({
      ...expandEnv(pool, slot),
      PITWARDEN_LINK: linkPath,
      ...(apiSocket === '' ? {} : { PITWARDEN_SOCKET: apiSocket }),
      PITWARDEN_BEGUN: begunPath,
      PITWARDEN_STACKS: stacksPath(parts, workerId),
      PITWARDEN_WORKER_ID: workerId,
      PITWARDEN_POOL: pool.name,
      PITWARDEN_SLOT: String(slot),
      PITWARDEN_APP: pool.app,
      PITWARDEN_ORPHAN_TIMEOUT_MS: String(pool.orphanTimeoutMs),
      PITWARDEN_DRAIN_TIMEOUT_MS: String(pool.drain.timeoutMs),
      PITWARDEN_LIMITS: resourceLimits(pool.limits, limitedByCgroup, tasksOfAll()),
    }),
    secret,
    workerId,
    outputDirectory,
    ...logOutput(parts, workerId, pool.name),
  });
}

/** Warns once for each configuration of a pool. */
function warnOfNoLimit(log: Log, pool: PoolConfig, why: string | undefined): void {
  if (why === undefined || unlimited.has(pool)) return;
  unlimited.add(pool);
  log.warn(`pool ${pool.name}: limits.pids (${pool.limits.pids}) is not enforced: ${why}`, { pool: pool.name });
}

const unlimited = new WeakSet<PoolConfig>();

function unwritableLedger(error: unknown): string {
  return `the ledger cannot be written: ${messageOf(error)}`;
}
