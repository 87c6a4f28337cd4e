import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PoolConfig } from '../../src/domain/config.ts';
import type { Counters } from '../../src/domain/event.ts';
import type { Observations } from '../../src/domain/policies/health.ts';
import { assess, hung, observe } from '../../src/domain/policies/health.ts';
import { idle } from '../../src/domain/policies/idle.ts';
import { drawLimits } from '../../src/domain/policies/limits.ts';
import { linkLost } from '../../src/domain/policies/link-lost.ts';
import { maxAge } from '../../src/domain/policies/max-age.ts';
import { maxRequests } from '../../src/domain/policies/max-requests.ts';
import {
  limitInMs,
  memoryBytes,
  memoryHard,
  memorySoft,
  rememberMemory,
  slopeOf,
} from '../../src/domain/policies/memory.ts';
import { outdated } from '../../src/domain/policies/outdated.ts';
import { mayPing, missedPings, nextPingAtMs, suppressedUntilMs } from '../../src/domain/policies/ping-schedule.ts';
import type { Policy } from '../../src/domain/policies/policy.ts';
import { never, noCounters } from '../../src/domain/policies/policy.ts';
import { nextRestart } from '../../src/domain/policies/restart.ts';
import type { Failures, Usage, Worker } from '../../src/domain/state.ts';
import { noFailures } from '../../src/domain/state.ts';
import { healthy, nodeConfig, poolConfig, Simulation } from './simulation.ts';

const mib = 2 ** 20;
const base = poolConfig();
/** A worker that has been ready since 1,000 ms. */
const worker: Worker = (() => {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: nodeConfig({ ...base, size: 1 }) });
  simulation.run(3_000, () => simulation.ready().length === 1);
  const [ready] = simulation.ready();
  if (ready === undefined) throw new Error('expected a ready worker');
  return { ...ready, readyAtMs: 1_000 };
})();
const usage = (patch: Partial<Usage>): Partial<Worker> => ({ usage: { ...worker.usage, ...patch } });
const limited = (softBytes: number, hardBytes: number): PoolConfig => ({
  ...base,
  recycle: { ...base.recycle, memory: { softBytes, hardBytes, samples: 2, of: 3 } },
});

interface Case {
  readonly what: string;
  readonly policy: Policy;
  readonly worker?: Partial<Worker>;
  readonly pool?: PoolConfig;
  readonly counters?: Partial<Counters>;
  readonly nowMs?: number;
  readonly says: 'never' | { readonly now: string } | { readonly atMs: number };
}

const idling = { ...base, recycle: { ...base.recycle, maxIdleMs: 500 } };

const cases: Case[] = [
  { what: 'no limit', policy: idle, counters: { lastEvidenceAtMs: 1 }, nowMs: 9_999, says: 'never' },
  { what: 'never served', policy: idle, pool: idling, nowMs: 9_999, says: 'never' },
  {
    what: 'serving',
    policy: idle,
    pool: idling,
    counters: { lastEvidenceAtMs: 1, inFlight: 1 },
    nowMs: 9_999,
    says: 'never',
  },
  { what: 'served recently', policy: idle, pool: idling, counters: { lastEvidenceAtMs: 900 }, says: { atMs: 1_400 } },
  {
    what: 'idle for too long',
    policy: idle,
    pool: idling,
    counters: { lastEvidenceAtMs: 500 },
    says: { now: 'idle' },
  },

  { what: 'no age limit', policy: maxAge, worker: { limits: { maxAgeMs: 0, maxRequests: 0 } }, says: 'never' },
  {
    what: 'too young',
    policy: maxAge,
    worker: { limits: { maxAgeMs: 500, maxRequests: 0 } },
    nowMs: 1_499,
    says: { atMs: 1_500 },
  },
  {
    what: 'old enough',
    policy: maxAge,
    worker: { limits: { maxAgeMs: 500, maxRequests: 0 } },
    nowMs: 1_500,
    says: { now: 'ttl' },
  },
  {
    what: 'no age before it is ready',
    policy: maxAge,
    worker: { readyAtMs: 0, limits: { maxAgeMs: 5, maxRequests: 0 } },
    nowMs: 9_999,
    says: 'never',
  },
  { what: 'no budget', policy: maxRequests, counters: { completed: 10_000 }, says: 'never' },
  {
    what: 'within budget',
    policy: maxRequests,
    worker: { limits: { maxAgeMs: 0, maxRequests: 5 } },
    counters: { completed: 4 },
    says: 'never',
  },
  {
    what: 'failures count too',
    policy: maxRequests,
    worker: { limits: { maxAgeMs: 0, maxRequests: 5 } },
    counters: { completed: 2, failed: 3 },
    says: { now: 'request_budget' },
  },
  { what: 'no soft limit', policy: memorySoft, worker: usage({ overSoftBits: 7, rssBytes: 9 }), says: 'never' },
  {
    what: 'one sample over the soft limit',
    policy: memorySoft,
    pool: limited(5, 0),
    worker: usage({ overSoftBits: 0b101000 | 1 }),
    says: 'never',
  },
  {
    what: 'two of the last three samples over the soft limit',
    policy: memorySoft,
    pool: limited(5, 0),
    worker: usage({ overSoftBits: 0b101 }),
    says: { now: 'memory' },
  },
  {
    what: 'below the hard limit',
    policy: memoryHard,
    pool: limited(0, 5),
    worker: usage({ overHard: false }),
    says: 'never',
  },
  {
    what: 'one sample over the hard limit',
    policy: memoryHard,
    pool: limited(0, 5),
    worker: usage({ overHard: true }),
    says: { now: 'memory_hard' },
  },
  { what: 'same config', policy: outdated, says: 'never' },
  { what: 'another app', policy: outdated, pool: { ...base, app: 'm:other' }, says: { now: 'config' } },
  { what: 'another environment', policy: outdated, pool: { ...base, env: { A: '1' } }, says: { now: 'config' } },
  { what: 'another size', policy: outdated, pool: { ...base, size: 9 }, says: 'never' },
  { what: 'link open', policy: linkLost, says: 'never' },
  { what: 'link just lost', policy: linkLost, worker: { linkLostAtMs: 2_000 }, nowMs: 2_001, says: { atMs: 5_000 } },
  {
    what: 'link lost for too long',
    policy: linkLost,
    worker: { linkLostAtMs: 2_000 },
    nowMs: 5_000,
    says: { now: 'link_lost' },
  },
  { what: 'well', policy: hung, worker: { health: 'well' }, says: 'never' },
  { what: 'busy', policy: hung, worker: { health: 'busy' }, says: 'never' },
  { what: 'hung', policy: hung, worker: { health: 'hung' }, says: { now: 'hung' } },
];

test.each(cases)('$policy.name: $what', ({ policy, worker: patch, pool, counters, nowMs, says }) => {
  const verdict = policy({ ...worker, ...patch }, pool ?? base, { ...noCounters, ...counters }, nowMs ?? 1_000);
  if (says === 'never') expect(verdict).toBe(never);
  else expect(verdict).toMatchObject(says);
});

describe('the health of a worker', () => {
  /** The maximum of pings is missed, and there has been no activity for long. */
  const still: Observations = {
    ...{
      process: 'attached',
      missedPings: 2,
      maxMissed: 2,
      oldestPingMs: 4_000,
      lastPongMs: 5_000,
      pingTimeoutMs: 3_000,
      reported: { running: 1, oldestMs: 4_000, loopLagMs: 0 },
    },
    ...{ inFlight: 1, lastEvidenceMs: 9_000, state: 'S', cpuShare: 0, cpuAdvancedMs: 9_000, sampledMs: 200 },
    ...{ freshMs: 1_000, busyMs: 0, busyLimitMs: 20_000, forgivenMs: 0 },
  };
  const lagging = (loopLagMs: number): Partial<Observations> => ({
    reported: { running: 1, oldestMs: 4_000, loopLagMs },
  });
  test.each<[string, Partial<Observations>, string, RegExp]>([
    ['exited', { process: 'exited' }, 'exited', /exited/],
    ['no ping overdue', { missedPings: 0 }, 'well', /no ping/],
    ['its loop lags a little', { missedPings: 0, ...lagging(2_999) }, 'well', /no ping/],
    ['its loop is blocked', { missedPings: 0, ...lagging(3_000) }, 'busy', /asyncio loop has been blocked for 3000 ms/],
    [
      'its loop is blocked and its requests have deadlines',
      { missedPings: 0, ...lagging(60_000) },
      'busy',
      /been blocked for 60000 ms/,
    ],
    [
      'its loop was blocked because the process was frozen until now',
      { missedPings: 0, inFlight: 0, ...lagging(60_000) },
      'busy',
      /been blocked/,
    ],
    [
      'its loop is blocked without any request',
      { missedPings: 0, inFlight: 0, busyMs: 3_000, ...lagging(6_000) },
      'hung',
      /6000 ms, and no sign of activity/,
    ],
    [
      'its loop is blocked, but it uses cpu time',
      { missedPings: 0, inFlight: 0, busyMs: 3_000, cpuAdvancedMs: 200, ...lagging(6_000) },
      'busy',
      /been blocked/,
    ],
    [
      'its loop is blocked for too long',
      { missedPings: 0, busyMs: 20_000, ...lagging(30_000) },
      'hung',
      /longer than busy_limit/,
    ],
    ['one ping overdue', { missedPings: 1 }, 'slow', /^1 of 2 pings missed$/],
    ['no sign of activity', {}, 'hung', /no sign of activity: state S, last result 9000 ms ago, 1 requests/],
    ['stopped (state T)', { state: 'T' }, 'hung', /state T/],
    [
      'never measured and never worked',
      { state: '', sampledMs: Infinity, lastEvidenceMs: Infinity },
      'hung',
      /no result yet/,
    ],
    ['its cpu time advances', { cpuAdvancedMs: 1_100, cpuShare: 0.5 }, 'busy', /cpu time advances \(50 %/],
    ['its cpu time advanced too long ago', { cpuAdvancedMs: 1_200 }, 'hung', /no sign of activity/],
    ['results arrive', { lastEvidenceMs: 3_000 }, 'busy', /last sign of progress came 3000 ms ago/],
    ['it waits for a CPU (state R)', { state: 'R' }, 'busy', /state R/],
    ['it waits for a device (state D)', { state: 'D' }, 'busy', /state D/],
    ['not measured since a ping is overdue', { sampledMs: 2_500 }, 'slow', /not measured since/],
    [
      'measured long ago, but after a ping was overdue',
      { state: 'S', sampledMs: 1_900 },
      'hung',
      /no sign of activity/,
    ],
    ['busy for too long', { cpuAdvancedMs: 0, busyMs: 20_000 }, 'hung', /busy for longer than busy_limit \(20000 ms\)/],
  ])('%s', (_, patch, health, because) => {
    const verdict = assess({ ...still, ...patch });
    expect(verdict).toMatchObject({ health, observations: { ...still, ...patch } });
    expect(verdict.because).toMatch(because);
  });

  test('a worker that is busy for exactly busy_limit counts as hung, whatever the rounding', () => {
    const busySinceMs = 4_294_967.3;
    const heartbeat = { ...worker.heartbeat, missed: 2, busySinceMs };
    for (let limit = 20_000; limit < 20_100; limit += 1.1) {
      const config = { ...base, heartbeat: { ...base.heartbeat, busyLimitMs: limit } };
      const nowMs = busySinceMs + limit;
      const busy = { ...worker, heartbeat, usage: { ...worker.usage, cpuAdvancedAtMs: nowMs, sampledAtMs: nowMs } };
      expect(assess(observe(busy, config, noCounters, nowMs)).health).toBe('hung');
    }
  });

  test('observations are ages, and infinite for what never happened', () => {
    const seen = observe(worker, base, noCounters, worker.readyAtMs + 100);
    expect(seen).toMatchObject({ process: 'attached', missedPings: 0, lastEvidenceMs: Infinity, inFlight: 0 });
    const lost = { ...worker, attached: false, phase: 'ready' } as const;
    const of = (patch: Partial<Worker>) => assess(observe({ ...lost, ...patch }, base, noCounters, 10));
    expect(of({})).toMatchObject({ health: 'slow', because: 'its link has closed, but its process has not exited' });
    expect(of({ phase: 'starting', hello: null }).because).toBe('it has not attached yet');
    expect(of({ phase: 'starting', attached: true }).because).toBe('it runs its warm-up');
    expect(assess(observe({ ...lost, phase: 'exited' }, base, noCounters, 10)).health).toBe('exited');
  });
});

test('pings are aligned to a tenth of the interval, and never more than an interval apart', () => {
  const property = fc.property(
    fc.double({ min: 0, max: 1e9, noNaN: true }),
    fc.integer({ min: 1, max: 60_000 }),
    (now, interval) => {
      const next = nextPingAtMs(now, interval);
      expect(next).toBeGreaterThan(now + interval * 0.9 - 1e-6);
      expect(next).toBeLessThanOrEqual(now + interval + 1e-6);
    },
  );
  fc.assert(property);
});

test('overdue pings are missed, oldest first, and a worker that answers none is sent no more', () => {
  const unanswered = [1, 2, 3].map((sequence) => ({ sequence, sentAtMs: sequence * 1_000 }));
  const heartbeat = { ...worker.heartbeat, unanswered };
  expect(missedPings(heartbeat, 3_000, 3_999)).toBe(0);
  expect(missedPings(heartbeat, 3_000, 4_000)).toBe(1);
  expect(missedPings(heartbeat, 3_000, 9_000)).toBe(3);
  expect(mayPing(heartbeat, base.heartbeat)).toBe(true);
  const many = Array.from({ length: 6 }, (_, sequence) => ({ sequence, sentAtMs: 0 }));
  expect(mayPing({ ...heartbeat, unanswered: many }, base.heartbeat)).toBe(false);
});

test('limits are drawn below the configured ones, each slot from its own part of the range', () => {
  const pool = { ...base, recycle: { ...base.recycle, maxAgeMs: 1_000, maxRequests: 100, jitter: 0.5 } };
  for (const random of [() => 0, () => 0.999]) {
    const drawn = [0, 1, 2, 3, 4].map((rank) => drawLimits(pool, rank, 5, random).maxAgeMs);
    for (const [rank, ageMs] of drawn.entries()) {
      expect(ageMs).toBeLessThanOrEqual(1_000 - rank * 100);
      expect(ageMs).toBeGreaterThan(1_000 - (rank + 1) * 100);
    }
  }
  expect(drawLimits({ ...pool, recycle: { ...pool.recycle, maxRequests: 1 } }, 4, 5, () => 0.9).maxRequests).toBe(1);
  expect(drawLimits(base, 0, 1, () => 0.5)).toEqual({ maxAgeMs: 0, maxRequests: 0 });
});

describe('the back-off of a slot', () => {
  const config = base.restart;
  const failed = (some: Partial<Failures>): Failures => ({ ...noFailures, ...some });
  const delays = (wasReady: boolean, times: number) => {
    let failures = noFailures;
    return Array.from({ length: times }, () => {
      const next = nextRestart(
        failures,
        wasReady ? 'crash' : 'start',
        { wasReady, livedMs: wasReady ? 10 : 0 },
        config,
        () => 1,
      );
      failures = next.failures;
      return next.delayMs;
    });
  };
  test('is zero after the first crash, and doubles with each further one up to its maximum', () => {
    expect(delays(true, 6)).toEqual([0, 500, 1_000, 2_000, 4_000, 4_000]);
  });
  test('begins with the first failed start', () => expect(delays(false, 5)).toEqual([500, 1_000, 2_000, 4_000, 4_000]));
  test('is random by half', () =>
    expect(nextRestart(failed({ start: 1 }), 'start', { wasReady: false, livedMs: 0 }, config, () => 0).delayMs).toBe(
      500,
    ));
  test('is reset by a long life', () => {
    const life = { wasReady: true, livedMs: 30_000 };
    const forgiven = nextRestart(failed({ start: 3, crash: 9, memory: 2 }), 'crash', life, config, () => 1);
    expect(forgiven).toEqual({ failures: failed({ crash: 1 }), delayMs: 0 });
  });
  test('counts memory kills separately from crashes', () => {
    const next = nextRestart(failed({ crash: 6 }), 'memory', { wasReady: true, livedMs: 10 }, config, () => 1);
    expect(next).toEqual({ failures: failed({ crash: 6, memory: 1 }), delayMs: 0 });
  });
});

test.each([
  { what: 'not without any evidence', evidenceAtMs: 0, until: null },
  { what: 'with evidence from just now', evidenceAtMs: 9_999, until: 11_800 },
  { what: 'with evidence from a second ago, until two seconds after it', evidenceAtMs: 9_000, until: 11_000 },
  { what: 'not with evidence as old as the interval', evidenceAtMs: 8_000, until: null },
  { what: 'not five times in a row', evidenceAtMs: 9_999, suppressedPings: 4, until: null },
  { what: 'not while a ping is overdue', evidenceAtMs: 9_999, missed: 1, until: null },
])('a ping is suppressed: $what', ({ evidenceAtMs, suppressedPings = 0, missed = 0, until }) => {
  expect(suppressedUntilMs({ suppressedPings, missed }, evidenceAtMs, { intervalMs: 2_000 }, 10_000)).toBe(until);
});

test('the slope uses all points and predicts when the limit is reached', () => {
  const limits = { softBytes: 1_000, hardBytes: 0, samples: 2, of: 3 };
  let remembered = worker.usage;
  const remember = (rssBytes: number, atMs: number): void => {
    const more = rememberMemory(remembered, { bytes: rssBytes, heldBytes: rssBytes }, limits, atMs);
    remembered = { ...remembered, rssBytes, ...more };
  };
  for (let second = 0; second < 4; second += 1) remember(100 + second * 10, second * 1_000);
  expect(slopeOf(remembered.history), 'too few points').toBe(0);
  for (let second = 4; second < 60; second += 1) remember(100 + second * 10 + (second % 2), second * 1_000);
  expect(slopeOf(remembered.history)).toBeCloseTo(10, 1);
  expect(limitInMs(remembered, limits)).toBeGreaterThan(30_000);
  expect(limitInMs(remembered, limits)).toBeLessThan(33_000);
  expect(remembered.firstBytes).toBe(100);
  expect(remembered.history.length).toBeLessThanOrEqual(32);
  for (let second = 60; second < 100; second += 1) remember(500, second * 1_000);
  expect(limitInMs(remembered, limits)).toBe(Number.POSITIVE_INFINITY);
});

test('PSS drops at once when a peak is freed, although PSS is read rarely', () => {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: nodeConfig({ ...base, size: 1 }) });
  simulation.run(3_000, () => simulation.ready().length === 1);
  const workerId = simulation.ready()[0]?.id ?? '';
  const sampled = (rssBytes: number, pssBytes: number) => {
    const sample = { rssBytes, pssBytes, cgroupBytes: 0, cpuMs: 0, state: 'S' };
    simulation.apply({ type: 'sampled', workerId, sample });
    const { usage: now } = simulation.ready()[0] ?? worker;
    return [now.pssBytes, memoryBytes(now)];
  };
  expect(sampled(1_000, 700)).toEqual([700, 700]);
  expect(sampled(1_050, 0)).toEqual([700, 700]);
  expect(sampled(500, 0)).toEqual([350, 350]);
  expect(sampled(900, 0)).toEqual([630, 630]);
  expect(sampled(1_200, 0)).toEqual([700, 700]);
  expect(sampled(600, 260)).toEqual([260, 260]);
});

test('PSS is read again in the sample that shows that forked children have exited', () => {
  const simulation = new Simulation();
  // Eight children share nearly all of their parent's pages.
  simulation.behaviour = { ...healthy, memoryBytes: 9 * 500 * mib, pssBytes: 540 * mib };
  simulation.apply({ type: 'config', config: nodeConfig({ ...base, size: 1 }) });
  simulation.run(10_000);
  expect(simulation.ready()[0]?.usage.pssBytes).toBe(540 * mib);
  const { behaviour } = simulation.process(simulation.ready()[0]);
  Object.assign(behaviour, { memoryBytes: 500 * mib, pssBytes: 498 * mib });
  simulation.run(2_500);
  expect(memoryBytes(simulation.ready()[0]?.usage ?? worker.usage)).toBe(498 * mib);
});

test('memory_floor finds the leaking worker even if its forked children have just exited', () => {
  const simulation = new Simulation();
  simulation.behaviour = { ...healthy, memoryBytes: 9 * 2_000 * mib, pssBytes: 2_040 * mib };
  simulation.availableBytes = 4_000 * mib;
  const config = { ...nodeConfig({ ...base, size: 1 }), memoryFloorBytes: 256 * mib };
  simulation.apply({ type: 'config', config });
  simulation.run(10_000);
  expect(simulation.ready()[0]?.usage.pssBytes).toBe(2_040 * mib);
  // It grows by too little to have PSS read again.
  const leaker = simulation.process(simulation.ready()[0]);
  simulation.availableBytes = 100 * mib;
  const isReplaced = () => simulation.workers().some(({ due, ending }) => (due?.reason ?? ending) === 'memory');
  for (let second = 0; second < 24 && !isReplaced(); second += 1) {
    Object.assign(leaker.behaviour, { memoryBytes: (2_000 + 8 * second) * mib, pssBytes: (1_998 + 8 * second) * mib });
    simulation.run(1_000, isReplaced);
  }
  expect(isReplaced()).toBe(true);
});
