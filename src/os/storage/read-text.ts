import { readFileSync } from 'node:fs';
import { isGoneError } from '../process/proc-error.ts';

/**
 * Reads a small kernel file; empty if it cannot be read for any reason. Only for information that may be missing; to
 * decide whether something is still alive, use `readIfThere`.
 */
export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Reads a small kernel file; undefined if what it describes is gone. Throws if that cannot be determined. */
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isGoneError(error)) return undefined;
    throw error;
  }
}
