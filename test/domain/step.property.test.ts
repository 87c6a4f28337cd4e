import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { PoolConfig } from '../../src/domain/config.ts';
import type { Event } from '../../src/domain/event.ts';
import { isOpen } from '../../src/domain/roll.ts';
import type { Intent, PoolIntent } from '../../src/domain/state.ts';
import { timeLimit } from '../time-limit.ts';
import { healthy, nodeConfig, poolConfig, Simulation } from './simulation.ts';

// The simulation checks the invariants after each step; see invariants.ts.

interface Move {
  play(simulation: Simulation): void;
  /** Shown in the report of a failing run. */
  toString(): string;
}

function move(what: string, play: Move['play']): Move {
  return { play, toString: () => what };
}

const index = fc.nat({ max: 50 });
const anyMs = fc.oneof(fc.constantFrom(0, 1, 5, 50, 200, 1_000, 6_000, 15_000), fc.nat({ max: 3_000 }));
const pick = <T>(items: readonly T[], at: number): T | undefined => items[at % Math.max(1, items.length)];
const never = Number.POSITIVE_INFINITY;
const yearMs = 365 * 86_400_000;

const behaviour = fc.record({
  // The ledger's disk may hang for seconds before a process is spawned.
  spawnMs: fc.constantFrom(0, 1, 300, 8_000, never),
  shortage: fc.constantFrom(undefined, undefined, undefined, 'the ledger: ENOSPC'),
  attachMs: fc.constantFrom(0, 2, 200, 4_000, never),
  answersPings: fc.boolean(),
  stopMs: fc.constantFrom(0, 20, 1_900, never),
  termMs: fc.constantFrom(0, 20, never),
  killMs: fc.constantFrom(0, 5, 7_000),
  sweepMs: fc.constantFrom(0, 5, 3_000),
  cpu: fc.constantFrom(0, 1),
  memoryBytes: fc.constantFrom(10, 600, 2_000),
  warmUp: fc.constantFrom('well', 'fails', 'never'),
});

const pool = fc
  .record({
    size: fc.nat({ max: 4 }),
    parallel: fc.integer({ min: 1, max: 3 }),
    maxSurge: fc.nat({ max: 2 }),
    maxUnavailable: fc.nat({ max: 2 }),
    maxAgeMs: fc.constantFrom(0, 3_000),
    maxRequests: fc.constantFrom(0, 3),
    memory: fc.constantFrom(
      { softBytes: 0, hardBytes: 0, samples: 2, of: 3 },
      { softBytes: 500, hardBytes: 1_000, samples: 2, of: 3 },
    ),
    maxIdleMs: fc.constantFrom(0, 2_000),
    warmUp: fc.constantFrom(null, { command: 'c', payload: '{}' }),
    app: fc.constantFrom('m:app', 'm:other'),
    name: fc.constantFrom('p', 'q'),
  })
  .map(({ size, app, name, parallel, warmUp, maxSurge, maxUnavailable, ...recycle }) => {
    const base = poolConfig();
    const surge = maxSurge + maxUnavailable === 0 ? 1 : maxSurge;
    // Otherwise a worker that starts above its soft limit would be replaced every virtual millisecond.
    const minLifetimeMs = recycle.memory.softBytes > 0 ? 500 : 0;
    return {
      ...base,
      name,
      size,
      app,
      start: { ...base.start, parallel, warmUp },
      recycle: { ...base.recycle, ...recycle, maxSurge: surge, maxUnavailable, minLifetimeMs, jitter: 0.3 },
    } satisfies PoolConfig;
  });

const facts: Readonly<Record<string, (workerId: string) => Event>> = {
  closed: (workerId) => ({ type: 'link-closed', workerId }),
  leaving: (workerId) => ({ type: 'leaving', workerId, leavingReason: 'it is worn out' }),
  pong: (workerId) => ({
    type: 'pong',
    workerId,
    sequence: 1,
    atMs: 1_000,
    reported: { running: 0, oldestMs: 0, loopLagMs: 0 },
  }),
  'wrong pong': (workerId) => ({
    type: 'pong',
    workerId,
    sequence: 99,
    atMs: 1_000,
    reported: { running: 0, oldestMs: 0, loopLagMs: 0 },
  }),
  idle: (workerId) => ({ type: 'idle', workerId }),
  overdue: (workerId) => ({ type: 'overdue', workerId, message: 'request 1 (c) still runs' }),
  sample: (workerId) => ({
    type: 'sampled',
    workerId,
    sample: { rssBytes: 700, pssBytes: 650, cgroupBytes: 0, cpuMs: 5, state: 'R' },
  }),
  spawned: (workerId) => ({ type: 'spawned', workerId, pid: 1 }),
  attached: (workerId) => ({
    type: 'attached',
    workerId,
    hello: { commands: [], sdkVersion: '', pythonVersion: '', start: { interpreterMs: 0, importMs: 0, hooksMs: 0 } },
  }),
};

const fact = fc.tuple(index, fc.constantFrom(...Object.keys(facts))).map(([at, name]) =>
  move(`${name} of ${at}`, (simulation) => {
    const process = pick([...simulation.processes.values()], at);
    const event = facts[name]?.(process?.workerId ?? 'nobody');
    // Only the simulation may report that a process that is being started exists; all other facts may come late or
    // twice.
    const early = process?.alive === true && !process.attached && (name === 'spawned' || name === 'attached');
    if (event !== undefined && !early) simulation.apply(event);
  }),
);

/** As the agent accepts it: newer than the one before. */
function nextIntent({ state }: Simulation, pool: PoolIntent, drained: boolean): Intent {
  const generation = (state.node.intent?.generation ?? 0) + 1;
  const about = { clusterUid: 'c', epoch: 1, generation, controller: 'r', released: false };
  return { ...about, drained, pools: state.pools.has(pool.pool) ? [pool] : [] };
}

const command = fc
  .record({
    at: index,
    size: fc.nat({ max: 5 }),
    pool: fc.constantFrom('p', 'q', 'nowhere'),
    replace: fc.boolean(),
    which: fc.nat({ max: 16 }),
  })
  .map(({ at, size, pool: name, replace, which }) =>
    move(`command ${which} of ${at} or ${name} (${size}, ${replace})`, (simulation) => {
      const workerId = pick([...simulation.state.workers.keys()], at) ?? 'nobody';
      const commands: Event[] = [
        { type: 'scale', pool: name, size },
        { type: 'stop-worker', workerId, replace },
        { type: 'drain-worker', workerId },
        { type: 'recycle-worker', workerId },
        { type: 'drain-pool', pool: name },
        { type: 'resume-pool', pool: name },
        { type: 'drain-node' },
        { type: 'resume-node' },
        { type: 'config-refused', message: 'a problem' },
        { type: 'roll', pool: name, maxFailures: 1 + (size % 3) },
        { type: 'pause-roll', pool: name },
        { type: 'resume-roll', pool: name },
        { type: 'abort-roll', pool: name },
        { type: 'set-intent', intent: nextIntent(simulation, { pool: name, size, drained: replace }, at % 3 === 0) },
        { type: 'set-intent', intent: nextIntent(simulation, { pool: 'p', size, drained: false }, false) },
        { type: 'release-intent', by: 'an operator' },
        { type: 'note-forced', pool: name, message: 'ScalePool' },
      ];
      const chosen = commands[which];
      if (chosen !== undefined) simulation.apply(chosen);
    }),
  );

const wait = anyMs.map((ms) => move(`run ${ms}`, (simulation) => void simulation.run(ms)));

/** The agent itself was blocked: nothing was decided meanwhile. */
const lag = anyMs.map((ms) =>
  move(`lag ${ms}`, (simulation) => {
    simulation.nowMs += ms;
  }),
);

const behave = behaviour.map((next) =>
  move(`behave ${fc.stringify(next)}`, (simulation) => {
    simulation.behaviour = next;
  }),
);

const die = index.map((at) =>
  move(`death of ${at}`, (simulation) => {
    const process = pick([...simulation.processes.values()], at);
    if (process !== undefined) simulation.die(process, at % 2 === 0 ? 'SIGSEGV' : null);
  }),
);

/** Its link breaks, and it dials again before or after it is given up. */
const redial = fc.tuple(index, fc.constantFrom(0, 1, 500, 8_000)).map(([at, ms]) =>
  move(`${at} dials again after ${ms}`, (simulation) => {
    const process = pick([...simulation.processes.values()], at);
    if (process?.alive === true && process.attached) simulation.redial(process, ms);
  }),
);

const memory = fc.constantFrom(10, 100_000_000, 1_000_000_000).map((bytes) =>
  move(`the host has ${bytes} bytes`, (simulation) => {
    simulation.availableBytes = bytes;
  }),
);

const disk = fc.boolean().map((hangs) =>
  move(hangs ? 'the disk hangs' : 'the disk answers', (simulation) => {
    simulation.diskHangs = hangs;
  }),
);

const work = fc.tuple(index, fc.nat({ max: 2 }), fc.nat({ max: 4 })).map(([at, inFlight, done]) =>
  move(`${at} has ${inFlight}, did ${done}`, (simulation) => {
    const process = pick([...simulation.processes.values()], at);
    if (process === undefined) return;
    Object.assign(process.counters, { inFlight, lastEvidenceAtMs: simulation.nowMs });
    process.counters.completed += done;
    simulation.apply({ type: 'budget-spent', workerId: process.workerId });
  }),
);

const reload = fc
  .uniqueArray(pool, { selector: ({ name }) => name, maxLength: 2 })
  .map((pools) =>
    move(`reload ${fc.stringify(pools)}`, (simulation) =>
      simulation.apply({ type: 'config', config: { ...nodeConfig(...pools), memoryFloorBytes: 50_000_000 } }),
    ),
  );

const restart = fc.constant(move('the agent is killed and the next one starts', (simulation) => simulation.restart()));

const anyMove: fc.Arbitrary<Move> = fc.oneof(
  { weight: 6, arbitrary: wait },
  { weight: 3, arbitrary: command },
  { weight: 3, arbitrary: fact },
  { weight: 2, arbitrary: behave },
  { weight: 2, arbitrary: die },
  { weight: 2, arbitrary: work },
  { weight: 1, arbitrary: reload },
  { weight: 1, arbitrary: lag },
  { weight: 1, arbitrary: restart },
  { weight: 1, arbitrary: redial },
  { weight: 1, arbitrary: memory },
  { weight: 1, arbitrary: disk },
);

test('with events in any order the invariants hold, a calm host converges, and a shutdown leaves nothing', () => {
  const property = fc.property(
    pool,
    fc.array(anyMove, { maxLength: 40, size: 'max' }),
    fc.boolean(),
    (first, moves, atOnce) => {
      const simulation = new Simulation(null);
      simulation.apply({ type: 'config', config: nodeConfig(first) });
      for (const { play } of moves) play(simulation);

      // Calm: every existing process may be ended at any time, and new ones are healthy.
      simulation.behaviour = { ...healthy };
      simulation.diskHangs = false;
      for (const process of simulation.processes.values()) {
        Object.assign(process.behaviour, { ...healthy, memoryBytes: process.behaviour.memoryBytes, killMs: 5 });

        process.counters.inFlight = 0;
      }
      simulation.apply({ type: 'resume-node' });
      for (const name of simulation.state.pools.keys()) simulation.apply({ type: 'resume-pool', pool: name });
      const converged = simulation.run(120_000, () =>
        [...simulation.state.pools.values()].every(
          (each) => each.phase === 'running' && simulation.ready(each.name).length >= each.size,
        ),
      );
      expect(converged, 'a calm host has as many ready workers as each pool should').toBe(true);
      for (const { name } of simulation.state.pools.values()) simulation.apply({ type: 'resume-roll', pool: name });
      const rolled = simulation.run(120_000, () =>
        [...simulation.state.pools.values()].every(({ roll }) => roll === null || !isOpen(roll)),
      );
      expect(rolled, 'on a calm host each roll comes to its end').toBe(true);

      simulation.apply({ type: 'shutdown', how: atOnce ? 'now' : 'drain' });
      expect(
        simulation.run(120_000, () => simulation.finished > 0),
        'a shutdown comes to its end',
      ).toBe(true);
      simulation.run(30_000);
      expect(simulation.finished).toBe(1);
      expect([...simulation.processes.values()].filter((process) => process.alive)).toEqual([]);
      expect(simulation.processes.size, 'processes of this host').toBeLessThan(1_000);
    },
  );
  fc.assert(property, { numRuns: 500, ...timeLimit });
});

/** A millisecond longer than Node's longest timer. */
const longMs = 2 ** 31;
/** More than any configuration may ask for. */
const longest = Number.MAX_SAFE_INTEGER;

/** Each at its least or its most, as docs/configuration.md has them, or beyond. `leastMs`: the least of those that repeat. */
const extremes = (leastMs: number) =>
  fc
    .record({
      beatMs: fc.constantFrom(leastMs, longMs, yearMs, longest),
      timeoutMs: fc.constantFrom(leastMs, longMs, yearMs, longest),
      startMs: fc.constantFrom(leastMs, longMs, yearMs, longest),
      drainMs: fc.constantFrom(0, longMs, yearMs),
      killAfterMs: fc.constantFrom(0, leastMs, longMs, yearMs),
      backoffMs: fc.constantFrom(10, longMs, yearMs),
      ageMs: fc.constantFrom(0, 1_000, longMs, yearMs, longest),
      lifetimeMs: fc.constantFrom(500, longMs, yearMs),
    })
    .map(({ beatMs, timeoutMs, startMs, drainMs, killAfterMs, backoffMs, ageMs, lifetimeMs }) => {
      return (of: PoolConfig): PoolConfig => ({
        ...of,
        start: { ...of.start, timeoutMs: startMs },
        heartbeat: { ...of.heartbeat, intervalMs: beatMs, timeoutMs, busyLimitMs: timeoutMs },
        drain: { timeoutMs: drainMs, killAfterMs },
        restart: { ...of.restart, backoffMinMs: 10, backoffMaxMs: backoffMs, resetAfterMs: backoffMs },
        recycle: { ...of.recycle, maxAgeMs: ageMs, maxIdleMs: ageMs, minLifetimeMs: lifetimeMs },
      });
    });

/** Long waits would be many steps: each millisecond has some. */
const briefMove = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom(0, 1, 5, 50).map((ms) => move(`run ${ms}`, (simulation) => void simulation.run(ms))),
  },
  ...[command, fact, behave, die, work, reload, restart, disk].map((arbitrary) => ({ weight: 1, arbitrary })),
);

test.each([
  ['a tenth of a second', 100, anyMove, 60_000],
  ['a millisecond', 1, briefMove, 500],
] as const)(
  'with timers of %s and of years the invariants hold, and a shutdown leaves nothing',
  (_, leastMs, aMove, endsMs) => {
    const moves = fc.array(aMove, { maxLength: 30, size: 'max' });
    const property = fc.property(pool, extremes(leastMs), moves, (first, extreme, played) => {
      const simulation = new Simulation(null);
      simulation.behaviour = { ...healthy, attachMs: 2 * leastMs };
      simulation.apply({ type: 'config', config: nodeConfig(extreme(first)) });
      for (const { play } of played) play(simulation);
      simulation.diskHangs = false;
      simulation.apply({ type: 'shutdown', how: 'now' });
      // A year is not waited for.
      for (const process of simulation.processes.values()) {
        process.behaviour.sweepMs = Math.min(process.behaviour.sweepMs, 5);
        simulation.die(process);
      }
      simulation.run(60_000, () => simulation.finished > 0);
      simulation.run(endsMs);
      expect(simulation.finished).toBe(1);
    });
    fc.assert(property, { numRuns: 150, ...timeLimit });
  },
);

test('whatever happens, a follower of Watch sees what the lists show', () => {
  const property = fc.property(pool, fc.array(anyMove, { maxLength: 40, size: 'max' }), (first, moves) => {
    const simulation = new Simulation();
    simulation.apply({ type: 'config', config: nodeConfig(first) });
    for (const { play } of moves) play(simulation);
    simulation.apply({ type: 'shutdown', how: 'drain' });
    simulation.run(30_000);
  });
  fc.assert(property, { numRuns: 150, ...timeLimit });
});

test('facts about unknown workers change nothing', () => {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig()) });
  simulation.run(5_000);
  const before = simulation.state;
  const workerId = 'p-0-nobody';
  simulation.apply(
    { type: 'spawned', workerId, pid: 1 },
    {
      type: 'attached',
      workerId,
      hello: { commands: [], sdkVersion: '', pythonVersion: '', start: { interpreterMs: 0, importMs: 0, hooksMs: 0 } },
    },
    { type: 'pong', workerId, sequence: 1, atMs: 1_000, reported: { running: 0, oldestMs: 0, loopLagMs: 0 } },
    { type: 'exited', workerId, exit: { code: 0, signal: null }, lastLines: [] },
    { type: 'gone', workerId, survivors: [1] },
    { type: 'stop-worker', workerId, replace: false },
  );
  expect(simulation.state.workers).toEqual(before.workers);
  expect(simulation.state.revision).toBe(before.revision);
});
