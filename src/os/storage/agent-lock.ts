import { linkSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ProcessIdentity } from '../process/identity.ts';
import { identify, isGone, isOfThisBoot } from '../process/identity.ts';
import { isShortage } from '../shortage.ts';
import { readSmallFile } from './read-file.ts';

/** A directory that only this agent uses, until `release`. */
export interface DirectoryLock {
  release(): void;
}

/** Path of the lock file: one line of JSON, a ProcessIdentity. bin/guardian.sh reads it too. */
export function lockPath(directory: string): string {
  return join(directory, 'agent.lock');
}

/**
 * Locks a directory for this process, or throws an error that names the agent that holds it. The lock is a file that
 * names its holder; if the holder is no longer alive, the lock is taken over.
 */
export function lockDirectory(directory: string): DirectoryLock {
  const path = lockPath(directory);
  const own = `${path}.${process.pid}`;
  try {
    writeOwn(own, path, directory);
    while (!tryLink(own, path)) dropStale(path, directory);
  } finally {
    rmSync(own, { force: true });
  }
  // The lock file may have been deleted, and another agent may hold the directory by now.
  return { release: () => lockHolder(directory) === 'us' && rmSync(path, { force: true }) };
}

/** Whom the lock of a directory names. `unknown`: it cannot be read, for example for lack of descriptors. */
export function lockHolder(directory: string): 'us' | 'nobody or another' | 'unknown' {
  try {
    const found = readIfThere(lockPath(directory));
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

/** If the disk is full, removing the stale lock of an earlier agent makes room. */
function writeOwn(own: string, path: string, directory: string): void {
  const write = (): void => {
    // A file of this name is left over from a process that has exited.
    rmSync(own, { force: true });
    writeFileSync(own, JSON.stringify(identify(process.pid)), { mode: 0o600, flag: 'wx' });
  };
  try {
    write();
  } catch (error) {
    if (!isUnwritable(error)) throw error;
    dropStale(path, directory);
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

function dropStale(path: string, directory: string): void {
  const found = readIfThere(path);
  if (found === undefined) return;
  const holder = parse(found);
  if (holder !== undefined && !isGone(holder)) {
    const remedy = 'stop that agent first, or give this one folders of its own with --runtime-dir and --state-dir';
    throw new Error(`${directory}: expected no other agent to use it, got one with pid ${holder.pid}; ${remedy}`);
  }
  // Several agents may find the same stale lock: one of them moves it away. An agent that moved away a new lock instead
  // puts it back.
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
