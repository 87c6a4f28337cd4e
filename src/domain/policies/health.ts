import type { PoolConfig } from '../config.ts';
import type { Counters } from '../event.ts';
import type { Health, PongReport, Worker } from '../state.ts';
import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/**
 * Decides the health of a worker from four signals, none of which is trusted alone: its process, its pongs, its work,
 * and what the kernel reports. One function decides and also returns its observations, so that `explain` shows the
 * actual reasons.
 */

/** What is known about a worker at one moment. Ages are in milliseconds; infinite: never. */
export interface Observations {
  /** `lost`: its link has closed but it has not exited. `gone`: it has exited. */
  readonly process: 'starting' | 'warming up' | 'attached' | 'lost' | 'exited';
  readonly missedPings: number;
  readonly maxMissed: number;
  readonly oldestPingMs: number;
  readonly lastPongMs: number;
  readonly pingTimeoutMs: number;
  /** The content of the last pong. */
  readonly reported: PongReport;
  readonly inFlight: number;
  readonly lastEvidenceMs: number;
  /** State letter of proc_pid_stat(5) at the last sample; empty if unknown. */
  readonly state: string;
  readonly cpuShare: number;
  readonly cpuAdvancedMs: number;
  readonly sampledMs: number;
  /** How long it must be seen inactive, starting when its oldest ping has waited for a third of the timeout. */
  readonly freshMs: number;
  /** How long it has been busy, and how long it may be. */
  readonly busyMs: number;
  readonly busyLimitMs: number;
  /** The agent's own lag, which was subtracted from the ages of pings. */
  readonly forgivenMs: number;
}

export interface HealthVerdict {
  readonly health: Health | 'exited';
  /** One sentence. */
  readonly because: string;
  readonly observations: Observations;
}

/** A worker with an unanswered ping is sampled ten times per ping timeout, at intervals between 50 ms and 1 s. */
const watchesPerTimeout = 10;
const watchMostMs = 1_000;
const watchLeastMs = 50;
/** Without a sample for this many ping timeouts the worker counts as unmeasurable. */
const unmeasurableTimeouts = 3;

/** Age of an unanswered ping from which on its worker is sampled more often: a third of the ping's timeout. */
function watchFromAgeMs(pingTimeoutMs: number): number {
  return pingTimeoutMs / 3;
}

/** How often a worker with an unanswered ping is sampled. */
export function watchEveryMs(config: Pick<PoolConfig['heartbeat'], 'timeoutMs'>): number {
  return Math.min(watchMostMs, Math.max(watchLeastMs, config.timeoutMs / watchesPerTimeout));
}

/**
 * When the frequent sampling begins. Activity before a hang must be outdated by the time the last ping counts as
 * missed.
 */
export function watchesFromMs(worker: Worker, config: Pick<PoolConfig['heartbeat'], 'timeoutMs'>): number {
  const oldest = worker.heartbeat.unanswered[0];
  return oldest === undefined ? Number.POSITIVE_INFINITY : oldest.sentAtMs + watchFromAgeMs(config.timeoutMs);
}

export function observe(worker: Worker, pool: PoolConfig, counters: Counters, nowMs: number): Observations {
  const { heartbeat, usage } = worker;
  const ago = (atMs: number): number => (atMs === 0 ? Number.POSITIVE_INFINITY : Math.max(0, nowMs - atMs));
  const { timeoutMs, maxMissed, busyLimitMs } = pool.heartbeat;
  return {
    process: processOf(worker),
    missedPings: heartbeat.missed,
    maxMissed,
    oldestPingMs: heartbeat.unanswered.length === 0 ? 0 : nowMs - (heartbeat.unanswered[0]?.sentAtMs ?? nowMs),
    lastPongMs: ago(heartbeat.lastPongAtMs),
    pingTimeoutMs: timeoutMs,
    reported: heartbeat.reported,
    inFlight: counters.inFlight,
    lastEvidenceMs: ago(counters.lastEvidenceAtMs),
    state: usage.state,
    cpuShare: usage.cpu,
    cpuAdvancedMs: ago(usage.cpuAdvancedAtMs),
    sampledMs: ago(usage.sampledAtMs),
    freshMs: Math.max(watchFromAgeMs(timeoutMs), 2 * watchEveryMs(pool.heartbeat)),
    busyMs: busyFor(heartbeat.busySinceMs, busyLimitMs, nowMs),
    busyLimitMs,
    forgivenMs: heartbeat.forgivenMs,
  };
}

function processOf({ phase, attached, hello }: Worker): Observations['process'] {
  if (phase === 'exited') return 'exited';
  if (!attached) return hello === null ? 'starting' : 'lost';
  return phase === 'starting' ? 'warming up' : 'attached';
}

/** Rounding must not keep the limit from being reached at the very time that the loop wakes for it. */
function busyFor(sinceMs: number, limitMs: number, nowMs: number): number {
  if (sinceMs === 0) return 0;
  return nowMs >= sinceMs + limitMs ? Math.max(limitMs, nowMs - sinceMs) : nowMs - sinceMs;
}

export function assess(seen: Observations): HealthVerdict {
  const verdict = (health: HealthVerdict['health'], because: string): HealthVerdict => {
    return { health, because, observations: seen };
  };
  if (seen.process === 'exited') return verdict('exited', 'its process has exited');
  if (seen.process === 'starting') return verdict('unknown', 'it has not attached yet');
  if (seen.process === 'warming up') return verdict('unknown', 'it runs its warm-up');
  if (seen.process === 'lost') return verdict('slow', 'its link has closed, but its process has not exited');
  const { missedPings, maxMissed } = seen;
  const missed = `${missedPings} of ${maxMissed} pings missed`;
  if (missedPings === 0)
    return seen.reported.loopLagMs < seen.pingTimeoutMs ? verdict('well', 'no ping is overdue') : assessLoop(seen);
  if (missedPings < maxMissed) return verdict('slow', missed);
  const activity = activityOf(seen);
  if (activity === '' && !isSeenInactive(seen)) return verdict('slow', `${missed}, and not measured since`);
  if (activity === '') return verdict('hung', `${missed}, and no sign of activity: ${inactivityOf(seen)}`);
  if (seen.busyMs >= seen.busyLimitMs) {
    return verdict('hung', `${missed}, and busy for longer than busy_limit (${seen.busyLimitMs} ms): ${activity}`);
  }
  return verdict('busy', `${missed}, but ${activity}`);
}

/**
 * The pings are answered by another thread than that of the asyncio loop, which is blocked. The worker gets no new
 * requests; those that it has end at their deadlines. A loop that is blocked without any request is stuck for good.
 */
function assessLoop(seen: Observations): HealthVerdict {
  const { reported, inFlight, pingTimeoutMs, maxMissed, busyMs, busyLimitMs } = seen;
  const blocked = `its pings are answered, but its asyncio loop has been blocked for ${whole(reported.loopLagMs)} ms`;
  const activity = activityOf(seen);
  const lastsLong = reported.loopLagMs >= pingTimeoutMs * maxMissed && busyMs >= pingTimeoutMs;
  if (inFlight === 0 && activity === '' && lastsLong)
    return {
      health: 'hung',
      because: `${blocked}, and no sign of activity: ${inactivityOf(seen)}`,
      observations: seen,
    };
  if (busyMs >= busyLimitMs) {
    const because = `${blocked}, and for longer than busy_limit (${busyLimitMs} ms)`;
    return { health: 'hung', because, observations: seen };
  }
  return { health: 'busy', because: blocked, observations: seen };
}

/** Evidence that the worker is doing something, whatever its pongs say; empty if there is none. */
function activityOf(seen: Observations): string {
  if (seen.lastEvidenceMs <= seen.pingTimeoutMs)
    return `its last sign of progress came ${whole(seen.lastEvidenceMs)} ms ago`;
  if (!isMeasurable(seen)) return '';
  // Relative to the last sample. A worker that was never measured has an infinite age.
  if (Number.isFinite(seen.cpuAdvancedMs) && seen.cpuAdvancedMs - seen.sampledMs < seen.freshMs)
    return `its cpu time advances (${Math.round(seen.cpuShare * 100)} % of a core)`;
  // A process that waits for a CPU or for a device cannot answer, but is not hung.
  if (seen.state === 'R') return 'it is running or waiting for a CPU (state R)';
  if (seen.state === 'D') return 'it waits for a device (state D)';
  return '';
}

/**
 * Whether the kernel has shown the worker inactive for long enough since a ping became overdue. Lag of the agent itself
 * must not look like a hang.
 */
function isSeenInactive(seen: Observations): boolean {
  const { sampledMs, oldestPingMs, pingTimeoutMs, freshMs } = seen;
  if (!isMeasurable(seen)) return true;
  return sampledMs <= oldestPingMs - watchFromAgeMs(pingTimeoutMs) - freshMs;
}

/** A worker that cannot be measured is judged by its pings and its work alone. */
function isMeasurable({ sampledMs, pingTimeoutMs }: Observations): boolean {
  return sampledMs <= unmeasurableTimeouts * pingTimeoutMs;
}

function inactivityOf(seen: Observations): string {
  const state = seen.state === '' ? 'state unknown' : `state ${seen.state}`;
  const work = Number.isFinite(seen.lastEvidenceMs)
    ? `last result ${whole(seen.lastEvidenceMs)} ms ago`
    : 'no result yet';
  return `${state}, ${work}, ${seen.inFlight} requests in flight`;
}

function whole(ms: number): number {
  return Math.round(ms);
}

/** When the verdict can change next without a new fact. */
export function nextHealthChangeAtMs(worker: Worker, config: PoolConfig['heartbeat'], nowMs: number): number {
  let atMs = Number.POSITIVE_INFINITY;
  for (const ping of worker.heartbeat.unanswered) {
    const overdueAtMs = ping.sentAtMs + config.timeoutMs;
    if (overdueAtMs > nowMs) {
      atMs = overdueAtMs;
      break;
    }
  }
  const { busySinceMs, missed } = worker.heartbeat;
  if (busySinceMs > 0 && busySinceMs + config.busyLimitMs > nowMs)
    atMs = Math.min(atMs, busySinceMs + config.busyLimitMs);
  // Evidence of being busy becomes outdated.
  if (missed > 0) atMs = Math.min(atMs, nowMs + watchEveryMs(config));
  return atMs;
}

export const hung: Policy = (worker, pool, counters, nowMs) => {
  if (worker.health !== 'hung') return never;
  return { now: 'hung', detail: assess(observe(worker, pool, counters, nowMs)).because };
};
