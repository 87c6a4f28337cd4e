import { readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, identify } from './identity.ts';
import { readProcessTable } from './process-table.ts';

/** Whether a process is a worker of ours, by what the kernel says of it and not by what a file says. */

/**
 * It carries the worker's id: in the environment that it was born with, in the name of its cgroup, or in that of the file
 * that its output goes to. Any one will do, since a program may write over its environment (setproctitle does). The id is
 * 40 random bits. Where there is no /proc nothing can be seen, and the identity has to do.
 */
export function carriesWorkerId(pid: number, workerId: string): boolean {
  if (!hasProc) return true;
  const environ = read(`/proc/${pid}/environ`).split('\0');
  if (environ.includes(`PITWARDEN_WORKER_ID=${workerId}`)) return true;
  const cgroup = /^0::(.*)$/m.exec(read(`/proc/${pid}/cgroup`))?.[1] ?? '';
  return basename(cgroup) === workerId || isOutput(pid, workerId);
}

/** The process that was spawned as this worker when its agent had no time to note it: of those with its id the eldest. */
export async function findWorker(workerId: string): Promise<ProcessIdentity | undefined> {
  const rows = (await readProcessTable()).filter((row) => row.workerId === workerId && row.session === row.pid);
  const [eldest] = rows.sort((a, b) => Number(a.startTime) - Number(b.startTime));
  if (eldest === undefined) return undefined;
  const identity = identify(eldest.pid);
  return identity?.startTime === eldest.startTime ? identity : undefined;
}

function isOutput(pid: number, workerId: string): boolean {
  try {
    return basename(readlinkSync(`/proc/${pid}/fd/1`)).startsWith(`${workerId}.`);
  } catch {
    return false;
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
