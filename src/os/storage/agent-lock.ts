import { linkSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ProcessIdentity } from '../process/identity.ts';
import { identify, isGone, isOfThisBoot } from '../process/identity.ts';
import { isShortage } from '../shortage.ts';
import { readSmallFile } from './read-file.ts';

/** A directory that this agent alone uses, until `release`. */
export interface DirectoryLock {
  release(): void;
}

/** One line of JSON, a ProcessIdentity; bin/guardian.sh reads it too. */
export function lockPath(directory: string): string {
  return join(directory, 'agent.lock');
}

/**
 * Takes a directory for this process, or throws and says which agent holds it. The lock is a file that names its
 * holder: one whose holder is no longer alive is taken over.
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
  // Something may have taken it away, and another agent may have the directory by now.
  return { release: () => lockHolder(directory) === 'us' && rmSync(path, { force: true }) };
}

/** Whom the lock of a directory names. Unknown: the host has no descriptor to read it with, say. */
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

/** On a disk that is full there is room where the lock of an agent that is no more was. */
function writeOwn(own: string, path: string, directory: string): void {
  const write = (): void => {
    // Whatever had this name is of a process that is no more.
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

/** Creates the lock with its content in one step; false: there is one. */
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
    const remedy = 'end that one first, or give this one folders of its own with --runtime-dir and --state-dir';
    throw new Error(`${directory}: expected no other agent to use it, got one with pid ${holder.pid}; ${remedy}`);
  }
  // Of several agents that find it stale one moves it away; who moved away a new one puts it back.
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

/** An identity has some 120 bytes. */
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

/** A torn or foreign file names no holder, and one of another boot none that lives. */
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
