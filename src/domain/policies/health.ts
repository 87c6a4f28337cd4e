import type { PoolConfig } from '../config.ts';
import type { Counters } from '../event.ts';
import type { Health, PongTold, Worker } from '../state.ts';
import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/**
 * How well a worker is, from four signals of which none is trusted alone: its process, its pongs, its work, and what the
 * kernel says of it. One function decides, and gives what it saw, so that `explain` tells the very reasons.
 */

/** What is known of a worker at one moment. Ages are milliseconds ago; infinite: never. */
export interface Observations {
  /** `lost`: its link has closed, and its exit has not come. `gone`: it has exited. */
  readonly process: 'starting' | 'warming up' | 'attached' | 'lost' | 'gone';
  readonly missedPings: number;
  readonly maxMissed: number;
  readonly oldestPingMs: number;
  readonly lastPongMs: number;
  readonly pingTimeoutMs: number;
  /** What the last pong said. */
  readonly told: PongTold;
  readonly inFlight: number;
  readonly lastEvidenceMs: number;
  /** State letter of proc_pid_stat(5) when it was last measured; empty: unknown. */
  readonly state: string;
  readonly cpuShare: number;
  readonly cpuAdvancedMs: number;
  readonly sampledMs: number;
  /** How long it must be seen to stand still, after its oldest ping has waited for a third of the timeout. */
  readonly freshMs: number;
  /** How long it has been busy, and may be. */
  readonly busyMs: number;
  readonly busyLimitMs: number;
  /** What the agent was late by itself, and took off the pings' ages. */
  readonly forgivenMs: number;
}

export interface HealthVerdict {
  readonly health: Health | 'gone';
  /** One sentence. */
  readonly because: string;
  readonly observations: Observations;
}

/** Pings are watched for from a third of their timeout on: the kernel is asked this often then, at most once a second. */
const watchesPerTimeout = 10;
const watchMostMs = 1_000;
const watchLeastMs = 50;
const watchedFrom = 3;
/** No sample for so many timeouts of a ping: there will be none. */
const unmeasurableTimeouts = 3;

/** How often the kernel is asked about a worker that owes a pong. */
export function watchEveryMs(config: Pick<PoolConfig['heartbeat'], 'timeoutMs'>): number {
  return Math.min(watchMostMs, Math.max(watchLeastMs, config.timeoutMs / watchesPerTimeout));
}

/** From when on it is asked that often: what moved before a hang must be stale by the time the last ping is missed. */
export function watchesFromMs(worker: Worker, config: Pick<PoolConfig['heartbeat'], 'timeoutMs'>): number {
  const oldest = worker.heartbeat.unanswered[0];
  return oldest === undefined ? Number.POSITIVE_INFINITY : oldest.sentAtMs + config.timeoutMs / watchedFrom;
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
    told: heartbeat.told,
    inFlight: counters.inFlight,
    lastEvidenceMs: ago(counters.lastEvidenceAtMs),
    state: usage.state,
    cpuShare: usage.cpu,
    cpuAdvancedMs: ago(usage.cpuAdvancedAtMs),
    sampledMs: ago(usage.sampledAtMs),
    freshMs: Math.max(timeoutMs / watchedFrom, 2 * watchEveryMs(pool.heartbeat)),
    busyMs: busyFor(heartbeat.busySinceMs, busyLimitMs, nowMs),
    busyLimitMs,
    forgivenMs: heartbeat.forgivenMs,
  };
}

function processOf({ phase, attached, hello }: Worker): Observations['process'] {
  if (phase === 'exited') return 'gone';
  if (!attached) return hello === null ? 'starting' : 'lost';
  return phase === 'starting' ? 'warming up' : 'attached';
}

/** At the very time that the loop wakes for the limit is reached, whatever the difference of the two rounds to. */
function busyFor(sinceMs: number, limitMs: number, nowMs: number): number {
  if (sinceMs === 0) return 0;
  return nowMs >= sinceMs + limitMs ? Math.max(limitMs, nowMs - sinceMs) : nowMs - sinceMs;
}

export function assess(seen: Observations): HealthVerdict {
  const verdict = (health: HealthVerdict['health'], because: string): HealthVerdict => {
    return { health, because, observations: seen };
  };
  if (seen.process === 'gone') return verdict('gone', 'its process has exited');
  if (seen.process === 'starting') return verdict('unknown', 'it has not attached yet');
  if (seen.process === 'warming up') return verdict('unknown', 'it runs its warm-up');
  if (seen.process === 'lost') return verdict('slow', 'its link has closed, but its process has not exited');
  const { missedPings, maxMissed } = seen;
  const missed = `${missedPings} of ${maxMissed} pings missed`;
  if (missedPings === 0)
    return seen.told.loopLagMs < seen.pingTimeoutMs ? verdict('well', 'no ping is overdue') : assessLoop(seen);
  if (missedPings < maxMissed) return verdict('slow', missed);
  const moves = whatMoves(seen);
  if (moves === '' && !isSeenStill(seen)) return verdict('slow', `${missed}, and not measured since`);
  if (moves === '') return verdict('hung', `${missed}, and nothing moves: ${whatStands(seen)}`);
  if (seen.busyMs >= seen.busyLimitMs) {
    return verdict('hung', `${missed}, and busy for longer than busy_limit (${seen.busyLimitMs} ms): ${moves}`);
  }
  return verdict('busy', `${missed}, but ${moves}`);
}

/**
 * Its pings are answered, by another thread than that of its asyncio loop, which stands still. It gets no new requests.
 * Those that it has are ended by their deadlines; a loop that stands still without any is stuck for good.
 */
function assessLoop(seen: Observations): HealthVerdict {
  const { told, inFlight, pingTimeoutMs, maxMissed, busyMs, busyLimitMs } = seen;
  const stands = `its pings are answered, but its asyncio loop has stood still for ${whole(told.loopLagMs)} ms`;
  const moves = whatMoves(seen);
  const lastsLong = told.loopLagMs >= pingTimeoutMs * maxMissed && busyMs >= pingTimeoutMs;
  if (inFlight === 0 && moves === '' && lastsLong)
    return { health: 'hung', because: `${stands}, and nothing moves: ${whatStands(seen)}`, observations: seen };
  if (busyMs >= busyLimitMs) {
    const because = `${stands}, and for longer than busy_limit (${busyLimitMs} ms)`;
    return { health: 'hung', because, observations: seen };
  }
  return { health: 'busy', because: stands, observations: seen };
}

/** Proof that it is doing something, whatever its pongs say; empty: none. */
function whatMoves(seen: Observations): string {
  if (seen.lastEvidenceMs <= seen.pingTimeoutMs) return `its last result came ${whole(seen.lastEvidenceMs)} ms ago`;
  if (!isMeasurable(seen)) return '';
  // Of the time until it was last measured; what never was is infinitely old.
  if (Number.isFinite(seen.cpuAdvancedMs) && seen.cpuAdvancedMs - seen.sampledMs < seen.freshMs)
    return `its cpu time advances (${Math.round(seen.cpuShare * 100)} % of a core)`;
  // One that wants to run and is not let, and one that waits for a device: neither can answer, and neither is hung.
  if (seen.state === 'R') return 'it is running or waits for its turn to (state R)';
  if (seen.state === 'D') return 'it waits for a device (state D)';
  return '';
}

/** The kernel was asked since it owes a pong, for long enough; an agent that is late itself must not take that for a hang. */
function isSeenStill(seen: Observations): boolean {
  const { sampledMs, oldestPingMs, pingTimeoutMs, freshMs } = seen;
  if (!isMeasurable(seen)) return true;
  return sampledMs <= oldestPingMs - pingTimeoutMs / watchedFrom - freshMs;
}

/** One that is not is judged by its pings and its work alone. */
function isMeasurable({ sampledMs, pingTimeoutMs }: Observations): boolean {
  return sampledMs <= unmeasurableTimeouts * pingTimeoutMs;
}

function whatStands(seen: Observations): string {
  const state = seen.state === '' ? 'state unknown' : `state ${seen.state}`;
  const work = Number.isFinite(seen.lastEvidenceMs)
    ? `last result ${whole(seen.lastEvidenceMs)} ms ago`
    : 'no result yet';
  return `${state}, ${work}, ${seen.inFlight} requests in flight`;
}

function whole(ms: number): number {
  return Math.round(ms);
}

/** When the verdict can next be another one without a new fact. */
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
  // What proves that it is busy grows stale.
  if (missed > 0) atMs = Math.min(atMs, nowMs + watchEveryMs(config));
  return atMs;
}

export const hung: Policy = (worker, pool, counters, nowMs) => {
  if (worker.health !== 'hung') return never;
  return { now: 'hung', detail: assess(observe(worker, pool, counters, nowMs)).because };
};
