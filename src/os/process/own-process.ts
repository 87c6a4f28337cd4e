import { readFileSync, readlinkSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { cgroupPathOf } from '../cgroup/cgroup.ts';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, identify } from './identity.ts';
import { isForbiddenError, isGoneError } from './proc-error.ts';
import { freshProcessTable } from './process-table.ts';
import { isOwnUser } from './process-user.ts';

/** Whether a process is a worker of ours, by what the kernel says of it and not by what a file says. */

/**
 * It carries the worker's id: in the environment that it was born with, where it is this user's; in the name of its cgroup; or in
 * that of the file that its output goes to, where this user owns these. Any one will do, since a program may write over its
 * environment (setproctitle does). The id is 40 random bits, which other users may come to know, but cannot put there. Where
 * there is no /proc nothing can be seen, and the identity has to do. Throws where it cannot be told.
 */
export function carriesWorkerId(pid: number, workerId: string): boolean {
  if (!hasProc) return true;
  const environ = read(`/proc/${pid}/environ`).split('\0');
  if (environ.includes(`PITWARDEN_WORKER_ID=${workerId}`) && isOwnUser(pid)) return true;
  const cgroup = cgroupPathOf(pid) ?? '';
  return (basename(cgroup) === workerId && isOwnFile(cgroup)) || isOutput(pid, workerId);
}

/** The process that was spawned as this worker when its agent had no time to note it: of those with its id the eldest. */
export async function findWorker(workerId: string): Promise<ProcessIdentity | undefined> {
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

/** Empty: it is gone, or not ours to read. */
function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch (error) {
    if (isGoneError(error) || isForbiddenError(error)) return '';
    throw error;
  }
}
