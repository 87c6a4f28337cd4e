import { readFileSync } from 'node:fs';
import { isGoneError } from '../process/proc-error.ts';

/**
 * A small file of the kernel's; empty where it cannot be read, for whatever reason. For what is told to people and may be
 * missing: where the answer decides whether something still lives, use `readIfThere`.
 */
export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** A small file of the kernel's; undefined: what it speaks of is gone. Throws where that cannot be told. */
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isGoneError(error)) return undefined;
    throw error;
  }
}
