import { setTimeout as delay } from 'node:timers/promises';
import treeKill from 'tree-kill';
import type { WorkerCgroup } from './cgroup.ts';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, isAlive, isDead, readStat } from './identity.ts';
import type { ProcessRow, TreeTarget } from './process-table.ts';
import { membersOf, readProcessTable } from './process-table.ts';

/** First and longest pause between two looks at what is left. */
const firstLookMs = 2;
const longestLookMs = 100;

/** Signals the worker's process group, if its leader still is the process that we started. */
export function signalGroup(identity: ProcessIdentity, signal: NodeJS.Signals): void {
  if (isAlive(identity)) send(-identity.pid, signal);
}

/**
 * Kills a worker's process group, then whatever of its tree left the group, until nothing of it is seen any more. What
 * still lives at the end (a process that waits on a device cannot die) is returned.
 */
export async function sweepTree(
  target: TreeTarget,
  options: { readonly timeoutMs: number; readonly cgroup?: WorkerCgroup | undefined },
): Promise<{ survivors: readonly number[] }> {
  const endsAtMs = performance.now() + options.timeoutMs;
  // Descendants that left the group are found by their parents, so where there is no /proc they go first.
  if (!hasProc && isAlive(target.identity)) await killDescendants(target.identity.pid);
  signalGroup(target.identity, 'SIGKILL');
  for (let pauseMs = firstLookMs; ; pauseMs = Math.min(longestLookMs, pauseMs * 2)) {
    if (options.cgroup?.isPopulated()) options.cgroup.kill();
    const members = membersOf(await readProcessTable(), target);
    if (members.length === 0 && !options.cgroup?.isPopulated()) return { survivors: [] };
    if (performance.now() >= endsAtMs) return { survivors: members.map((row) => row.pid) };
    killMembers(members, target.identity.pid);
    await delay(pauseMs);
  }
}

function killMembers(members: readonly ProcessRow[], group: number): void {
  // A group cannot fork its way past one signal to all of it. Its number is its own as long as one of ours is in it.
  if (members.some((row) => row.pgrp === group && isStill(row))) send(-group, 'SIGKILL');
  for (const row of members) if (row.pgrp !== group && isStill(row)) send(row.pid, 'SIGKILL');
}

/** Looked at right before the signal: still this process, and in this group. */
function isStill(row: ProcessRow): boolean {
  if (!hasProc) return true;
  const stat = readStat(row.pid);
  return stat?.startTime === row.startTime && stat.pgrp === row.pgrp && !isDead(stat.state);
}

/** A process and all that descends from it, found by `ps`. */
export function killDescendants(pid: number): Promise<void> {
  return new Promise((resolve, reject) => {
    treeKill(pid, 'SIGKILL', (error) => (error === undefined ? resolve() : reject(error)));
  });
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    // ESRCH: it is gone, which is what was wanted. EPERM: it changed its user, and will be reported as a survivor.
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'ESRCH' && code !== 'EPERM') throw error;
  }
}
