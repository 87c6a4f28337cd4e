import type { MemoryLimits } from '../config.ts';
import type { MemoryPoint, Usage } from '../state.ts';
import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** Samples whose bits are kept: as many as `of` may be. */
const samplesKept = 30;
/** Points that the slope is drawn through: with a sample a second half a minute, without limits a minute. */
const pointsKept = 32;
/** A line through less says nothing. */
const slopeMin = { points: 5, spanMs: 5_000 } as const;

type Measured = Pick<Usage, 'rssBytes' | 'pssBytes' | 'cgroupBytes'>;

/** What the tree's memory was taken from, best first: the kernel's account, shares of pages, pages once a process. */
export type MemorySource = 'cgroup' | 'pss' | 'rss';

export function memorySource(measured: Measured): MemorySource {
  if (measured.cgroupBytes > 0) return 'cgroup';
  return measured.pssBytes > 0 ? 'pss' : 'rss';
}

/** What the tree costs the host. Never a peak: what was freed is free. */
export function memoryBytes(measured: Measured): number {
  const { cgroupBytes, pssBytes, rssBytes } = measured;
  return { cgroup: cgroupBytes, pss: pssBytes, rss: rssBytes }[memorySource(measured)];
}

/** The same for points of a line: PSS, which is read seldom, with what RSS has grown by since. */
export function heldMemory(measured: Measured & Pick<Usage, 'rssAtPssBytes'>): number {
  if (memorySource(measured) !== 'pss') return memoryBytes(measured);
  return measured.pssBytes + Math.max(0, measured.rssBytes - measured.rssAtPssBytes);
}

/** What a new sample of `bytes` adds to what is remembered of the ones before. */
export function rememberMemory(
  usage: Usage,
  sample: { readonly bytes: number; readonly heldBytes: number },
  limits: MemoryLimits,
  nowMs: number,
): Pick<Usage, 'overSoft' | 'overHard' | 'history' | 'firstBytes'> {
  const { bytes, heldBytes } = sample;
  const over = limits.softBytes > 0 && bytes > limits.softBytes ? 1 : 0;
  return {
    overSoft: ((usage.overSoft << 1) | over) & (2 ** samplesKept - 1),
    overHard: limits.hardBytes > 0 && bytes > limits.hardBytes,
    history: [...usage.history.slice(1 - pointsKept), { atMs: nowMs, bytes: heldBytes }],
    firstBytes: usage.firstBytes === 0 ? heldBytes : usage.firstBytes,
  };
}

/** Of the last `of` samples, those over the soft limit. */
export function samplesOver(overSoft: number, of: number): number {
  let count = 0;
  for (let index = 0; index < of; index += 1) count += (overSoft >>> index) & 1;
  return count;
}

/** Growth in bytes a second: the least-squares line through the last points; 0 while there are too few. */
export function slopeOf(history: readonly MemoryPoint[]): number {
  const [first, last] = [history[0], history.at(-1)];
  if (first === undefined || last === undefined) return 0;
  if (history.length < slopeMin.points || last.atMs - first.atMs < slopeMin.spanMs) return 0;
  let [times, bytes] = [0, 0];
  for (const point of history) {
    times += point.atMs - first.atMs;
    bytes += point.bytes - first.bytes;
  }
  const [meanMs, meanBytes] = [times / history.length, bytes / history.length];
  let [covariance, variance] = [0, 0];
  for (const point of history) {
    const deltaMs = point.atMs - first.atMs - meanMs;
    covariance += deltaMs * (point.bytes - first.bytes - meanBytes);
    variance += deltaMs * deltaMs;
  }
  return (covariance / variance) * 1_000;
}

/** When at this slope it comes to the soft limit, or the hard one where there is no soft one; infinite: never. */
export function limitInMs(usage: Usage, limits: MemoryLimits): number {
  const limit = limits.softBytes > 0 ? limits.softBytes : limits.hardBytes;
  const slope = slopeOf(usage.history);
  if (limit === 0 || slope <= 0) return Number.POSITIVE_INFINITY;
  return Math.max(0, ((limit - memoryBytes(usage)) / slope) * 1_000);
}

/** One sample over the soft limit may be a peak that is freed again; so many of the last ones are growth. */
export const memorySoft: Policy = (worker, pool) => {
  const { softBytes, samples, of } = pool.recycle.memory;
  if (softBytes === 0 || worker.usage.overSoft === 0) return never;
  const over = samplesOver(worker.usage.overSoft, of);
  if (over < samples) return never;
  const bytes = memoryBytes(worker.usage);
  return { now: 'memory', detail: `${bytes} bytes, soft limit ${softBytes}: over it in ${over} of ${of} samples` };
};

/** Every sample above the hard limit counts: the host's memory does not wait for a second one. */
export const memoryHard: Policy = (worker, pool) => {
  if (!worker.usage.overHard) return never;
  return {
    now: 'memory_hard',
    detail: `${memoryBytes(worker.usage)} bytes, hard limit ${pool.recycle.memory.hardBytes}`,
  };
};
