import type { Usage } from '../state.ts';
import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** One sample over the soft limit may be a peak that is freed again; so many in a row are growth. */
export const samplesOverSoftLimit = 2;

/** What the tree costs the host: PSS where it is known, else RSS (which counts shared pages once a process). */
export function memoryBytes(usage: Pick<Usage, 'rssBytes' | 'pssBytes'>): number {
  return usage.pssBytes > 0 ? usage.pssBytes : usage.rssBytes;
}

export const memorySoft: Policy = (worker, pool) => {
  if (pool.recycle.memory.softBytes === 0 || worker.usage.samplesOverSoft < samplesOverSoftLimit) return never;
  return { now: 'memory', detail: `${memoryBytes(worker.usage)} bytes, soft limit ${pool.recycle.memory.softBytes}` };
};

/** Every sample above the hard limit counts: the host's memory does not wait for a second one. */
export const memoryHard: Policy = (worker, pool) => {
  if (!worker.usage.overHard) return never;
  return {
    now: 'memory_hard',
    detail: `${memoryBytes(worker.usage)} bytes, hard limit ${pool.recycle.memory.hardBytes}`,
  };
};
