import type { ProcessIdentity } from './identity.ts';
import { hasProc, isAlive, readStat } from './identity.ts';

/** Sends a signal if the process is still the identified one. False if it is not, or if that cannot be determined. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals | number): boolean {
  if (!isAlive(identity)) return false;
  return signalProven(identity.pid, signal);
}

/**
 * Sends a signal to the process group that the process leads; to the process alone if it leads none or that cannot be
 * determined.
 */
export function signalGroup(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isAlive(identity)) return false;
  return signalProven(leadsGroup(identity) ? -identity.pid : identity.pid, signal);
}

/**
 * Asks a process group to end. A stopped process (state T) receives no signal but SIGKILL until it continues, so it is
 * also sent SIGCONT.
 */
export function terminateGroup(identity: ProcessIdentity): void {
  signalGroup(identity, 'SIGTERM');
  signalGroup(identity, 'SIGCONT');
}

function leadsGroup({ pid }: ProcessIdentity): boolean {
  return !hasProc || groupOf(pid) === pid;
}

/** Undefined if the process is gone, or if /proc cannot be read, for example for lack of descriptors. */
function groupOf(pid: number): number | undefined {
  try {
    return readStat(pid)?.pgrp;
  } catch {
    return undefined;
  }
}

/**
 * Sends a signal to a pid, or to a process group if negative. The caller must have just proven which process it is.
 * Nothing is sent to 0 (this process's own group), -1 (all processes), 1 or our own pid, which are never workers.
 */
export function signalProven(number: number, signal: NodeJS.Signals | number): boolean {
  if (!isSignallable(number)) return false;
  try {
    return process.kill(number, signal);
  } catch (error) {
    // ESRCH: the process is gone, which is the desired result. EPERM: it changed its user; it will be reported as a
    // survivor.
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
  // If our own group is unknown, no group is signalled.
  return ownGroup !== undefined && id !== ownGroup;
}
