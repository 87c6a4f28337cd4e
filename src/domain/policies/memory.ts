import type { MemoryLimits } from '../config.ts';
import type { MemoryPoint, Usage } from '../state.ts';
import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** Number of bits in `overSoftBits`, one a sample: the maximum of `recycle.memory.of`. */
const samplesKept = 30;
/** Number of points for the slope: half a minute at a sample per second, or a minute without limits. */
const pointsKept = 32;
/** With fewer points, or over a shorter time, the slope is meaningless. */
const slopeMin = { points: 5, spanMs: 5_000 } as const;

type Measured = Pick<Usage, 'rssBytes' | 'pssBytes' | 'cgroupBytes'>;

/** The source of a tree's memory, best first: the kernel's account of the cgroup, PSS, RSS. */
export type MemorySource = 'cgroup' | 'pss' | 'rss';

export function memorySource(measured: Measured): MemorySource {
  if (measured.cgroupBytes > 0) return 'cgroup';
  return measured.pssBytes > 0 ? 'pss' : 'rss';
}

/** The memory that the tree currently uses; never a peak, since freed memory does not count. */
export function memoryBytes(measured: Measured): number {
  const { cgroupBytes, pssBytes, rssBytes } = measured;
  return { cgroup: cgroupBytes, pss: pssBytes, rss: rssBytes }[memorySource(measured)];
}

/** Memory for the slope. PSS is read rarely, so the growth of RSS since then is added. */
export function heldMemory(measured: Measured & Pick<Usage, 'rssAtPssBytes'>): number {
  if (memorySource(measured) !== 'pss') return memoryBytes(measured);
  return measured.pssBytes + Math.max(0, measured.rssBytes - measured.rssAtPssBytes);
}

/** Adds a new sample of `bytes` to the history. */
export function rememberMemory(
  usage: Usage,
  sample: { readonly bytes: number; readonly heldBytes: number },
  limits: MemoryLimits,
  nowMs: number,
): Pick<Usage, 'overSoftBits' | 'overHard' | 'history' | 'firstBytes'> {
  const { bytes, heldBytes } = sample;
  const over = limits.softBytes > 0 && bytes > limits.softBytes ? 1 : 0;
  return {
    // Shifts the new sample in at the lowest bit, and drops the oldest one.
    overSoftBits: ((usage.overSoftBits << 1) | over) & (2 ** samplesKept - 1),
    overHard: limits.hardBytes > 0 && bytes > limits.hardBytes,
    history: [...usage.history.slice(1 - pointsKept), { atMs: nowMs, bytes: heldBytes }],
    firstBytes: usage.firstBytes === 0 ? heldBytes : usage.firstBytes,
  };
}

/** How many of the last `count` samples were over the soft limit. */
export function samplesOver(overSoftBits: number, count: number): number {
  let over = 0;
  for (let index = 0; index < count; index += 1) over += (overSoftBits >>> index) & 1;
  return over;
}

/** Growth in bytes per second: slope of the least-squares line through the last points; 0 if there are too few. */
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

/** Time until the soft limit (or else the hard limit) is reached at the current slope; infinite: never. */
export function limitInMs(usage: Usage, limits: MemoryLimits): number {
  const limit = limits.softBytes > 0 ? limits.softBytes : limits.hardBytes;
  const slope = slopeOf(usage.history);
  if (limit === 0 || slope <= 0) return Number.POSITIVE_INFINITY;
  return Math.max(0, ((limit - memoryBytes(usage)) / slope) * 1_000);
}

/** A single sample over the soft limit may be a peak. At least `samples` of the last `of` samples over it are growth. */
export const memorySoft: Policy = (worker, pool) => {
  const { softBytes, samples, of } = pool.recycle.memory;
  if (softBytes === 0 || worker.usage.overSoftBits === 0) return never;
  const over = samplesOver(worker.usage.overSoftBits, of);
  if (over < samples) return never;
  const bytes = memoryBytes(worker.usage);
  return { now: 'memory', detail: `${bytes} bytes, soft limit ${softBytes}: over it in ${over} of ${of} samples` };
};

/** A single sample over the hard limit is enough: the host's memory cannot wait for a second one. */
export const memoryHard: Policy = (worker, pool) => {
  if (!worker.usage.overHard) return never;
  return {
    now: 'memory_hard',
    detail: `${memoryBytes(worker.usage)} bytes, hard limit ${pool.recycle.memory.hardBytes}`,
  };
};
