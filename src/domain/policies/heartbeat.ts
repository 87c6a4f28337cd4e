import type { PoolConfig } from '../config.ts';
import type { Heartbeat } from '../state.ts';

/** Pings of a pool fall on a grid this fine, so that they leave in groups: 200 wake-ups cost more than 10. */
const groupsPerInterval = 10;

/**
 * At most an interval from now, for a hang is found by max_missed of them. Rounded up, a timer that fires a millisecond
 * late, as all do, would put each ping off by another tenth of the interval.
 */
export function nextPingAtMs(nowMs: number, intervalMs: number): number {
  const gridMs = intervalMs / groupsPerInterval;
  return Math.floor((nowMs + intervalMs) / gridMs) * gridMs;
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
