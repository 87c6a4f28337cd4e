import { readFileSync } from 'node:fs';
import { isGoneError } from './proc-error.ts';

/**
 * Whether all uids of a process (real, effective, saved and file system) are this user's. If another user started a
 * set-user-ID program of ours, the real uid differs, and that user made its environment.
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
