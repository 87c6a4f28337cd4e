import type { PoolConfig } from '../config.ts';
import type { Counters } from '../event.ts';
import type { Health, Heartbeat, Worker } from '../state.ts';
import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** Pings of a pool fall on a grid this fine, so that they leave in groups: 200 wake-ups cost more than 10. */
const groupsPerInterval = 10;
/** A cpu sample older than this many heartbeats intervals says nothing about now. */
const freshIntervals = 2;

export function nextPingAtMs(nowMs: number, intervalMs: number): number {
  const gridMs = intervalMs / groupsPerInterval;
  return Math.ceil((nowMs + intervalMs) / gridMs) * gridMs;
}

/** Pings in a row that evidence may stand in for: now and then one is sent all the same, for its round trip is of interest. */
const sparedMax = 4;

/**
 * When the next ping is due, where evidence of work has just said more than the pong to a ping now would; null: it has not.
 * It is due an interval after the evidence, not after now, so that a hang is found as early as it would have been.
 */
export function sparedUntilMs(
  heartbeat: Pick<Heartbeat, 'spared' | 'missed'>,
  evidenceAtMs: number,
  config: Pick<PoolConfig['heartbeat'], 'intervalMs'>,
  nowMs: number,
): number | null {
  if (heartbeat.spared >= sparedMax || heartbeat.missed > 0 || evidenceAtMs === 0) return null;
  const gridMs = config.intervalMs / groupsPerInterval;
  const atMs = Math.floor((evidenceAtMs + config.intervalMs) / gridMs) * gridMs;
  return atMs > nowMs ? atMs : null;
}

/** Beyond this many unanswered pings another one tells nothing new. */
export function mayPing(heartbeat: Heartbeat, config: PoolConfig['heartbeat']): boolean {
  return heartbeat.unanswered.length <= config.maxMissed + Math.ceil(config.timeoutMs / config.intervalMs);
}

export function missedPings(heartbeat: Heartbeat, timeoutMs: number, nowMs: number): number {
  let missed = 0;
  for (const ping of heartbeat.unanswered) {
    if (ping.sentAtMs + timeoutMs > nowMs) break;
    missed += 1;
  }
  return missed;
}

/**
 * How well a worker is. Missed pings alone never mean hung: an extension that holds the GIL answers nothing and may yet
 * be working, which its cpu time or its results show.
 */
export function healthOf(worker: Worker, missed: number, pool: PoolConfig, counters: Counters, nowMs: number): Health {
  const { heartbeat, usage } = worker;
  if (missed === 0) return heartbeat.lastPongAtMs > 0 || worker.readyAtMs > 0 ? 'well' : 'unknown';
  if (missed < pool.heartbeat.maxMissed) return 'slow';
  const freshMs = Math.max(pool.heartbeat.intervalMs * freshIntervals, 3_000);
  const burns = usage.cpuAdvancedAtMs > 0 && nowMs - usage.cpuAdvancedAtMs <= freshMs;
  const brings = counters.lastEvidenceAtMs > 0 && nowMs - counters.lastEvidenceAtMs <= pool.heartbeat.timeoutMs;
  if (!burns && !brings) return 'hung';
  // The very sum that `nextHealthChangeAtMs` wakes at: a difference of the two may round to just below the limit.
  const busyTooLong = heartbeat.busySinceMs > 0 && nowMs >= heartbeat.busySinceMs + pool.heartbeat.busyLimitMs;
  return busyTooLong ? 'hung' : 'busy';
}

/** When `healthOf` can next come to another answer without a new fact. */
export function nextHealthChangeAtMs(worker: Worker, config: PoolConfig['heartbeat'], nowMs: number): number {
  let atMs = Number.POSITIVE_INFINITY;
  for (const ping of worker.heartbeat.unanswered) {
    const overdueAtMs = ping.sentAtMs + config.timeoutMs;
    if (overdueAtMs > nowMs) {
      atMs = overdueAtMs;
      break;
    }
  }
  const { busySinceMs } = worker.heartbeat;
  if (busySinceMs > 0) atMs = Math.min(atMs, busySinceMs + config.busyLimitMs, nowMs + config.intervalMs);
  return atMs;
}

export const hung: Policy = (worker, pool) => {
  if (worker.health !== 'hung') return never;
  return {
    now: 'hung',
    detail: `${worker.heartbeat.missed} pings missed of ${pool.heartbeat.maxMissed}, and nothing moved`,
  };
};
