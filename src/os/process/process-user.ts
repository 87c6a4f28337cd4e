import { readFileSync } from 'node:fs';
import { isGoneError } from './proc-error.ts';

/**
 * Whether a process is this user's in every respect: real, effective, saved and file system uid. One that another user started
 * from a set-user-ID program has another real uid, and an environment of that user's making.
 */
export function isOwnUser(pid: number): boolean {
  const own = process.getuid?.();
  if (own === undefined) return true;
  try {
    const uids = /^Uid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]?.split(/\s+/) ?? [];
    return uids.length > 0 && uids.every((uid) => Number(uid) === own);
  } catch (error) {
    if (isGoneError(error)) return false;
    throw error;
  }
}
