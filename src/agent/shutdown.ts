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

/** How long the ledger may take to write what it still has. A disk that takes longer is not waited for. */
const lastEntriesMs = 5_000;

/** `handed-over`: the workers live on, and the next agent has them. */
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

/** Closes everything, each step whatever became of the one before. Never rejects. True: the ledger's disk does not answer. */
export async function shutDown(parts: ShutdownParts, ending: Ending): Promise<boolean> {
  const { config, host, loop, dispatch, handles, servers, opened, leaving, log } = parts;
  loop.close();
  leaving.abort();
  opened.runtime?.close();
  // After a handover, callers that still wait are cut off without an answer, and so ask the next agent.
  if (ending === 'stopped') for (const name of loop.state().pools.keys()) dispatch.removePool(name);
  await Promise.all([servers.api.stop(lastAnswersMs), servers.link.stop(0), opened.http?.close()]);
  attempt(log, host.outputDirectory.close);
  attempt(log, () => {
    // Something took the directory away, and another agent has it by now: its files are not ours to remove.
    if (lockHolder(config.runtimeDir) !== 'us') return;
    // Files stay of workers that live on, and of survivors that a failed start has not adopted.
    clearRuntimeDirectory(host.paths, new Set([...handles.keys(), ...host.notAdopted]));
  });
  attempt(log, host.cgroups.close);
  attempt(log, host.guardian.close);
  const isStuck = !(await settlesWithin(host.ledger.settled(), lastEntriesMs));
  if (isStuck) log.error(`the ledger's disk does not answer: the agent ends without it after ${lastEntriesMs} ms`);
  // A lock names its holder and counts for nothing when that is gone: on a disk that does not answer it may stay.
  for (const lock of isStuck ? host.locks.slice(0, 1) : host.locks) attempt(log, lock.release);
  return isStuck;
}

function attempt(log: Log, step: () => void): void {
  try {
    step();
  } catch (error) {
    log.warn(`at the end: ${(error as Error).message}`);
  }
}

/** False: it takes longer. */
async function settlesWithin(work: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  const cut = new AbortController();
  const tooLong = delay(timeoutMs, false, { signal: cut.signal }).catch(() => false);
  const settled = await Promise.race([work.then(() => true), tooLong]);
  cut.abort();
  return settled;
}
