import type { ProcessIdentity } from './identity.ts';
import { hasProc, isAlive, readStat } from './identity.ts';

/** Signals the process, if it still is the one that the identity names; false: it is not, or that cannot be told. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals | number): boolean {
  if (!isAlive(identity)) return false;
  return signalProven(identity.pid, signal);
}

/** The same for the process group that it leads; itself alone where it leads none, or where that cannot be told. */
export function signalGroup(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isAlive(identity)) return false;
  return signalProven(leadsGroup(identity) ? -identity.pid : identity.pid, signal);
}

/**
 * Asks a process group to end. What is stopped (state T) gets no signal but SIGKILL until it goes on, so that it would wait for its
 * kill; it is asked to go on too.
 */
export function terminateGroup(identity: ProcessIdentity): void {
  signalGroup(identity, 'SIGTERM');
  signalGroup(identity, 'SIGCONT');
}

function leadsGroup({ pid }: ProcessIdentity): boolean {
  return !hasProc || groupOf(pid) === pid;
}

/** Undefined: it is gone, or /proc cannot be read, for which the last descriptor may have been taken a moment ago. */
function groupOf(pid: number): number | undefined {
  try {
    return readStat(pid)?.pgrp;
  } catch {
    return undefined;
  }
}

/**
 * For who has just proven what has this number; a negative one is that of a group. 0 would be this process's own group, -1 all
 * processes there are, and 1 and our own pid are never a worker's: for them nothing is sent.
 */
export function signalProven(number: number, signal: NodeJS.Signals | number): boolean {
  if (!isSignallable(number)) return false;
  try {
    return process.kill(number, signal);
  } catch (error) {
    // ESRCH: it is gone, which is what was wanted. EPERM: it changed its user, and will be reported as a survivor.
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'ESRCH' && code !== 'EPERM') throw error;
    return false;
  }
}

let ownGroup: number | undefined;

function isSignallable(number: number): boolean {
  const id = Math.abs(number);
  if (!Number.isInteger(id) || id < 2 || id === process.pid) return false;
  if (number > 0 || !hasProc) return true;
  ownGroup ??= groupOf(process.pid);
  // Where our own group cannot be told, no group is signalled.
  return ownGroup !== undefined && id !== ownGroup;
}
