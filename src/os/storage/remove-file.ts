import type { Stats } from 'node:fs';
import { lstatSync, rmSync } from 'node:fs';

/**
 * Removes a worker's file if possible; its folder may have been replaced or made read-only. The next start removes
 * files that are left.
 */
export function removeFile(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // The next start removes it.
  }
}

/** False if the file is still there, because it has another type or cannot be removed. */
export function removeOurs(path: string, isOurs: (stat: Stats) => boolean): boolean {
  try {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat === undefined) return true;
    if (!isOurs(stat)) return false;
    rmSync(path, { force: true });
    return true;
  } catch {
    return false;
  }
}
