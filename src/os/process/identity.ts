import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs';
import { uptime } from 'node:os';
import { isGoneError } from './proc-error.ts';

/** What a process is for good: a pid alone is given again to others. */
export interface ProcessIdentity {
  readonly bootId: string;
  readonly pid: number;
  /** Clock ticks after boot (field 22 of /proc/PID/stat); empty where there is no /proc. */
  readonly startTime: string;
}

/** USER_HZ, which is 100 on every architecture that Node runs on. */
export const ticksPerSecond = 100;

export const hasProc = existsSync('/proc/self/stat');

/** 52 numbers and a name of at most 16 bytes (64 for a kernel thread) are never so long. */
const shortFile = Buffer.allocUnsafeSlow(4096);

let bootId: string | undefined;

/** Of a process that exists, or waits to be reaped; undefined: it is gone. Throws where /proc does not tell. */
export function identify(pid: number): ProcessIdentity | undefined {
  if (!hasProc) return exists(pid) ? { bootId: '', pid, startTime: '' } : undefined;
  const stat = readStat(pid);
  return stat === undefined ? undefined : { bootId: currentBootId(), pid, startTime: stat.startTime };
}

function currentBootId(): string {
  bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return bootId;
}

/** A process of another boot is no more, and its pid says nothing. */
export function isOfThisBoot(identity: ProcessIdentity): boolean {
  return !hasProc || identity.bootId === currentBootId();
}

/**
 * Whether this very process is proven to run. A zombie does not. False also where /proc cannot be read (no descriptors are
 * left, say): signal on `isAlive`, and give a process up on `isGone`.
 */
export function isAlive(identity: ProcessIdentity): boolean {
  return look(identity) === 'alive';
}

/** Whether this very process is proven to run no more. */
export function isGone(identity: ProcessIdentity): boolean {
  return look(identity) === 'gone';
}

function look(identity: ProcessIdentity): 'alive' | 'gone' | 'unknown' {
  if (!hasProc) return exists(identity.pid) ? 'alive' : 'gone';
  try {
    if (!isOfThisBoot(identity)) return 'gone';
    const stat = readStat(identity.pid);
    if (stat === undefined || stat.startTime !== identity.startTime || isDead(stat.state)) return 'gone';
    return 'alive';
  } catch {
    return 'unknown';
  }
}

/** Clock ticks since boot, to compare with start times; undefined where there is no /proc. Never throws. */
export function ticksSinceBoot(): number | undefined {
  if (!hasProc) return undefined;
  try {
    return ticksOfUptime(readFileSync('/proc/uptime', 'latin1'));
  } catch {
    // Needs no descriptor, and may be up to a second early: then less is proven by it, never too much.
    return Math.floor(uptime()) * ticksPerSecond;
  }
}

/**
 * Of the text of /proc/uptime, whose first number is in hundredths of a second, rounded down: ticks, as it happens. Rounded here
 * and not cut, since as a fraction one number in fifteen is less than its digits say, and a tick less would deny a process that
 * was born in it.
 */
export function ticksOfUptime(text: string): number {
  return Math.round(Number.parseFloat(text) * ticksPerSecond);
}

export function isDead(state: string): boolean {
  return state === 'Z' || state === 'X' || state === 'x';
}

export interface ProcessStat {
  readonly pid: number;
  readonly state: string;
  readonly ppid: number;
  readonly pgrp: number;
  readonly session: number;
  readonly startTime: string;
  /** Its own and its reaped children's, in clock ticks. */
  readonly cpuTicks: number;
  readonly rssPages: number;
}

/** Undefined: it is gone. Throws where it cannot be read for another reason. Fields as in proc_pid_stat(5). */
export function readStat(pid: number): ProcessStat | undefined {
  const text = readShortFile(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  // The name may hold spaces and parentheses: the fields start after the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  if (fields.length < 22)
    throw new Error(`/proc/${pid}/stat: expected at least 24 fields, got "${text.slice(0, 200)}"`);
  const field = (number: number): number => Number(fields[number - 3]);
  return {
    pid,
    state: fields[0] ?? 'X',
    ppid: field(4),
    pgrp: field(5),
    session: field(6),
    startTime: fields[19] ?? '',
    cpuTicks: field(14) + field(15) + field(16) + field(17),
    rssPages: field(24),
  };
}

/**
 * A file of /proc that is short and made at its first read; undefined: its process is gone. Half of what readFileSync takes, which
 * gets 64 KiB for a file of no size and reads again to see its end.
 */
function readShortFile(path: string): string | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    return shortFile.toString('latin1', 0, readSync(fd, shortFile));
  } catch (error) {
    if (isGoneError(error)) return undefined;
    throw error;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function exists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
