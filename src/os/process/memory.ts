import { readFile } from 'node:fs/promises';
import pidusage from 'pidusage';
import { limitAtOnce } from '../limit-at-once.ts';
import { hasProc } from './identity.ts';
import { isForbiddenError, isGoneError } from './proc-error.ts';
import type { ProcessRow, TreeTarget } from './process-table.ts';
import { membersOf, sharedProcessTable } from './process-table.ts';

/** What a worker's whole process tree uses. */
export interface TreeSample {
  readonly rssBytes: number;
  /** 0: not asked for, or the system does not tell. */
  readonly pssBytes: number;
  readonly cpuMs: number;
  readonly processes: number;
  /** State letter of the worker's main process; empty: unknown. */
  readonly state: string;
}

export interface SampleOptions {
  /** PSS costs a millisecond a process: whether to read it when the tree has this RSS. */
  readsPss(rssBytes: number): boolean;
  /** Is told of all that is in the tree, to be known by later. */
  remember?(known: ReadonlyMap<number, string>): void;
}

/** Undefined: nothing of it is left. */
export async function sampleTree(target: TreeTarget, options: SampleOptions): Promise<TreeSample | undefined> {
  const members = membersOf(await sharedProcessTable(), target);
  if (members.length === 0) return undefined;
  options.remember?.(new Map(members.map((row) => [row.pid, row.startTime])));
  if (!hasProc) return sampleWithPidusage(members);
  const rssBytes = sum(members.map((row) => row.rssBytes));
  return {
    rssBytes,
    pssBytes: options.readsPss(rssBytes) ? await sumPss(members) : 0,
    cpuMs: sum(members.map((row) => row.cpuMs)),
    processes: members.length,
    state: members.find((row) => row.pid === target.identity.pid)?.state ?? '',
  };
}

/** Node opens files before it reads those that it has open, and a worker may have thousands of processes. */
const limited = limitAtOnce(4);

export async function sumPss(members: readonly Pick<ProcessRow, 'pid' | 'rssBytes'>[]): Promise<number> {
  return sum(await Promise.all(members.map((row) => limited(() => pssOf(row)))));
}

/** Shared pages count by their share: Pss of smaps_rollup, see proc_pid_smaps(5). */
async function pssOf(row: Pick<ProcessRow, 'pid' | 'rssBytes'>): Promise<number> {
  try {
    const match = /^Pss:\s+(\d+) kB$/m.exec(await readFile(`/proc/${row.pid}/smaps_rollup`, 'latin1'));
    return match === null ? row.rssBytes : Number(match[1]) * 1024;
  } catch (error) {
    if (isGoneError(error)) return 0;
    // It changed its user and is no longer ours to read: RSS is the nearest there is.
    if (isForbiddenError(error)) return row.rssBytes;
    throw error;
  }
}

/** Where there is no /proc: RSS alone. */
export async function sampleWithPidusage(members: readonly ProcessRow[]): Promise<TreeSample> {
  const usages = Object.values(await pidusage(members.map((row) => row.pid)));
  return {
    rssBytes: sum(usages.map((usage) => usage?.memory ?? 0)),
    pssBytes: 0,
    cpuMs: sum(usages.map((usage) => usage?.ctime ?? 0)),
    processes: members.length,
    state: '',
  };
}

function sum(values: readonly number[]): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
