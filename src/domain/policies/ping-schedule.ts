import type { PoolConfig } from '../config.ts';
import type { Heartbeat } from '../state.ts';

/**
 * Pings of a pool are aligned to this many times per interval, so that they leave in groups: 200 wake-ups cost more
 * than 10.
 */
const groupsPerInterval = 10;

/**
 * Returns the next time on that grid, at most one interval from now, so that `max_missed` pings find a hang in time.
 * Rounded down: every timer fires up to a millisecond late, so rounding up would delay each ping by another tenth of the
 * interval.
 */
export function nextPingAtMs(nowMs: number, intervalMs: number): number {
  const gridMs = intervalMs / groupsPerInterval;
  return Math.floor((nowMs + intervalMs) / gridMs) * gridMs;
}

/** How many consecutive pings evidence of work may replace. Then one is sent anyway, to measure its round trip. */
const suppressedMax = 4;

/**
 * If recent work proves more than a pong would, the ping is suppressed: returns when the next one is due. Null if it
 * must be sent now. The next ping is due an interval after the evidence, not after now, so that a hang is not found
 * later.
 */
export function suppressedUntilMs(
  heartbeat: Pick<Heartbeat, 'suppressedPings' | 'missed'>,
  evidenceAtMs: number,
  config: Pick<PoolConfig['heartbeat'], 'intervalMs'>,
  nowMs: number,
): number | null {
  if (heartbeat.suppressedPings >= suppressedMax || heartbeat.missed > 0 || evidenceAtMs === 0) return null;
  const gridMs = config.intervalMs / groupsPerInterval;
  const atMs = Math.floor((evidenceAtMs + config.intervalMs) / gridMs) * gridMs;
  return atMs > nowMs ? atMs : null;
}

/** Beyond this many unanswered pings another one adds no information. */
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
