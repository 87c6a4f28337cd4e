import { linkSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import type { ProcessIdentity } from '../process/identity.ts';
import { identify, isGone, isOfThisBoot } from '../process/identity.ts';
import { isShortage } from '../shortage.ts';
import { readSmallFile } from './read-file.ts';

/** A lock that this process holds, until `release`. */
export interface FileLock {
  release(): void;
}

/** Another process that is alive holds the lock, or this one already does. */
export class LockHeld extends Error {
  override readonly name = 'LockHeld';
  readonly pid: number;
  constructor(path: string, pid: number) {
    super(`${path}: expected a lock that nobody holds, got one that process ${pid} holds`);
    this.pid = pid;
  }
}

/**
 * Takes a lock for this process, or throws LockHeld. The lock is a file with one line of JSON, the ProcessIdentity of
 * its holder; if the holder is no longer alive, the lock is taken over.
 */
export function takeLock(path: string): FileLock {
  const own = `${path}.${process.pid}`;
  try {
    writeOwn(own, path);
    while (!tryLink(own, path)) dropStale(path);
  } finally {
    rmSync(own, { force: true });
  }
  // The lock file may have been deleted, and another process may hold the lock by now.
  return { release: () => holderOf(path) === 'us' && rmSync(path, { force: true }) };
}

/** Whom a lock names. `unknown`: it cannot be read, for example for lack of descriptors. */
export function holderOf(path: string): 'us' | 'nobody or another' | 'unknown' {
  try {
    const found = readIfThere(path);
    const holder = found === undefined ? undefined : identityIn(found);
    const isUs = holder?.pid === process.pid && holder.startTime === identify(process.pid)?.startTime;
    return isUs ? 'us' : 'nobody or another';
  } catch (error) {
    return isShortage(error) ? 'unknown' : 'nobody or another';
  }
}

/** The disk is full or read-only. */
export function isUnwritable(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EROFS';
}

/** If the disk is full, removing the stale lock of an earlier process makes room. */
function writeOwn(own: string, path: string): void {
  const write = (): void => {
    // A file of this name is left over from a process that has exited.
    rmSync(own, { force: true });
    writeFileSync(own, JSON.stringify(identify(process.pid)), { mode: 0o600, flag: 'wx' });
  };
  try {
    write();
  } catch (error) {
    if (!isUnwritable(error)) throw error;
    dropStale(path);
    write();
  }
}

/** Creates the lock file together with its content; false if one exists. */
function tryLink(own: string, path: string): boolean {
  try {
    linkSync(own, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function dropStale(path: string): void {
  const found = readIfThere(path);
  if (found === undefined) return;
  const holder = parse(found);
  if (holder !== undefined && !isGone(holder)) throw new LockHeld(path, holder.pid);
  // Several processes may find the same stale lock: one of them moves it away. A process that moved away a new lock
  // instead puts it back.
  const aside = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  if (readLock(aside) !== found) tryLink(aside, path);
  unlinkSync(aside);
}

/** An identity has about 120 bytes. */
const lockMaxBytes = 4096;

function readLock(path: string): string {
  return readSmallFile(path, lockMaxBytes).toString('utf8');
}

function readIfThere(path: string): string | undefined {
  try {
    return readLock(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** A torn or foreign file names no holder, and a holder of an earlier boot is not alive. */
function parse(text: string): ProcessIdentity | undefined {
  const holder = identityIn(text);
  return holder !== undefined && isOfThisBoot(holder) ? holder : undefined;
}

function identityIn(text: string): ProcessIdentity | undefined {
  try {
    const { bootId, pid, startTime } = JSON.parse(text) as Partial<ProcessIdentity>;
    if (typeof bootId !== 'string' || typeof pid !== 'number' || typeof startTime !== 'string') return undefined;
    return { bootId, pid, startTime };
  } catch {
    return undefined;
  }
}
