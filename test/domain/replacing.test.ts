import { describe, expect, test } from 'vitest';
import type { NodeConfig, PoolConfig } from '../../src/domain/config.ts';
import { workersOf } from '../../src/domain/draft.ts';
import type { Worker } from '../../src/domain/state.ts';
import { waitingSlots } from '../../src/domain/waiting-slots.ts';
import type { ProcessBehaviour } from './simulation.ts';
import { healthy, nodeConfig, poolConfig, Simulation } from './simulation.ts';

// Edge cases of planned replacement in which a pool once remained too small, or was replaced forever.

const base = poolConfig();
const never = Number.POSITIVE_INFINITY;
const mib = 1024 * 1024;
const hourMs = 3_600_000;

function up(pool: PoolConfig, config: NodeConfig = nodeConfig(pool)): Simulation {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config });
  expect(simulation.run(10_000, () => simulation.ready(pool.name).length === pool.size)).toBe(true);
  return simulation;
}

const spawns = (simulation: Simulation) => simulation.actions.filter((action) => action.type === 'spawn').length;
const lastApp = (simulation: Simulation) =>
  simulation.actions.flatMap((action) => (action.type === 'spawn' ? [action.pool.app] : [])).at(-1);
const poolOf = (simulation: Simulation) => simulation.state.pools.get('p');
const change = (simulation: Simulation, worker: Worker | undefined, patch: Partial<ProcessBehaviour>) =>
  Object.assign(simulation.process(worker).behaviour, patch);
const warmUp = (command: string) => ({ ...base.start, warmUp: { command, payload: '{}' } });

test('a memory peak during the start that was freed does not cause a replacement', () => {
  const memory = { softBytes: 100, hardBytes: 0, samples: 2, of: 3 };
  const simulation = new Simulation();
  simulation.behaviour = { ...healthy, attachMs: 3_500, memoryBytes: 500 };
  const pool = poolConfig({ size: 1, recycle: { ...base.recycle, memory } });
  simulation.apply({ type: 'config', config: nodeConfig(pool) });
  simulation.run(3_300);
  change(simulation, simulation.workers()[0], { memoryBytes: 10 });
  expect(simulation.run(5_000, () => simulation.ready().length === 1)).toBe(true);
  simulation.run(60_000);
  expect(spawns(simulation)).toBe(1);
});

test('workers over the soft limit right after their start still serve for min_lifetime', () => {
  const memory = { softBytes: 100, hardBytes: 0, samples: 2, of: 3 };
  const simulation = new Simulation();
  simulation.behaviour = { ...healthy, attachMs: 5, memoryBytes: 500 };
  const pool = poolConfig({ size: 1, recycle: { ...base.recycle, memory, minLifetimeMs: 10_000 } });
  simulation.apply({ type: 'config', config: nodeConfig(pool) });
  simulation.run(60_000);
  expect(spawns(simulation)).toBe(6);
});

test('below memory_floor only growing workers are replaced, with ever longer waits', () => {
  const simulation = up(poolConfig({ size: 1 }), {
    ...nodeConfig(poolConfig({ size: 1 })),
    memoryFloorBytes: 256 * mib,
  });
  simulation.availableBytes = 200 * mib;
  const startedAtMs = simulation.nowMs;
  let grown = 0;
  while (simulation.nowMs < startedAtMs + hourMs) {
    simulation.run(1_000);
    const [worker] = simulation.ready();
    // Each worker allocates a lot, once.
    if (worker !== undefined && simulation.nowMs - worker.readyAtMs > 3_000) {
      change(simulation, worker, { memoryBytes: 330 * mib });
      grown += 1;
    }
  }
  expect(grown).toBeGreaterThan(3_000);
  expect(spawns(simulation)).toBeLessThan(8);
});

test('a memory replacement that cannot proceed does not block others', () => {
  const pools = [poolConfig({ name: 'a', size: 2 }), poolConfig({ name: 'b', size: 1 })];
  const simulation = new Simulation();
  simulation.availableBytes = 2_000 * mib;
  simulation.behaviour = { ...healthy, memoryBytes: 30 * mib };
  simulation.apply({ type: 'config', config: { ...nodeConfig(...pools), memoryFloorBytes: 256 * mib } });
  simulation.run(5_000);
  simulation.behaviour = { ...simulation.behaviour, attachMs: never };
  simulation.die(simulation.process(simulation.ready('a')[0]), 'SIGSEGV');
  simulation.run(20_000);
  simulation.availableBytes = 100 * mib;
  let held = 30 * mib;
  const due = () => simulation.ready('b')[0]?.due?.reason === 'memory' || simulation.workers('b').length > 1;
  for (let second = 0; second < 300 && !due(); second += 1) {
    held += mib;
    change(simulation, simulation.ready('a')[0], { memoryBytes: held + 50 * mib });
    change(simulation, simulation.ready('b')[0], { memoryBytes: held });
    simulation.run(1_000, due);
  }
  expect(due()).toBe(true);
});

test('memory for one replacement is used by only one', () => {
  const recycle = { ...base.recycle, maxSurge: 8 };
  const pool = poolConfig({ size: 8, start: { ...base.start, parallel: 8 }, recycle });
  const simulation = new Simulation();
  simulation.availableBytes = 8_000 * mib;
  simulation.behaviour = { ...healthy, memoryBytes: 500 * mib };
  simulation.apply({ type: 'config', config: { ...nodeConfig(pool), memoryFloorBytes: 256 * mib } });
  simulation.run(10_000);
  simulation.availableBytes = 800 * mib;
  simulation.run(5_000);
  simulation.apply({ type: 'roll', pool: 'p', maxFailures: 3 });
  expect(simulation.workers().filter((worker) => worker.phase === 'starting')).toHaveLength(1);
});

test('a config whose warm-up fails is abandoned, and tried again when it is fixed', () => {
  const simulation = up(poolConfig({ size: 2 }));
  simulation.behaviour = { ...healthy, warmUp: 'fails' };
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 2, start: warmUp('x') })) });
  simulation.die(simulation.process(simulation.ready()[0]), 'SIGSEGV');
  expect(simulation.run(60_000, () => poolOf(simulation)?.quarantine !== '')).toBe(true);
  // Workers that are started now have no warm-up, which was the only failing part.
  expect(simulation.run(60_000, () => simulation.ready().length === 2)).toBe(true);

  const other = poolConfig({ size: 2, app: 'm:other', start: warmUp('x') });
  simulation.apply({ type: 'config', config: nodeConfig(other) });
  expect(simulation.run(60_000, () => poolOf(simulation)?.quarantine !== '')).toBe(true);
  simulation.behaviour = { ...healthy };
  simulation.apply({ type: 'config', config: nodeConfig({ ...other, start: warmUp('c') }) });
  expect(poolOf(simulation)?.quarantine).toBe('');
  simulation.run(60_000);
  expect(lastApp(simulation)).toBe('m:other');
  expect(simulation.ready().every((worker) => worker.fingerprint === poolOf(simulation)?.fingerprint)).toBe(true);
});

test('the last good config is started with its own timeout', () => {
  const simulation = up(poolConfig({ size: 2 }));
  const hasty = poolConfig({ size: 2, app: 'm:other', start: { ...base.start, timeoutMs: 100 } });
  simulation.apply({ type: 'config', config: nodeConfig(hasty) });
  expect(simulation.run(60_000, () => poolOf(simulation)?.quarantine !== '')).toBe(true);
  simulation.die(simulation.process(simulation.ready()[0]), 'SIGSEGV');
  simulation.run(20);
  expect(simulation.run(60_000, () => simulation.ready().length === 2)).toBe(true);
});

test('an abandoned config that becomes ready after all is used again', () => {
  const recycle = { ...base.recycle, maxSurge: 4 };
  const simulation = up(poolConfig({ size: 4, recycle }));
  simulation.behaviour = { ...healthy, attachMs: 3_000 };
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 4, app: 'm:other', recycle })) });
  simulation.run(10);
  const starting = simulation.workers().filter((worker) => worker.phase === 'starting');
  for (const worker of starting.slice(0, 3)) simulation.die(simulation.process(worker), null);
  simulation.run(50);
  expect(poolOf(simulation)?.quarantine).not.toBe('');
  simulation.behaviour = { ...healthy };
  simulation.run(60_000);
  expect(poolOf(simulation)?.quarantine).toBe('');
  expect(simulation.ready().every((worker) => worker.fingerprint === poolOf(simulation)?.fingerprint)).toBe(true);
});

test('a roll fails if its config is abandoned', () => {
  const restart = { ...base.restart, quarantineAfter: 2 };
  const simulation = up(poolConfig({ size: 2, restart }));
  simulation.behaviour = { ...healthy, attachMs: never };
  const other = poolConfig({ size: 2, app: 'm:other', restart, start: { ...base.start, timeoutMs: 400 } });
  simulation.apply({ type: 'config', config: nodeConfig(other) });
  simulation.apply({ type: 'roll', pool: 'p', maxFailures: 10 });
  expect(simulation.run(60_000, () => poolOf(simulation)?.quarantine !== '')).toBe(true);
  expect(poolOf(simulation)?.roll).toMatchObject({ phase: 'failed', message: poolOf(simulation)?.quarantine });
});

test('while a roll is paused, workers are still replaced for other reasons', () => {
  const simulation = up(poolConfig({ size: 2, recycle: { ...base.recycle, maxRequests: 10 } }));
  simulation.behaviour = { ...healthy, attachMs: never };
  simulation.apply({ type: 'roll', pool: 'p', maxFailures: 5 });
  simulation.run(10);
  simulation.die(simulation.process(simulation.workers().find((worker) => worker.phase === 'starting')), null);
  simulation.run(10);
  const rolled = simulation.ready().find((worker) => worker.due?.reason === 'roll');
  simulation.apply({ type: 'pause-roll', pool: 'p' });
  expect(simulation.state.workers.get(rolled?.id ?? '')?.due).toBeNull();
  simulation.behaviour = { ...healthy };
  simulation.apply({ type: 'recycle-worker', workerId: rolled?.id ?? '' });
  expect(simulation.run(20_000, () => !simulation.state.workers.has(rolled?.id ?? ''))).toBe(true);
  const [other] = simulation.ready().filter((worker) => worker.generation === 1);
  simulation.process(other).counters.completed = 10;
  simulation.apply({ type: 'budget-spent', workerId: other?.id ?? '' });
  expect(simulation.run(20_000, () => !simulation.state.workers.has(other?.id ?? ''))).toBe(true);
});

describe('filling a slot whose last worker has exited:', () => {
  const recycle = { ...base.recycle, maxSurge: 0, maxUnavailable: 1 };
  const pool = poolConfig({ size: 2, recycle });
  const inSlot = (simulation: Simulation, slot: number) =>
    simulation.workers().filter((worker) => worker.slot === slot);

  const waiting = (simulation: Simulation) => {
    const only = poolOf(simulation);
    return only === undefined
      ? 'no pool'
      : waitingSlots(only, workersOf(simulation.state, only.name), simulation.state.node.leftovers.values());
  };

  test('of many slots that wait, only the first are listed and the rest counted', () => {
    const simulation = up({ ...pool, size: 9 });
    for (const worker of simulation.ready()) change(simulation, worker, { sweepMs: 8_000 });
    for (const worker of simulation.ready()) simulation.die(simulation.process(worker), 'SIGSEGV');
    simulation.run(2_000);
    expect(waiting(simulation)).toMatch(/^slot 0 .*; slot 1 .*; slot 2 .*\(exited\); so do 6 more slots \(recycle/);
  });

  test('without surge it waits until nothing of that worker is left, even if another slot is free', () => {
    const simulation = up(pool);
    const [first, second] = simulation.ready();
    simulation.process(first).counters.inFlight = 1;
    simulation.apply({ type: 'recycle-worker', workerId: first?.id ?? '' });
    expect(inSlot(simulation, 0)).toMatchObject([{ phase: 'draining' }]);
    expect(waiting(simulation)).toBe(
      `slot 0 waits until nothing is left of ${first?.id} (draining) (recycle.max_surge: 0)`,
    );
    simulation.die(simulation.process(second), 'SIGSEGV');
    simulation.run(1_000);
    expect(inSlot(simulation, 0)).toMatchObject([{ id: first?.id, phase: 'draining' }]);
    expect(inSlot(simulation, 1)).toMatchObject([{ generation: 2 }]);
    simulation.process(first).counters.inFlight = 0;
    simulation.apply({ type: 'idle', workerId: first?.id ?? '' });
    expect(simulation.run(5_000, () => simulation.ready().length === 2)).toBe(true);
    expect(waiting(simulation)).toBe('');
  });

  test('without surge it waits until processes that the worker forked have ended', () => {
    const simulation = up(pool);
    const [first, second] = simulation.ready();
    change(simulation, first, { sweepMs: 8_000 });
    simulation.die(simulation.process(first), 'SIGSEGV');
    simulation.die(simulation.process(second), 'SIGSEGV');
    simulation.run(5_000);
    expect(inSlot(simulation, 0)).toMatchObject([{ id: first?.id, phase: 'exited' }]);
    expect(inSlot(simulation, 1)).toMatchObject([{ phase: 'ready', generation: 2 }]);
    expect(simulation.run(10_000, () => simulation.ready().length === 2)).toBe(true);
  });

  test("without surge it waits for the leftovers of an earlier agent's worker", () => {
    const simulation = new Simulation();
    const leftovers = [{ workerId: 'p-0-leftover', pool: 'p', slot: 0, generation: 1 }];
    simulation.apply({ type: 'config', config: nodeConfig(pool) }, { type: 'adopt', workers: [], leftovers });
    simulation.run(9_000);
    expect(simulation.workers()).toMatchObject([{ slot: 1, phase: 'ready' }]);
    expect(waiting(simulation)).toContain('slot 0 waits until nothing is left of p-0-leftover (of an earlier agent)');
    simulation.apply({ type: 'leftover-swept', workerId: 'p-0-leftover' });
    expect(simulation.run(1_000, () => simulation.ready().length === 2)).toBe(true);
  });

  test('with surge a replacement runs beside the old worker, but never a third worker in the slot', () => {
    const simulation = up(poolConfig({ size: 2, recycle: base.recycle }));
    const [first] = simulation.ready();
    simulation.process(first).counters.inFlight = 1;
    simulation.apply({ type: 'recycle-worker', workerId: first?.id ?? '' });
    expect(simulation.run(5_000, () => inSlot(simulation, 0).length === 2)).toBe(true);
    expect(simulation.run(5_000, () => inSlot(simulation, 0)[0]?.phase === 'draining')).toBe(true);
    // The other slot backs off after two crashes, so the pool has room for one more worker.
    for (let crashes = 0; crashes < 2; crashes += 1) {
      expect(simulation.run(5_000, () => simulation.ready().length === 2)).toBe(true);
      simulation.die(simulation.process(simulation.ready().find(({ slot }) => slot === 1)));
      simulation.run(50);
    }
    const second = simulation.ready().find(({ slot }) => slot === 0);
    simulation.apply({ type: 'recycle-worker', workerId: second?.id ?? '' });
    simulation.run(300);
    expect(simulation.workers().map(({ id }) => id)).toEqual([first?.id, second?.id]);
  });
});
