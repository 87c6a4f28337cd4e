import { describe, expect, test } from 'vitest';
import type { PoolConfig } from '../../src/domain/config.ts';
import { rollProgress } from '../../src/domain/roll.ts';
import { healthy, nodeConfig, poolConfig, Simulation } from './simulation.ts';

const base = poolConfig();
const never = Number.POSITIVE_INFINITY;

function up(pool: PoolConfig): Simulation {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: nodeConfig(pool) });
  expect(simulation.run(10_000, () => simulation.ready().length === pool.size)).toBe(true);
  return simulation;
}

function rollOf(simulation: Simulation) {
  const roll = simulation.state.pools.get('p')?.roll;
  if (roll == null) throw new Error('expected a roll, got none');
  return roll;
}

const progressOf = (simulation: Simulation) => rollProgress(rollOf(simulation), simulation.state.workers.values());
const ids = (simulation: Simulation) => simulation.workers().map(({ id }) => id);
const begin = (simulation: Simulation) => simulation.apply({ type: 'roll', pool: 'p', maxFailures: 3 });
const isDone = (simulation: Simulation) => () => rollOf(simulation).phase === 'done';
const exits = (simulation: Simulation) =>
  simulation.actions.flatMap((action) => (action.type === 'keep-exit' ? [action.exit] : []));

const shapes: [string, Partial<PoolConfig['recycle']>][] = [
  ['a surge of one', { maxSurge: 1, maxUnavailable: 0 }],
  ['a surge of two', { maxSurge: 2, maxUnavailable: 1 }],
  ['no surge', { maxSurge: 0, maxUnavailable: 1 }],
];

describe('a roll continues under the next agent, whenever its own is killed, and replaces each old worker once', () => {
  test.each(shapes)('with %s', (_, recycle) => {
    for (let killedAfterMs = 0; killedAfterMs <= 1_500; killedAfterMs += 50) {
      const simulation = up(poolConfig({ size: 3, recycle: { ...base.recycle, ...recycle } }));
      for (const worker of simulation.ready()) Object.assign(simulation.process(worker).behaviour, { stopMs: 150 });
      const old = ids(simulation);
      begin(simulation);
      const { id } = rollOf(simulation);
      simulation.run(killedAfterMs);
      simulation.restart();
      expect(simulation.run(30_000, isDone(simulation)), `killed after ${killedAfterMs} ms`).toBe(true);
      expect(rollOf(simulation)).toMatchObject({ id, total: 3, message: '3 workers replaced' });
      expect(progressOf(simulation)).toMatchObject({ total: 3, replaced: 3, replacing: 0, failures: 0 });
      simulation.run(5_000);
      expect(ids(simulation).filter((each) => old.includes(each))).toEqual([]);
      // Three of the first config, and one replacement for each.
      expect(simulation.actions.filter(({ type }) => type === 'spawn')).toHaveLength(6);
      expect(exits(simulation).filter(({ reason }) => reason !== 'roll')).toEqual([]);
    }
  });
});

test('a roll survives several crashes of the agent', () => {
  const simulation = up(poolConfig({ size: 4 }));
  begin(simulation);
  const { id } = rollOf(simulation);
  for (let agent = 0; agent < 10; agent += 1) {
    simulation.run(170);
    simulation.restart();
  }
  expect(simulation.run(30_000, isDone(simulation))).toBe(true);
  expect(rollOf(simulation)).toMatchObject({ id, total: 4 });
});

test('a paused roll stays paused under the next agent until it is resumed', () => {
  const simulation = up(poolConfig({ size: 2 }));
  begin(simulation);
  simulation.apply({ type: 'pause-roll', pool: 'p' });
  simulation.restart();
  simulation.run(60_000);
  expect(progressOf(simulation)).toMatchObject({ phase: 'paused', replaced: 1, replacing: 0 });
  simulation.apply({ type: 'resume-roll', pool: 'p' });
  expect(simulation.run(10_000, isDone(simulation))).toBe(true);
});

test('the next agent knows how a roll ended, and replaces nothing for it', () => {
  const simulation = up(poolConfig({ size: 3 }));
  begin(simulation);
  simulation.run(1);
  simulation.apply({ type: 'abort-roll', pool: 'p' });
  simulation.restart();
  simulation.run(60_000);
  expect(progressOf(simulation)).toEqual({
    ...{ phase: 'aborted', message: 'requested by an operator', failures: 0 },
    ...{ total: 3, replaced: 1, replacing: 0 },
  });
  expect(simulation.ready().filter(({ generation }) => generation === 1)).toHaveLength(2);
  expect(exits(simulation).map(({ reason }) => reason)).toEqual(['roll']);
});

test('failed replacements are counted across agents', () => {
  const simulation = up(poolConfig({ size: 2, start: { ...base.start, timeoutMs: 400 } }));
  simulation.behaviour = { ...healthy, attachMs: never };
  begin(simulation);
  expect(simulation.run(10_000, () => rollOf(simulation).failures === 2)).toBe(true);
  simulation.restart();
  expect(simulation.run(20_000, () => rollOf(simulation).phase === 'failed')).toBe(true);
  expect(rollOf(simulation)).toMatchObject({ failures: 3, message: expect.stringMatching(/^3 replacements failed/) });
});

test('workers that died while no agent ran count as replaced', () => {
  const simulation = up(poolConfig({ size: 2 }));
  begin(simulation);
  for (const process of simulation.processes.values()) process.alive = false;
  simulation.restart();
  expect(simulation.run(10_000, isDone(simulation))).toBe(true);
  expect(progressOf(simulation)).toMatchObject({ total: 2, replaced: 2, replacing: 0, failures: 0 });
});

test('a roll that ends because its agent shuts down is not recorded as ended', () => {
  const simulation = up(poolConfig({ size: 2 }));
  begin(simulation);
  simulation.apply({ type: 'shutdown', how: 'drain' });
  expect(rollOf(simulation)).toMatchObject({ phase: 'aborted', message: 'the agent stops' });
  const noted = simulation.actions.flatMap((action) => (action.type === 'note-orders' ? [action.orders] : [])).at(-1);
  expect(noted?.pools[0]?.roll?.phase).toBe('running');
});

test('a roll is done when its old workers have exited, and counts each of them once', () => {
  const simulation = up(poolConfig({ size: 1 }));
  const [old] = simulation.ready();
  simulation.process(old).counters.inFlight = 1;
  begin(simulation);
  expect(progressOf(simulation)).toMatchObject({ replaced: 0, replacing: 1 });
  expect(simulation.run(5_000, () => simulation.ready()[0]?.generation === 2)).toBe(true);
  expect(progressOf(simulation)).toMatchObject({ phase: 'running', replaced: 0, replacing: 1 });
  simulation.process(old).counters.inFlight = 0;
  simulation.apply({ type: 'idle', workerId: old?.id ?? '' });
  expect(simulation.run(5_000, isDone(simulation))).toBe(true);
  expect(progressOf(simulation)).toMatchObject({ total: 1, replaced: 1, replacing: 0 });
});

test('the counts of a roll that ended early do not change when its other workers exit later', () => {
  const simulation = up(poolConfig({ size: 3 }));
  begin(simulation);
  expect(simulation.run(5_000, () => progressOf(simulation).replaced === 1)).toBe(true);
  simulation.apply({ type: 'abort-roll', pool: 'p' });
  const { replaced, replacing } = progressOf(simulation);
  simulation.run(10_000);
  expect(progressOf(simulation)).toMatchObject({ replaced: replaced + replacing, replacing: 0 });
  for (const worker of simulation.ready()) simulation.die(simulation.process(worker));
  simulation.run(10_000);
  expect(progressOf(simulation)).toMatchObject({ total: 3, replaced: replaced + replacing, replacing: 0 });
});
