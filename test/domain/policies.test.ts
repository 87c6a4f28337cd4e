import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PoolConfig } from '../../src/domain/config.ts';
import type { Counters } from '../../src/domain/event.ts';
import {
  healthOf,
  hung,
  mayPing,
  missedPings,
  nextPingAtMs,
  sparedUntilMs,
} from '../../src/domain/policies/heartbeat.ts';
import { drawLimits } from '../../src/domain/policies/limits.ts';
import { linkLost } from '../../src/domain/policies/link-lost.ts';
import { maxAge } from '../../src/domain/policies/max-age.ts';
import { maxRequests } from '../../src/domain/policies/max-requests.ts';
import { memoryHard, memorySoft } from '../../src/domain/policies/memory.ts';
import { outdated } from '../../src/domain/policies/outdated.ts';
import type { Policy } from '../../src/domain/policies/policy.ts';
import { never, noCounters } from '../../src/domain/policies/policy.ts';
import { nextRestart } from '../../src/domain/policies/restart.ts';
import type { Usage, Worker } from '../../src/domain/state.ts';
import { nodeConfig, poolConfig, Simulation } from './simulation.ts';

const base = poolConfig();
/** A worker that has been ready since 1,000. */
const worker: Worker = (() => {
  const simulation = new Simulation();
  simulation.tell({ type: 'config', config: nodeConfig({ ...base, size: 1 }) });
  simulation.run(3_000, () => simulation.ready().length === 1);
  const [ready] = simulation.ready();
  if (ready === undefined) throw new Error('expected a ready worker');
  return { ...ready, readyAtMs: 1_000 };
})();
const usage = (patch: Partial<Usage>): Partial<Worker> => ({ usage: { ...worker.usage, ...patch } });
const limited = (softBytes: number, hardBytes: number): PoolConfig => ({
  ...base,
  recycle: { ...base.recycle, memory: { softBytes, hardBytes } },
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

const cases: Case[] = [
  { what: 'no age limit', policy: maxAge, worker: { limits: { maxAgeMs: 0, maxRequests: 0 } }, says: 'never' },
  {
    what: 'not old yet',
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
    what: 'not ready: no age',
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
    what: 'failures count',
    policy: maxRequests,
    worker: { limits: { maxAgeMs: 0, maxRequests: 5 } },
    counters: { completed: 2, failed: 3 },
    says: { now: 'request_budget' },
  },
  { what: 'no soft limit', policy: memorySoft, worker: usage({ samplesOverSoft: 9, rssBytes: 9 }), says: 'never' },
  {
    what: 'one sample over',
    policy: memorySoft,
    pool: limited(5, 0),
    worker: usage({ samplesOverSoft: 1 }),
    says: 'never',
  },
  {
    what: 'two samples over',
    policy: memorySoft,
    pool: limited(5, 0),
    worker: usage({ samplesOverSoft: 2 }),
    says: { now: 'memory' },
  },
  { what: 'below hard', policy: memoryHard, pool: limited(0, 5), worker: usage({ overHard: false }), says: 'never' },
  {
    what: 'over hard once',
    policy: memoryHard,
    pool: limited(0, 5),
    worker: usage({ overHard: true }),
    says: { now: 'memory_hard' },
  },
  { what: 'same config', policy: outdated, says: 'never' },
  { what: 'another app', policy: outdated, pool: { ...base, app: 'm:other' }, says: { now: 'config' } },
  { what: 'another environment', policy: outdated, pool: { ...base, env: { A: '1' } }, says: { now: 'config' } },
  { what: 'another size', policy: outdated, pool: { ...base, size: 9 }, says: 'never' },
  { what: 'link there', policy: linkLost, says: 'never' },
  { what: 'link just lost', policy: linkLost, worker: { linkLostAtMs: 2_000 }, nowMs: 2_001, says: { atMs: 5_000 } },
  {
    what: 'link lost long ago',
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

describe('how well a worker is', () => {
  const at = (missed: number, patch: Partial<Worker>, counters: Partial<Counters> = {}) =>
    healthOf({ ...worker, ...patch }, missed, base, { ...noCounters, ...counters }, 100_000);
  test('no ping is overdue: well', () => expect(at(0, {})).toBe('well'));
  test('one is overdue: slow', () => expect(at(1, {})).toBe('slow'));
  test('as many as may be, and nothing moves: hung', () => expect(at(2, {})).toBe('hung'));
  test('cpu time advances: busy', () => expect(at(2, usage({ cpuAdvancedAtMs: 98_500 }))).toBe('busy'));
  test('cpu time advanced too long ago: hung', () => expect(at(2, usage({ cpuAdvancedAtMs: 90_000 }))).toBe('hung'));
  test('results arrive: busy', () => expect(at(2, {}, { lastEvidenceAtMs: 98_000 })).toBe('busy'));
  test('busy too long is hung when its time has come, also where the sum of the two times was rounded', () => {
    const heartbeat = { ...worker.heartbeat, busySinceMs: 49_318.78245135962 };
    const usage = { ...worker.usage, cpuAdvancedAtMs: 69_000 };
    const nowMs = heartbeat.busySinceMs + base.heartbeat.busyLimitMs;
    // Else the agent would wake now, again and again.
    expect(nowMs - heartbeat.busySinceMs).toBeLessThan(base.heartbeat.busyLimitMs);
    expect(healthOf({ ...worker, heartbeat, usage }, 2, base, noCounters, nowMs)).toBe('hung');
  });
  test('busy for longer than busy_limit: hung', () => {
    const heartbeat = { ...worker.heartbeat, busySinceMs: 80_000 };
    expect(at(2, { ...usage({ cpuAdvancedAtMs: 99_999 }), heartbeat })).toBe('hung');
  });
});

test('pings fall on a grid of a tenth of the interval, never sooner than an interval', () => {
  const property = fc.property(
    fc.double({ min: 0, max: 1e9, noNaN: true }),
    fc.integer({ min: 1, max: 60_000 }),
    (now, interval) => {
      const next = nextPingAtMs(now, interval);
      expect(next).toBeGreaterThanOrEqual(now + interval - 1e-6);
      expect(next).toBeLessThanOrEqual(now + interval * 1.1 + 1e-6);
    },
  );
  fc.assert(property);
});

test('missed are those that are overdue, oldest first; a worker that answers none is not sent ever more', () => {
  const unanswered = [1, 2, 3].map((sequence) => ({ sequence, sentAtMs: sequence * 1_000 }));
  const heartbeat = { ...worker.heartbeat, unanswered };
  expect(missedPings(heartbeat, 3_000, 3_999)).toBe(0);
  expect(missedPings(heartbeat, 3_000, 4_000)).toBe(1);
  expect(missedPings(heartbeat, 3_000, 9_000)).toBe(3);
  expect(mayPing(heartbeat, base.heartbeat)).toBe(true);
  const many = Array.from({ length: 6 }, (_, sequence) => ({ sequence, sentAtMs: 0 }));
  expect(mayPing({ ...heartbeat, unanswered: many }, base.heartbeat)).toBe(false);
});

test('limits are drawn below the configured ones, each slot in a share of its own', () => {
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

describe('restarts', () => {
  const config = base.restart;
  const delays = (wasReady: boolean, times: number) => {
    let failures = 0;
    return Array.from({ length: times }, () => {
      const next = nextRestart(failures, { wasReady, livedMs: wasReady ? 10 : 0 }, config, () => 1);
      failures = next.failures;
      return next.delayMs;
    });
  };
  test('a first crash is made good at once, further ones wait twice as long each, up to the most', () => {
    expect(delays(true, 6)).toEqual([0, 500, 1_000, 2_000, 4_000, 4_000]);
  });
  test('a failed start waits at once', () => expect(delays(false, 5)).toEqual([500, 1_000, 2_000, 4_000, 4_000]));
  test('half of a wait is chance', () =>
    expect(nextRestart(1, { wasReady: false, livedMs: 0 }, config, () => 0).delayMs).toBe(500));
  test('a long life forgives what was before', () => {
    expect(nextRestart(9, { wasReady: true, livedMs: 30_000 }, config, () => 1)).toEqual({ failures: 1, delayMs: 0 });
  });
});

test.each([
  { what: 'nothing was ever done', evidenceAtMs: 0, until: null },
  { what: 'evidence of just now', evidenceAtMs: 9_999, until: 11_800 },
  { what: 'evidence of a second ago: due two seconds after that', evidenceAtMs: 9_000, until: 11_000 },
  { what: 'evidence as old as the interval', evidenceAtMs: 8_000, until: null },
  { what: 'now and then one goes all the same', evidenceAtMs: 9_999, spared: 4, until: null },
  { what: 'a ping is overdue: only a pong will do', evidenceAtMs: 9_999, missed: 1, until: null },
])('a ping is spared: $what', ({ evidenceAtMs, spared = 0, missed = 0, until }) => {
  expect(sparedUntilMs({ spared, missed }, evidenceAtMs, { intervalMs: 2_000 }, 10_000)).toBe(until);
});
