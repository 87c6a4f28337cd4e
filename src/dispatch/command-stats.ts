import { ewma } from './ewma.ts';

/** How long a command's runs take, to tell whether the next request may wait in a worker instead of in the queue. */
export interface CommandStats {
  /** How many workers offer it. */
  workers: number;
  /** What one run is expected to take. */
  expectedMs: number;
  /** 0: it never ran. */
  averageMs: number;
  /** Runs for which it is still taken for slow. */
  slowRuns: number;
}

/** Requests that a worker may have beyond those it runs. */
export const prefetchMax = 128;
/**
 * No more is sent ahead to a worker that has so many payload bytes. What a worker has beyond its concurrency is outside of
 * the queue's bounds; and to send so much takes longer than the wait that it saves.
 */
export const prefetchMaxBytes = 4 * 1024 * 1024;
/** How long what a worker has may be expected to take, so that one more is sent there to wait. */
const prefetchMs = 1;
/** What is not known yet is not taken for short. */
const unknownMs = 1_000;
/** One such run, and for the next `slowRunsAfter` nothing waits behind this command. */
const slowMs = 20;
const slowRunsAfter = 1_000;
/** Weight of the newest run in the average. */
const averageWeight = 0.1;

export function newCommandStats(): CommandStats {
  return { workers: 0, expectedMs: unknownMs, averageMs: 0, slowRuns: 0 };
}

export function noteRun(stats: CommandStats | undefined, ranMs: number): void {
  if (stats === undefined) return;
  stats.averageMs = stats.averageMs === 0 ? ranMs : ewma(stats.averageMs, ranMs, averageWeight);
  if (ranMs >= slowMs) stats.slowRuns = slowRunsAfter;
  else if (stats.slowRuns > 0) stats.slowRuns -= 1;
  stats.expectedMs = stats.slowRuns > 0 ? Math.max(slowMs, stats.averageMs) : stats.averageMs;
}

/** Whether another request of this command may wait in a worker with so much to do. */
export function mayPrefetch(stats: CommandStats, workerExpectedMs: number): boolean {
  return workerExpectedMs + stats.expectedMs <= prefetchMs;
}
