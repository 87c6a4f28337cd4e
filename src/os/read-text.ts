import { readFileSync } from 'node:fs';

/** A small file of the kernel's; empty where it cannot be read: gone by now, not there at all, or not ours. */
export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
