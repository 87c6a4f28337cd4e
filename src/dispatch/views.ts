import type { ReportedProgress, RequestNote } from '../domain/evidence.ts';
import type { Core } from './core.ts';
import type { DispatchPool } from './pool.ts';
import { queuesOf } from './pool.ts';
import { isGivenUp } from './run.ts';

/** Numbers and lists for people and metrics. They are not O(1), so the path of requests does not use them. */

export interface PoolStats {
  readonly queued: number;
  readonly queuedBytes: number;
  readonly inFlight: number;
  /** How many requests the pool's workers may run at once. */
  readonly capacity: number;
  readonly completed: number;
  readonly failed: number;
}

export function statsOf(pool: DispatchPool | undefined): PoolStats {
  if (pool === undefined) return { queued: 0, queuedBytes: 0, inFlight: 0, capacity: 0, completed: 0, failed: 0 };
  const { load, inFlight, capacity, completed, failed } = pool;
  return { queued: load.requests, queuedBytes: load.bytes, inFlight, capacity, completed, failed };
}

/** Looks at the first request of each queue and worker, because each has its requests in order. */
export function oldestOf(pool: DispatchPool | undefined, nowMs: number): { queuedMs: number; runningMs: number } {
  let queuedAtMs = nowMs;
  let sentAtMs = nowMs;
  for (const queue of pool === undefined ? [] : queuesOf(pool)) {
    queuedAtMs = Math.min(queuedAtMs, queue.first()?.arrivedAtMs ?? nowMs);
  }
  for (const { running } of pool?.workers ?? []) {
    const [first] = running.values();
    if (first !== undefined) sentAtMs = Math.min(sentAtMs, first.sentAtMs);
  }
  return { queuedMs: nowMs - queuedAtMs, runningMs: nowMs - sentAtMs };
}

/** The last proof of progress of any worker that the pool has or had; 0: there was none. */
export function lastEvidenceOf(pool: DispatchPool | undefined): number {
  let atMs = pool?.lastEvidenceAtMs ?? 0;
  for (const { counters } of pool?.workers ?? []) atMs = Math.max(atMs, counters.lastEvidenceAtMs);
  return atMs;
}

/** The worker's requests, oldest first. */
export function requestsOf(core: Core, workerId: string): RequestNote[] {
  return [...(core.workers.get(workerId)?.running.values() ?? [])].map((request) => ({
    command: request.command,
    requestId: request.requestId,
    ageMs: core.options.nowMs() - request.sentAtMs,
    cancelled: isGivenUp(request),
    progress: request.progress,
  }));
}

/** The latest report of the worker's oldest request that reports its progress. */
export function progressOf(core: Core, workerId: string): ReportedProgress | null {
  for (const { progress } of core.workers.get(workerId)?.running.values() ?? []) if (progress !== null) return progress;
  return null;
}
