import { join } from 'node:path';
import type { FileLock } from './lock-file.ts';
import { holderOf, LockHeld, takeLock } from './lock-file.ts';

/** Path of the lock file of a directory that only one agent may use. bin/guardian.sh reads the file too. */
export function lockPath(directory: string): string {
  return join(directory, 'agent.lock');
}

/** Locks a directory for this process, or throws an error that names the agent that holds it. */
export function lockDirectory(directory: string): FileLock {
  try {
    return takeLock(lockPath(directory));
  } catch (error) {
    if (!(error instanceof LockHeld)) throw error;
    const remedy = 'stop that agent first, or give this one folders of its own with --runtime-dir and --state-dir';
    throw new Error(`${directory}: expected no other agent to use it, got one with pid ${error.pid}; ${remedy}`);
  }
}

/** Whom the lock of a directory names. `unknown`: it cannot be read, for example for lack of descriptors. */
export function lockHolder(directory: string): ReturnType<typeof holderOf> {
  return holderOf(lockPath(directory));
}
