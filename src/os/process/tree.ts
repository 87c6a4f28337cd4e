import { setTimeout as delay } from 'node:timers/promises';
import type { WorkerCgroup } from '../cgroup/cgroup.ts';
import { hasProc, isAlive, isDead, readStat } from './identity.ts';
import type { ProcessRow, TreeTarget } from './process-table.ts';
import { freshProcessTable, membersOf, readWithPs, suspectsOf } from './process-table.ts';
import { signalGroup, signalProven } from './send-signal.ts';

/** First and longest pause between two looks at the remaining processes. */
const firstLookMs = 2;
const longestLookMs = 100;

export interface Swept {
  /** Pids of the tree that are still alive. */
  readonly survivors: readonly number[];
  /** Pids that may belong to the tree but are not proven to; they were not signalled. */
  readonly suspects: readonly number[];
}

/**
 * Kills a worker's process group, then every process of its tree outside the group, until none is left. Returns what
 * still lives at the end of the timeout; a process that waits on a device cannot die. A failed look (for lack of
 * descriptors, for example) proves nothing, so it is repeated; if the last look fails, this rejects.
 */
export async function sweepTree(
  target: TreeTarget,
  options: { readonly timeoutMs: number; readonly cgroup?: WorkerCgroup | undefined },
): Promise<Swept> {
  const endsAtMs = performance.now() + options.timeoutMs;
  // Without /proc, descendants outside the group are found only through their parents, so they must be killed first.
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
  // One signal to the whole group: no member can escape it by forking. The number belongs to our group as long as one
  // of our processes is in it.
  if (members.some((row) => row.pgrp === group && isSameProcess(row))) signalProven(-group, 'SIGKILL');
  for (const row of members) if (row.pgrp !== group && isSameProcess(row)) signalProven(row.pid, 'SIGKILL');
}

/** Checked right before signalling: the process lives, is the one that was listed, and is still in the same group. */
function isSameProcess(row: ProcessRow): boolean {
  if (!hasProc) return true;
  const stat = readStat(row.pid);
  return stat?.startTime === row.startTime && stat.pgrp === row.pgrp && !isDead(stat.state);
}

/**
 * Kills a process and all its descendants, as `ps` lists them; children first, so that a parent cannot replace them.
 */
export async function killDescendants(pid: number): Promise<void> {
  const table = await readWithPs();
  const tree = new Set([pid]);
  for (const parent of tree) for (const row of table) if (row.ppid === parent) tree.add(row.pid);
  for (const each of [...tree].reverse()) signalProven(each, 'SIGKILL');
}
