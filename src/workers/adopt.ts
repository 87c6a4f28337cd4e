import type { PoolConfig } from '../domain/config.ts';
import { adoptOutput } from '../os/output/output.ts';
import { watchProcess } from '../os/process/adopted-process.ts';
import { openBegunMark } from '../os/process/begun-mark.ts';
import type { ProcessIdentity } from '../os/process/identity.ts';
import type { LedgerEntry } from '../os/storage/ledger.ts';
import { finishEvidence } from './evidence.ts';
import { guard } from './guard.ts';
import type { WorkerHandle } from './handle.ts';
import { begunPath, newHandle } from './handle.ts';
import { identityFields } from './identity-fields.ts';
import { renewEntry } from './ledger-notes.ts';
import type { WorkerParts } from './parts.ts';
import { logOutput } from './worker-output.ts';

/** A live worker that an earlier agent started. */
export interface Survivor {
  readonly entry: LedgerEntry;
  readonly identity: ProcessIdentity;
  readonly pool: PoolConfig;
}

/** Adopts a survivor and follows its process until it ends. */
export function adoptSurvivor(
  parts: WorkerParts,
  handles: Map<string, WorkerHandle>,
  { entry, identity, pool }: Survivor,
): void {
  const workerId = entry.worker_id;
  const watched = watchProcess(identity);
  const handle = newHandle(parts, {
    entry: { ...entry, ...identityFields(identity), agent_id: parts.agentId },
    pool,
    begun: openBegunMark(begunPath(parts, workerId)),
    cgroup: parts.cgroups.find(workerId, identity.pid),
    adopted: true,
  });
  handle.identity = identity;
  guard(parts, handle);
  const output = adoptOutput(parts.outputDirectory, workerId, logOutput(parts, workerId, pool.name));
  handle.process = {
    endedAtTicks: watched.endedAtTicks,
    lastLines: output.lastLines,
    look: watched.look,
    close: () => {
      watched.close();
      output.remove();
    },
  };
  handles.set(workerId, handle);
  // Entries that already have a pid are still true; writing 200 synced files at a start would add nothing.
  if (entry.pid === 0) void renewEntry(parts, handle);
  void watched.exited.then(async () => {
    handle.account = handle.cgroup?.account() ?? null;
    await output.finish();
    const exit = { code: null, signal: null };
    const place = await finishEvidence(parts, handle, exit);
    parts.enqueue({ type: 'exited', workerId, exit, lastLines: [...output.lastLines()], place });
  });
}
