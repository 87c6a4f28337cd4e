import { ewma } from './ewma.ts';

/** How long a command's runs take. It decides whether the next request may wait in a worker instead of in the queue. */
export interface CommandStats {
  /** How many workers offer the command. */
  workers: number;
  /** How long one run is expected to take. */
  expectedMs: number;
  /** 0: the command never ran. */
  averageMs: number;
  /** For how many more runs the command counts as slow. */
  slowRuns: number;
}

/** How many requests a worker may have beyond those that it runs. */
export const prefetchMax = 128;
/**
 * A worker with this many payload bytes is sent nothing ahead. Requests beyond a worker's concurrency are not bounded by the
 * queue's limits, and sending more would take longer than the wait that it saves.
 */
export const prefetchMaxBytes = 4 * 1024 * 1024;
/** A request is sent ahead only if the worker is expected to be done with all its requests, this one included, within this time. */
const prefetchMs = 1;
/** Expected time of a command that never ran: too long to be sent ahead. */
const unknownMs = 1_000;
/** After one run this long, nothing is sent ahead behind the command for its next `slowRunsAfter` runs. */
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

/** Whether another request of this command may wait in a worker whose requests are expected to take `workerExpectedMs`. */
export function mayPrefetch(stats: CommandStats, workerExpectedMs: number): boolean {
  return workerExpectedMs + stats.expectedMs <= prefetchMs;
}
