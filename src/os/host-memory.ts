import { readFile } from 'node:fs/promises';
import { freemem } from 'node:os';
import { hasProc } from './process/identity.ts';

/** The memory available without swapping: MemAvailable of proc_meminfo(5), otherwise the free memory. */
export async function availableMemory(): Promise<number> {
  if (!hasProc) return freemem();
  const match = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'latin1'));
  return match === null ? freemem() : Number(match[1]) * 1024;
}
