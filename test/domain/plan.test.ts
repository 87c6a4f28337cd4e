import fc from 'fast-check';
import { expect, test } from 'vitest';
import { allKeys } from '../../src/config/all-keys.ts';
import { effects } from '../../src/config/keys.ts';
import { changedKeys, replacingKeys } from '../../src/domain/changed-keys.ts';
import type { NodeConfig, PoolConfig } from '../../src/domain/config.ts';
import type { PlanStep } from '../../src/domain/plan.ts';
import { planConfig } from '../../src/domain/plan.ts';
import { nodeConfig, poolConfig, Simulation } from './simulation.ts';

function running(config: NodeConfig): Simulation {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config });
  const isUp = () => [...config.pools.values()].every(({ name, size }) => simulation.ready(name).length === size);
  expect(simulation.run(60_000, isUp)).toBe(true);
  return simulation;
}

const planned = (simulation: Simulation, ...pools: PoolConfig[]) =>
  planConfig(simulation.state, nodeConfig(...pools), simulation.nowMs);

const kinds = (steps: readonly PlanStep[] | undefined) => steps?.map(({ kind, workers }) => [kind, workers]);

test('the same configuration changes nothing, also after an operator has scaled a pool', () => {
  const simulation = running(nodeConfig(poolConfig()));
  simulation.apply({ type: 'scale', pool: 'p', size: 3 });
  expect(planned(simulation, poolConfig())).toEqual({ pools: [], node: [] });
});

test('pools that come and go are named, with the workers that start and stop', () => {
  const simulation = running(nodeConfig(poolConfig({ name: 'old', size: 3 })));
  const { pools } = planned(simulation, poolConfig({ name: 'new', size: 2 }));
  expect(pools.map(({ pool, sizeNow, sizePlanned }) => [pool, sizeNow, sizePlanned])).toEqual([
    ['new', 0, 2],
    ['old', 3, 0],
  ]);
  expect(kinds(pools[0]?.steps)).toEqual([
    ['add', 0],
    ['start', 2],
  ]);
  expect(kinds(pools[1]?.steps)).toEqual([
    ['remove', 0],
    ['stop', 3],
  ]);
});

test('a key that reaches the process replaces the workers, and others only take effect', () => {
  const simulation = running(nodeConfig(poolConfig()));
  const drain = { timeoutMs: 1, killAfterMs: 1 };
  const [pool] = planned(simulation, poolConfig({ env: { A: '1' }, size: 1, drain })).pools;
  expect(kinds(pool?.steps)).toEqual([
    ['scale', 0],
    ['stop', 1],
    ['replace', 1],
    ['configure', 0],
  ]);
  expect(pool?.steps.map(({ why }) => why).slice(2)).toEqual([
    'env: as recycle.max_surge allows',
    'drain.timeout, drain.kill_after',
  ]);
});

test('a plan leaves the state as it was', () => {
  const simulation = running(nodeConfig(poolConfig()));
  const before = structuredClone(simulation.state);
  planned(simulation, poolConfig({ size: 9, app: 'other:app' }));
  expect(simulation.state).toEqual(before);
});

const anyPool = (name: string) =>
  fc
    .option(
      fc.record({
        size: fc.nat({ max: 4 }),
        app: fc.constantFrom('a:app', 'b:app'),
        concurrency: fc.constantFrom(1, 2),
        orphanTimeoutMs: fc.constantFrom(60_000, 90_000),
      }),
      { nil: undefined },
    )
    .map((patch) => (patch === undefined ? [] : [poolConfig({ name, ...patch })]));
const anyNode = fc.tuple(anyPool('p'), anyPool('q')).map((pools) => pools.flat());

test('a reload starts, stops and replaces as many workers of each pool as its plan says', () => {
  fc.assert(
    fc.property(anyNode, anyNode, (before, after) => {
      const simulation = running(nodeConfig(...before));
      const known = new Set(simulation.state.workers.keys());
      const { pools } = planned(simulation, ...after);
      simulation.apply({ type: 'config', config: nodeConfig(...after) });
      simulation.run(120_000);
      for (const name of ['p', 'q']) {
        const steps = pools.find(({ pool }) => pool === name)?.steps ?? [];
        const count = (kind: PlanStep['kind']) =>
          steps.reduce((sum, step) => sum + (step.kind === kind ? step.workers : 0), 0);
        const started = simulation.workers(name).filter(({ id }) => !known.has(id)).length;
        const ended = before.find((pool) => pool.name === name)?.size ?? 0;
        const stayed = simulation.workers(name).length - started;
        expect(started, `started in ${name}`).toBe(count('start') + count('replace'));
        expect(ended - stayed, `ended in ${name}`).toBe(count('stop') + count('replace'));
      }
    }),
    { numRuns: 30 },
  );
});

/** Changes every value of a configuration. */
function another(value: unknown): unknown {
  if (typeof value === 'number') return value + 1;
  if (typeof value === 'string') return `${value}x`;
  if (value === null) return 'x';
  return Object.fromEntries(Object.entries(value as object).map(([key, inner]) => [key, another(inner)]));
}

const poolKeys = allKeys().filter(({ path }) => path[0] === 'pools');
const nameOf = ({ path }: (typeof poolKeys)[number]) => path.slice(2).join('.');

test('changed keys are named as in the configuration file', () => {
  const before = { ...poolConfig(), env: { A: '1' } };
  const after = { ...(another(before) as PoolConfig), name: before.name, env: { A: '2' } };
  const named = changedKeys(before, after);
  const known = poolKeys.map(nameOf);
  expect(named.filter((key) => !known.includes(key))).toEqual([]);
  expect(named.length).toBeGreaterThan(30);
});

test('the keys that replace workers are those of which the reference says so', () => {
  const replacing = poolKeys.filter(({ takesEffect }) => takesEffect === effects.replacing).map(nameOf);
  expect([...replacingKeys].sort()).toEqual(replacing.sort());
});
