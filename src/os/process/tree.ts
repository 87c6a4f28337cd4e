import { setTimeout as delay } from 'node:timers/promises';
import type { WorkerCgroup } from '../cgroup/cgroup.ts';
import { hasProc, isAlive, isDead, readStat } from './identity.ts';
import type { ProcessRow, TreeTarget } from './process-table.ts';
import { freshProcessTable, membersOf, readWithPs, suspectsOf } from './process-table.ts';
import { signalGroup, signalProven } from './signal.ts';

/** First and longest pause between two looks at what is left. */
const firstLookMs = 2;
const longestLookMs = 100;

export interface Swept {
  /** What of its tree still lives. */
  readonly survivors: readonly number[];
  /** What may be of its tree, cannot be proven to be, and was not signalled. */
  readonly suspects: readonly number[];
}

/**
 * Kills a worker's process group, then whatever of its tree left the group, until nothing of it is seen any more. What
 * still lives at the end (a process that waits on a device cannot die) is returned. A look that fails, for want of descriptors
 * say, shows nothing to be gone: it is repeated, and rejects when the time is over.
 */
export async function sweepTree(
  target: TreeTarget,
  options: { readonly timeoutMs: number; readonly cgroup?: WorkerCgroup | undefined },
): Promise<Swept> {
  const endsAtMs = performance.now() + options.timeoutMs;
  // Descendants that left the group are found by their parents, so where there is no /proc they go first.
  if (!hasProc && isAlive(target.identity)) await killDescendants(target.identity.pid);
  signalGroup(target.identity, 'SIGKILL');
  for (let pauseMs = firstLookMs; ; pauseMs = Math.min(longestLookMs, pauseMs * 2)) {
    if (options.cgroup?.isPopulated()) options.cgroup.kill();
    const isLast = performance.now() >= endsAtMs;
    try {
      const table = await freshProcessTable();
      const members = membersOf(table, target);
      const isEmpty = members.length === 0 && !options.cgroup?.isPopulated();
      if (isEmpty || isLast) {
        const survivors = isEmpty ? [] : survivorsOf(members, options.cgroup);
        return { survivors, suspects: suspectsOf(table, target).map((row) => row.pid) };
      }
      killMembers(members, target.identity.pid);
    } catch (error) {
      if (isLast) throw error;
    }
    await delay(pauseMs);
  }
}

function survivorsOf(members: readonly ProcessRow[], cgroup: WorkerCgroup | undefined): readonly number[] {
  return [...new Set([...members.map((row) => row.pid), ...(cgroup?.processes() ?? [])])];
}

function killMembers(members: readonly ProcessRow[], group: number): void {
  // A group cannot fork its way past one signal to all of it. Its number is its own as long as one of ours is in it.
  if (members.some((row) => row.pgrp === group && isStill(row))) signalProven(-group, 'SIGKILL');
  for (const row of members) if (row.pgrp !== group && isStill(row)) signalProven(row.pid, 'SIGKILL');
}

/** Looked at right before the signal: still this process, and in this group. */
function isStill(row: ProcessRow): boolean {
  if (!hasProc) return true;
  const stat = readStat(row.pid);
  return stat?.startTime === row.startTime && stat.pgrp === row.pgrp && !isDead(stat.state);
}

/** A process and all that descends from it, found by `ps`; children first, before their parents can replace them. */
export async function killDescendants(pid: number): Promise<void> {
  const table = await readWithPs();
  const tree = new Set([pid]);
  for (const parent of tree) for (const row of table) if (row.ppid === parent) tree.add(row.pid);
  for (const each of [...tree].reverse()) signalProven(each, 'SIGKILL');
}
