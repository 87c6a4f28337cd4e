import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs';
import { isGoneError } from './proc-error.ts';

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

/**
 * The first bytes of a file that somebody else writes, so that it may be of any length, or no file at all; empty where it
 * cannot be read.
 */
export function readStart(path: string, maxBytes: number): string {
  let fd = -1;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const bytes = Buffer.alloc(maxBytes);
    return bytes.toString('utf8', 0, readSync(fd, bytes, 0, maxBytes, 0));
  } catch {
    return '';
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}
