import type { Config } from '../config/load.ts';
import type { Cgroups } from '../os/cgroup/cgroup.ts';
import { openCgroups } from '../os/cgroup/cgroup.ts';
import { systemClock } from '../os/clock.ts';
import type { OutputDirectory } from '../os/output/output-directory.ts';
import { openOutputDirectory } from '../os/output/output-directory.ts';
import type { Guardian } from '../os/process/guardian.ts';
import { startGuardian } from '../os/process/guardian.ts';
import { lockDirectory } from '../os/storage/agent-lock.ts';
import type { RuntimeDirectory } from '../os/storage/directories.ts';
import { clearRuntimeDirectory, prepareRuntimeDirectory, prepareStateDirectory } from '../os/storage/directories.ts';
import type { IntentFile, IntentSnapshot } from '../os/storage/intent-file.ts';
import { openIntentFile } from '../os/storage/intent-file.ts';
import type { Ledger, LedgerSnapshot } from '../os/storage/ledger.ts';
import { openLedger } from '../os/storage/ledger.ts';
import type { FileLock } from '../os/storage/lock-file.ts';
import { isUnwritable } from '../os/storage/lock-file.ts';
import type { PassedSocket } from '../os/systemd.ts';
import type { EventHistory } from '../telemetry/event-history.ts';
import { openEventHistory } from '../telemetry/event-history.ts';
import type { Log } from '../telemetry/log.ts';
import type { Adoption } from '../workers/restore.ts';
import { classifySurvivors } from '../workers/restore.ts';

/** The resources of its host that the agent acquires before it can be called. */
export interface Host {
  readonly paths: RuntimeDirectory;
  /** The lock of the runtime directory comes first. */
  readonly locks: readonly FileLock[];
  readonly ledger: Ledger;
  /** What happened on this node, over restarts of the agent. */
  readonly history: EventHistory;
  readonly intentFile: IntentFile;
  readonly intentSnapshot: IntentSnapshot;
  /** The content of the ledger at the start. */
  readonly ledgerSnapshot: LedgerSnapshot;
  readonly adoption: Adoption;
  /** Survivors whose files the runtime directory must keep. A worker leaves the set when it is adopted. */
  readonly notAdopted: Set<string>;
  readonly cgroups: Cgroups;
  readonly guardian: Guardian;
  readonly outputDirectory: OutputDirectory;
}

/** How many foreign files a warning lists. */
const foreignNamed = 10;
const ignoredGroup =
  "socket_group has no effect: the API's socket belongs to the service manager; set SocketGroup= and SocketMode= in its unit";

/** Prepares and locks the directories, reads the ledger, and finds out which workers of an earlier agent are alive. */
export async function openHost(config: Config, passedSocket: PassedSocket | null, log: Log): Promise<Host> {
  const { socketGroup: group, controlGroup } = config;
  const paths = prepareRuntimeDirectory(config.runtimeDir, { passedSocket, group, controlGroup, warn: log.warn });
  if (passedSocket !== null && group !== null) log.warn(ignoredGroup);
  prepareStateDirectory(config.stateDir);
  const locks = lockAll(config, log);
  const ledger = openLedger(config.stateDir);
  const history = openEventHistory(config.stateDir, { toUnixMs: systemClock.toUnixMs, onProblem: log.warn });
  const ledgerSnapshot = ledger.read();
  const intentFile = openIntentFile(config.stateDir);
  const intentSnapshot = intentFile.read();
  const adoption = await classifySurvivors(ledgerSnapshot, config.node);
  const notAdopted = new Set(adoption.survivors.map(({ entry }) => entry.worker_id));
  const foreign = clearRuntimeDirectory(paths, notAdopted);
  warnOfForeign([...foreign, ...ledgerSnapshot.foreign], log);
  const cgroups = openCgroups();
  log.info(cgroups.report);
  const guardian = startGuardian({ directory: config.runtimeDir, log });
  const outputDirectory = openOutputDirectory(paths.output, { onProblem: log.warn });
  return {
    paths,
    locks,
    ledger,
    history,
    ledgerSnapshot,
    adoption,
    notAdopted,
    cgroups,
    guardian,
    outputDirectory,
    intentFile,
    intentSnapshot,
  };
}

/**
 * Always locks the runtime directory. A state directory that is read-only or full may remain unlocked: it is more
 * important that an agent reaches its workers.
 */
function lockAll({ runtimeDir, stateDir }: Config, log: Log): FileLock[] {
  const locks = [lockDirectory(runtimeDir)];
  if (stateDir === runtimeDir) return locks;
  try {
    locks.push(lockDirectory(stateDir));
  } catch (error) {
    if (!isUnwritable(error)) {
      for (const lock of locks) lock.release();
      throw error;
    }
    log.warn(`${stateDir} could not be locked, so a second agent could use it too: ${(error as Error).message}`);
  }
  return locks;
}

/** Warns of files in the agent's folders that are not the agent's. */
function warnOfForeign(paths: readonly string[], log: Log): void {
  if (paths.length === 0) return;
  const more = paths.length > foreignNamed ? ` and ${paths.length - foreignNamed} more` : '';
  log.warn(`unknown files are left alone: ${paths.slice(0, foreignNamed).join(', ')}${more}`);
}
