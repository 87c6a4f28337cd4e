import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs';
import { uptime } from 'node:os';
import { isGoneError } from './proc-error.ts';

/** Identifies a process for good: a pid alone may be reused. */
export interface ProcessIdentity {
  readonly bootId: string;
  readonly pid: number;
  /** Start time in clock ticks after boot (field 22 of /proc/PID/stat); empty without /proc. */
  readonly startTime: string;
}

/** USER_HZ, which is 100 on every architecture that Node runs on. */
export const ticksPerSecond = 100;

export const hasProc = existsSync('/proc/self/stat');

/** /proc/PID/stat has 52 numbers and a name of at most 16 bytes (64 for a kernel thread), which always fit. */
const shortFile = Buffer.allocUnsafeSlow(4096);

let bootId: string | undefined;

/** Identifies a process that runs or is a zombie; undefined if it is gone. Throws if /proc cannot be read. */
export function identify(pid: number): ProcessIdentity | undefined {
  if (!hasProc) return exists(pid) ? { bootId: '', pid, startTime: '' } : undefined;
  const stat = readStat(pid);
  return stat === undefined ? undefined : { bootId: currentBootId(), pid, startTime: stat.startTime };
}

/** Identifies this boot of the host; empty without /proc. */
export function hostBootId(): string {
  return hasProc ? currentBootId() : '';
}

function currentBootId(): string {
  bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return bootId;
}

/** A process of an earlier boot no longer exists, and its pid means nothing. */
export function isOfThisBoot(identity: ProcessIdentity): boolean {
  return !hasProc || identity.bootId === currentBootId();
}

/**
 * Whether this exact process is proven to be running (a zombie is not). Also false if /proc cannot be read, for example
 * for lack of descriptors. Send a signal only if `isAlive`; give a process up only if `isGone`.
 */
export function isAlive(identity: ProcessIdentity): boolean {
  return look(identity) === 'alive';
}

/** Whether this exact process is proven to be no longer running. */
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

/** Clock ticks since boot, to compare with start times; undefined without /proc. Never throws. */
export function ticksSinceBoot(): number | undefined {
  if (!hasProc) return undefined;
  try {
    return ticksOfUptime(readFileSync('/proc/uptime', 'latin1'));
  } catch {
    // `uptime` needs no descriptor. It may be up to a second early, so it may prove too little, but never anything wrong.
    return Math.floor(uptime()) * ticksPerSecond;
  }
}

/**
 * Parses /proc/uptime, whose first number is in hundredths of a second, rounded down, and therefore in ticks. Rounded
 * and not truncated: as a floating-point number one value in fifteen is below its decimal form, and a tick too few
 * would reject a process that was born in that tick.
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
  /** Clock ticks of CPU time of the process and its reaped children. */
  readonly cpuTicks: number;
  readonly rssPages: number;
}

/** Undefined if the process is gone. Throws if it cannot be read for another reason. Fields as in proc_pid_stat(5). */
export function readStat(pid: number): ProcessStat | undefined {
  const text = readShortFile(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  // The name may contain spaces and parentheses: the fields start after the last parenthesis.
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
 * Reads a short file of /proc, whose content the kernel makes at the first read; undefined if the process is gone.
 * Takes half the time of readFileSync, which allocates 64 KiB for a file of size 0 and reads a second time to see its
 * end.
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
