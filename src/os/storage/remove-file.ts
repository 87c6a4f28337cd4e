import { rmSync } from 'node:fs';

/**
 * Takes a worker's file away, if it can be: something may have replaced its folder, or made it read-only. What stays is found
 * and removed at the next start.
 */
export function removeFile(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // It stays.
  }
}
