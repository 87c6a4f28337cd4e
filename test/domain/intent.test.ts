import { expect, test } from 'vitest';
import type { PoolConfig } from '../../src/domain/config.ts';
import { judgeIntent, nodeDrift, poolDrift } from '../../src/domain/intent.ts';
import { planIntent } from '../../src/domain/plan.ts';
import type { Intent, PoolIntent } from '../../src/domain/state.ts';
import { nodeConfig, poolConfig, Simulation } from './simulation.ts';

const p = (size: number, drained = false): PoolIntent => ({ pool: 'p', size, drained });
const q = (size: number, drained = false): PoolIntent => ({ pool: 'q', size, drained });

const intentOf = (patch: Partial<Intent> = {}): Intent => ({
  ...{ clusterUid: 'c', epoch: 5, generation: 5, controller: 'r1', released: false, drained: false, pools: [p(3)] },
  ...patch,
});

function scene(...pools: PoolConfig[]): Simulation {
  const simulation = new Simulation();
  const given = pools.length > 0 ? pools : [poolConfig({ size: 2 }), poolConfig({ name: 'q', size: 2 })];
  simulation.apply({ type: 'config', config: nodeConfig(...given) });
  simulation.run(10_000);
  return simulation;
}

const set = (simulation: Simulation, intent: Intent) => simulation.apply({ type: 'set-intent', intent });
const poolOf = (simulation: Simulation, name = 'p') => {
  const pool = simulation.state.pools.get(name);
  if (pool === undefined) throw new Error(`no pool ${name}`);
  return pool;
};
const driftOf = (simulation: Simulation, name = 'p') => poolDrift(simulation.state, poolOf(simulation, name));

test.each<[string, Partial<Intent>, string, RegExp]>([
  ['a lower epoch', { epoch: 4, generation: 9 }, 'outdated', /^epoch: expected at least 5, got 4; applied is epoch 5/],
  ['a lower generation', { generation: 4 }, 'outdated', /^generation: expected at least 5 in epoch 5, got 4/],
  ['the same generation', {}, 'same', /^$/],
  ['the same generation by another replica', { controller: 'r2' }, 'same', /^$/],
  ['the same generation with another size', { pools: [p(4)] }, 'outdated', /more than 5 in epoch 5 for other content/],
  ['the same generation, drained', { drained: true }, 'outdated', /more than 5 in epoch 5 for other content/],
  ['a higher generation', { generation: 6, pools: [] }, 'new', /^$/],
  ['a higher epoch with a lower generation', { epoch: 6, generation: 1 }, 'new', /^$/],
  [
    'another cluster',
    { clusterUid: 'd', epoch: 9 },
    'outdated',
    /^cluster_uid: expected c, .*until ReleaseNode, got d/,
  ],
  [
    'unknown pools',
    { generation: 6, pools: [p(1), { ...p(1), pool: 'x' }] },
    'unknown-pools',
    /\(p, q\), got "x"; noth/,
  ],
])('%s is judged by the intent in force', (_, patch, kind, message) => {
  const simulation = scene();
  set(simulation, intentOf());
  const verdict = judgeIntent(simulation.state, intentOf(patch));
  expect(verdict.kind).toBe(kind);
  expect('message' in verdict ? verdict.message : '').toMatch(message);
});

test('after a release another cluster may manage the node, and what was outdated stays so', () => {
  const simulation = scene();
  set(simulation, intentOf());
  simulation.apply({ type: 'release-intent', by: 'an operator' });
  const kindOf = (patch: Partial<Intent>) => judgeIntent(simulation.state, intentOf(patch)).kind;
  expect(kindOf({ clusterUid: 'd', epoch: 1, generation: 1 })).toBe('new');
  expect(kindOf({ epoch: 4 })).toBe('outdated');
  expect(kindOf({})).toBe('outdated');
  expect(kindOf({ generation: 6 })).toBe('new');
  expect(poolOf(simulation).size).toBe(3);
});

test('an intent sets size and admission of the pools that it names, and the configuration those of the others', () => {
  const simulation = scene();
  simulation.apply({ type: 'scale', pool: 'q', size: 7 }, { type: 'drain-pool', pool: 'q' });
  const intent = intentOf({ pools: [p(1, true)], drained: true });
  const { pools, node } = planIntent(simulation.state, intent, simulation.nowMs);
  set(simulation, intent);
  expect(poolOf(simulation)).toMatchObject({ size: 1, phase: 'draining' });
  expect(poolOf(simulation, 'q')).toMatchObject({ size: 2, phase: 'running' });
  expect(simulation.state.node.phase).toBe('draining');
  expect(pools.map(({ pool, steps }) => [pool, steps.map(({ kind }) => kind)])).toEqual([
    ['p', ['scale', 'stop', 'drain']],
    ['q', ['scale', 'stop', 'resume']],
  ]);
  expect(node.map(({ kind }) => kind)).toEqual(['drain']);
  expect(simulation.kinds()).toContain('intent_applied');
});

test('what is forced shows as drift until the next intent', () => {
  const simulation = scene();
  set(simulation, intentOf());
  expect(driftOf(simulation)).toBe('');
  simulation.apply({ type: 'scale', pool: 'p', size: 1 }, { type: 'drain-pool', pool: 'p' }, { type: 'drain-node' });
  expect(driftOf(simulation)).toBe('size 1 instead of 3, drained instead of open');
  expect(nodeDrift(simulation.state)).toBe('drained instead of open');
  set(simulation, intentOf({ generation: 6 }));
  expect([driftOf(simulation), nodeDrift(simulation.state)]).toEqual(['', '']);
});

test('a reload of the configuration leaves sizes and admission as intended', () => {
  const simulation = scene();
  set(simulation, intentOf({ pools: [p(3, true)] }));
  const reload = (...pools: PoolConfig[]) => simulation.apply({ type: 'config', config: nodeConfig(...pools) });
  reload(poolConfig({ size: 9 }), poolConfig({ name: 'q', size: 4 }));
  expect(poolOf(simulation)).toMatchObject({ size: 3, phase: 'draining' });
  expect(poolOf(simulation, 'q').size).toBe(4);
  // The pool goes, and comes back before and after its last worker is gone.
  reload(poolConfig({ name: 'q', size: 4 }));
  expect(nodeDrift(simulation.state)).toBe('not in the configuration: p');
  reload(poolConfig({ size: 8 }), poolConfig({ name: 'q', size: 4 }));
  expect(poolOf(simulation)).toMatchObject({ size: 3, phase: 'draining' });
  reload(poolConfig({ name: 'q', size: 4 }));
  simulation.run(60_000);
  reload(poolConfig({ size: 8 }), poolConfig({ name: 'q', size: 4 }));
  expect(poolOf(simulation)).toMatchObject({ size: 3, phase: 'draining' });
  expect(driftOf(simulation)).toBe('');
});

test('the next agent goes on with the intent, whatever of the orders was written, and with what was forced since', () => {
  const simulation = scene();
  set(simulation, intentOf({ pools: [p(3, true), q(1)] }));
  simulation.restart();
  expect([poolOf(simulation).size, poolOf(simulation).phase, poolOf(simulation, 'q').size]).toEqual([3, 'draining', 1]);
  // Forced, also to what the configuration says.
  simulation.apply({ type: 'scale', pool: 'p', size: 2 }, { type: 'resume-pool', pool: 'p' }, { type: 'drain-node' });
  simulation.restart();
  expect(driftOf(simulation)).toBe('size 2 instead of 3, open instead of drained');
  expect(nodeDrift(simulation.state)).toBe('drained instead of open');
  // The intent is stored, and its agent dies before its orders are.
  simulation.diskHangs = true;
  set(simulation, intentOf({ generation: 6, pools: [p(4)] }));
  simulation.restart();
  simulation.diskHangs = false;
  expect([driftOf(simulation), driftOf(simulation, 'q'), nodeDrift(simulation.state)]).toEqual(['', '', '']);
  expect(poolOf(simulation)).toMatchObject({ size: 4, phase: 'running' });
});

test('an agent that was stopped in between leaves no orders, and the next one acts on the intent alone', () => {
  const simulation = scene();
  const intent = intentOf({ pools: [p(4, true)], drained: true });
  simulation.apply({ type: 'recall-intent', intent, orders: null });
  expect(poolOf(simulation)).toMatchObject({ size: 4, phase: 'draining' });
  expect(simulation.state.node).toMatchObject({ phase: 'draining', intent });
});

test('a release ends the drift of pools, and watchers learn it', () => {
  const simulation = scene();
  set(simulation, intentOf());
  simulation.apply({ type: 'scale', pool: 'p', size: 1 });
  simulation.apply({ type: 'release-intent', by: 'an operator' });
  const changes = simulation.actions.findLast((action) => action.type === 'publish');
  expect(changes).toMatchObject({ changes: { pools: ['p'], node: true } });
  expect(driftOf(simulation)).toBe('');
  simulation.restart();
  expect(simulation.state.node.intent?.released).toBe(true);
  expect(poolOf(simulation).size).toBe(1);
});
