import { rmSync } from 'node:fs';

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
