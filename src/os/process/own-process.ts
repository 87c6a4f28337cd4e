import { readFileSync, readlinkSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { cgroupPathOf } from '../cgroup/cgroup.ts';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, identify } from './identity.ts';
import { isForbiddenError, isGoneError } from './proc-error.ts';
import { freshProcessTable } from './process-table.ts';
import { isOwnUser } from './process-user.ts';

/** Decides whether a process is one of our workers by what the kernel says about it, not by what a file says. */

/**
 * Whether a process carries the worker's id in one of three places: in the environment that it was started with, if it
 * runs as this user; in the name of its cgroup; or in the name of its stdout file, if this user owns that. One is
 * enough, because a program may overwrite its environment (setproctitle does). The id has 40 random bits; other users
 * may learn it but cannot put it in any of these places. Without /proc this is always true, and the identity has to
 * suffice. Throws if it cannot be determined.
 */
export function carriesWorkerId(pid: number, workerId: string): boolean {
  if (!hasProc) return true;
  const environ = read(`/proc/${pid}/environ`).split('\0');
  if (environ.includes(`PITWARDEN_WORKER_ID=${workerId}`) && isOwnUser(pid)) return true;
  const cgroup = cgroupPathOf(pid) ?? '';
  return (basename(cgroup) === workerId && isOwnFile(cgroup)) || isOutput(pid, workerId);
}

/**
 * Finds the process that was spawned as this worker when its agent had no time to record the pid: the oldest with the
 * worker's id.
 */
export async function findSpawnedWorker(workerId: string): Promise<ProcessIdentity | undefined> {
  const table = await freshProcessTable();
  const rows = table.filter((row) => row.isOwn && row.workerId === workerId && row.session === row.pid);
  const [eldest] = rows.sort((a, b) => Number(a.startTime) - Number(b.startTime));
  if (eldest === undefined) return undefined;
  const identity = identify(eldest.pid);
  return identity?.startTime === eldest.startTime ? identity : undefined;
}

function isOutput(pid: number, workerId: string): boolean {
  const path = `/proc/${pid}/fd/1`;
  try {
    return basename(readlinkSync(path)).startsWith(`${workerId}.`) && isOwnFile(path);
  } catch (error) {
    if (isGoneError(error) || isForbiddenError(error)) return false;
    throw error;
  }
}

function isOwnFile(path: string): boolean {
  const uid = statSync(path, { throwIfNoEntry: false })?.uid;
  return uid !== undefined && uid === process.getuid?.();
}

/** Empty if the process is gone or we may not read it. */
function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch (error) {
    if (isGoneError(error) || isForbiddenError(error)) return '';
    throw error;
  }
}
