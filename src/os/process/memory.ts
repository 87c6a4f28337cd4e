import { readFile } from 'node:fs/promises';
import pidusage from 'pidusage';
import { limitConcurrency } from '../limit-concurrency.ts';
import { hasProc } from './identity.ts';
import { isForbiddenError, isGoneError } from './proc-error.ts';
import type { ProcessRow, TreeTarget } from './process-table.ts';
import { membersOf, sharedProcessTable } from './process-table.ts';

/** Resource usage of a worker's whole process tree. */
export interface TreeSample {
  readonly rssBytes: number;
  /** 0 if not requested, or if the system does not report it. */
  readonly pssBytes: number;
  readonly cpuMs: number;
  readonly processes: number;
  /** State letter of the worker's main process; empty if unknown. */
  readonly state: string;
}

export interface SampleOptions {
  /** Reading PSS costs a millisecond per process: returns whether to read it for a tree with this RSS. */
  readsPss(rssBytes: number): boolean;
  /** Called with the start times by pid of all processes of the tree, so that they are recognised later. */
  remember?(known: ReadonlyMap<number, string>): void;
}

/** Undefined if no process of the tree is left. */
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

/** Node opens files before it reads those already open, and a worker may have thousands of processes. */
const limited = limitConcurrency(4);

export async function sumPss(members: readonly Pick<ProcessRow, 'pid' | 'rssBytes'>[]): Promise<number> {
  return sum(await Promise.all(members.map((row) => limited(() => pssOf(row)))));
}

/** PSS counts each shared page proportionally: `Pss` in smaps_rollup, see proc_pid_smaps(5). */
async function pssOf(row: Pick<ProcessRow, 'pid' | 'rssBytes'>): Promise<number> {
  try {
    const match = /^Pss:\s+(\d+) kB$/m.exec(await readFile(`/proc/${row.pid}/smaps_rollup`, 'latin1'));
    return match === null ? row.rssBytes : Number(match[1]) * 1024;
  } catch (error) {
    if (isGoneError(error)) return 0;
    // The process changed its user, so we may no longer read it: RSS is the closest value.
    if (isForbiddenError(error)) return row.rssBytes;
    throw error;
  }
}

/** Without /proc only RSS is known. */
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
