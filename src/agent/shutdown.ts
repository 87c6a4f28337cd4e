import { setTimeout as delay } from 'node:timers/promises';
import type { Config } from '../config/load.ts';
import type { Dispatch } from '../dispatch/dispatch.ts';
import { lockHolder } from '../os/storage/agent-lock.ts';
import { clearRuntimeDirectory } from '../os/storage/directories.ts';
import type { Log } from '../telemetry/log.ts';
import type { WorkerHandles } from '../workers/handle.ts';
import { lastAnswersMs } from './handover.ts';
import type { Host } from './host.ts';
import type { Loop } from './loop.ts';
import type { Opened } from './opened.ts';
import type { Servers } from './servers.ts';

/** How long the ledger and the history of events may take to finish their writes. A slower disk is not waited for. */
const lastEntriesMs = 5_000;

/** `handed-over`: the workers live on and belong to the next agent. */
export type Ending = 'stopped' | 'handed-over';

export interface ShutdownParts {
  readonly config: Config;
  readonly host: Host;
  readonly loop: Loop;
  readonly dispatch: Pick<Dispatch, 'removePool'>;
  readonly handles: WorkerHandles;
  readonly servers: Servers;
  readonly opened: Opened;
  readonly leaving: AbortController;
  readonly log: Log;
}

/**
 * Closes everything; a failed step does not prevent the next. Never rejects. Returns true if the state directory's disk does not
 * respond.
 */
export async function shutDown(parts: ShutdownParts, ending: Ending): Promise<boolean> {
  const { config, host, loop, dispatch, handles, servers, opened, leaving, log } = parts;
  loop.close();
  leaving.abort();
  opened.runtimeWatch?.close();
  opened.tls.close();
  // After a handover, waiting callers are disconnected without an answer, so that they retry with the next agent.
  if (ending === 'stopped') for (const name of loop.state().pools.keys()) dispatch.removePool(name);
  await Promise.all([servers.api.stop(lastAnswersMs), servers.link.stop(0), opened.http?.close()]);
  attempt(log, host.outputDirectory.close);
  attempt(log, () => {
    // If the directory was removed, another agent may have it by now: then its files are not ours to remove.
    if (lockHolder(config.runtimeDir) !== 'us') return;
    // Removes the sockets, and keeps the files of workers that live on, and of survivors that a failed start has not adopted.
    clearRuntimeDirectory(host.paths, new Set([...handles.keys(), ...host.notAdopted]));
  });
  attempt(log, host.cgroups.close);
  attempt(log, host.guardian.close);
  const writes = Promise.all([host.ledger.settled(), host.history.close()]);
  const isStuck = !(await settlesWithin(writes, lastEntriesMs));
  if (isStuck)
    log.error(
      `the disk of the state directory does not respond: the agent exits without waiting longer than ${lastEntriesMs} ms`,
    );
  // A lock is void once its holder is gone, so on a disk that does not respond it may stay.
  for (const lock of isStuck ? host.locks.slice(0, 1) : host.locks) attempt(log, lock.release);
  return isStuck;
}

function attempt(log: Log, step: () => void): void {
  try {
    step();
  } catch (error) {
    log.warn(`shutdown: ${(error as Error).message}`);
  }
}

/** False if `work` takes longer. */
async function settlesWithin(work: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  const cut = new AbortController();
  const tooLong = delay(timeoutMs, false, { signal: cut.signal }).catch(() => false);
  const settled = await Promise.race([work.then(() => true), tooLong]);
  cut.abort();
  return settled;
}
