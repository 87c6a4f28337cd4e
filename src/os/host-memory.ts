import { readFile } from 'node:fs/promises';
import { freemem } from 'node:os';
import { hasProc } from './process/identity.ts';

/** What can be had without swapping: MemAvailable of proc_meminfo(5); where there is none, what is free. */
export async function availableMemory(): Promise<number> {
  if (!hasProc) return freemem();
  const match = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'latin1'));
  return match === null ? freemem() : Number(match[1]) * 1024;
}
