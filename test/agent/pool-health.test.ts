import { expect, test, vi } from 'vitest';
import { healthReporter, poolHealth } from '../../src/agent/pool-health.ts';
import type { Changes } from '../../src/domain/action.ts';
import type { NodeStatus, Pool, State, Worker } from '../../src/domain/state.ts';
import { initialState, newWorker } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import type { ReportedHealth } from '../../src/grpc/api.ts';
import { nodeConfig, poolConfig, Simulation } from '../domain/simulation.ts';

const serves: Partial<Worker> = { phase: 'ready', attached: true, health: 'well' };

/** A node with pools that each have one worker. */
function stateOf(...names: string[]): State {
  const pools = names.map((name) => poolConfig({ name, size: 1 }));
  const facts = { nowMs: 0, random: () => 0, counters: () => undefined, queued: () => 0 };
  const { state } = step(initialState(), [{ type: 'config', config: nodeConfig(...pools) }], facts);
  return withWorkers(state, ...names.map((pool) => workerOf(pool)));
}

function workerOf(pool: string, patch: Partial<Worker> = serves, id = `${pool}-0`): Worker {
  const born = { id, pool, slot: 0, generation: 1, fingerprint: '', launch: '', startedAtMs: 0, concurrency: 1 };
  const worker = newWorker({ ...born, limits: { maxAgeMs: 0, maxRequests: 0 }, deadlineMs: 0, warmUp: null });
  return { ...worker, ...patch };
}

function withWorkers(state: State, ...workers: Worker[]): State {
  return { ...state, workers: new Map(workers.map((worker) => [worker.id, worker])) };
}

function withPool(state: State, patch: Partial<Pool>): State {
  const pool = state.pools.get('p');
  if (pool === undefined) throw new Error('expected a pool p');
  return { ...state, pools: new Map([['p', { ...pool, ...patch }]]) };
}

test.each<[expected: string, why: string, worker: Partial<Worker>, pool?: Partial<Pool>]>([
  ['SERVING', 'its worker is ready', {}],
  ['SERVING', 'its worker answers pings slowly', { health: 'slow' }],
  ['SERVING', 'its worker waits for its replacement', { due: { reason: 'ttl', atMs: 0, mostPressing: 'ttl' } }],
  ['SERVING', 'it is quarantined, and its worker runs the last good config', {}, { quarantine: '3 starts failed' }],
  ['NOT_SERVING', 'it is quarantined, and its worker is starting', { phase: 'starting' }, { quarantine: 'failed' }],
  ['NOT_SERVING', 'its worker is starting', { phase: 'starting', attached: false, health: 'unknown' }],
  ['NOT_SERVING', 'its worker warms up', { phase: 'starting' }],
  ['NOT_SERVING', 'its worker has lost its link', { attached: false }],
  ['NOT_SERVING', 'its worker is busy, and is sent no requests', { health: 'busy' }],
  ['NOT_SERVING', 'its worker hangs', { health: 'hung' }],
  ['NOT_SERVING', 'its worker drains', { phase: 'draining' }],
  ['NOT_SERVING', 'its worker stops', { phase: 'stopping' }],
  ['NOT_SERVING', 'its worker has exited', { phase: 'exited' }],
  ['NOT_SERVING', 'its only ready worker is of another pool', { pool: 'q' }],
  ['NOT_SERVING', 'it takes no requests', {}, { open: false, closedBecause: 'is draining' }],
])('a pool is %s while %s', (expected, _, worker, pool = {}) => {
  const state = withPool(withWorkers(stateOf('p'), workerOf('p', { ...serves, ...worker })), pool);
  expect(poolHealth(state, ['p'])).toEqual(new Map([['p', expected]]));
});

test('one worker that takes requests is enough, whatever the others do', () => {
  const busy = workerOf('p', { ...serves, health: 'busy' }, 'p-0');
  const state = withWorkers(
    stateOf('p'),
    busy,
    workerOf('p', serves, 'p-1'),
    workerOf('p', { phase: 'exited' }, 'p-2'),
  );
  expect(poolHealth(state, ['p'])).toEqual(new Map([['p', 'SERVING']]));
});

test('only the pools that are asked for are assessed, and pools that the node lacks have no health', () => {
  const state = stateOf('p', 'q');
  expect(poolHealth(state, ['q', 'nobody', '__proto__'])).toEqual(new Map([['q', 'SERVING']]));
  expect(poolHealth(state, [])).toEqual(new Map());
});

function reports() {
  const reported: string[] = [];
  const health: ReportedHealth = {
    setNode: (status) => reported.push(`node ${status}`),
    setPool: (pool, status) => reported.push(`${pool} ${status}`),
    removePool: (pool) => reported.push(`${pool} removed`),
    leave: () => undefined,
  };
  return { health, take: () => reported.splice(0) };
}

const nothing: Changes = { revision: 1, workers: [], workersGone: [], pools: [], poolsGone: [], node: false };

test('a step reports the pools that it changed, and all pools if it changed the phase of the node', () => {
  let state = stateOf('p', 'q');
  const { health, take } = reports();
  const report = healthReporter(health, () => state);
  report({ ...nothing, pools: ['q'] }, []);
  expect(take()).toEqual(['q SERVING']);
  // Another worker of the node became ready.
  report({ ...nothing, node: true }, []);
  expect(take()).toEqual([]);
  report({ ...nothing, poolsGone: ['q'] }, []);
  expect(take()).toEqual(['q removed']);
  const inPhase = (phase: NodeStatus['phase']): State => ({ ...state, node: { ...state.node, phase } });
  state = inPhase('draining');
  report({ ...nothing, node: true }, []);
  expect(take()).toEqual(['node NOT_SERVING', 'p SERVING', 'q SERVING']);
  state = inPhase('running');
  report({ ...nothing, node: true }, []);
  expect(take()).toEqual(['node SERVING', 'p SERVING', 'q SERVING']);
});

test('a step that changed no pool looks at no worker', () => {
  const state = stateOf('p');
  const looks = vi.spyOn(state.workers as Map<string, Worker>, 'values');
  const report = healthReporter(reports().health, () => state);
  report({ ...nothing, node: true }, []);
  expect(looks).not.toHaveBeenCalled();
  report({ ...nothing, pools: ['p'] }, []);
  expect(looks).toHaveBeenCalledOnce();
});

test('what is reported after every step is what a look at all pools says', () => {
  const simulation = new Simulation();
  const known = new Map<string, string>();
  const report = healthReporter(
    {
      setNode: () => undefined,
      setPool: (pool, status) => known.set(pool, status),
      removePool: (pool) => known.delete(pool),
      leave: () => undefined,
    },
    () => simulation.state,
  );
  let seen = 0;
  const history: string[] = [];
  const settle = (): void => {
    for (const action of simulation.actions.slice(seen)) if (action.type === 'publish') report(action.changes, []);
    seen = simulation.actions.length;
    expect(known).toEqual(poolHealth(simulation.state, simulation.state.pools.keys()));
    const now = known.get('p') ?? 'unknown';
    if (history.at(-1) !== now) history.push(now);
  };
  const pass = (ms: number): void => {
    for (let at = 0; at < ms; at += 5) {
      simulation.run(5);
      settle();
    }
  };
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig(), poolConfig({ name: 'q' })) });
  pass(2_000);
  expect(known).toEqual(
    new Map([
      ['p', 'SERVING'],
      ['q', 'SERVING'],
    ]),
  );
  simulation.apply({ type: 'drain-pool', pool: 'p' });
  pass(500);
  simulation.apply({ type: 'resume-pool', pool: 'p' });
  pass(500);
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ name: 'q' })) });
  pass(2_000);
  simulation.apply({ type: 'shutdown', how: 'drain' });
  pass(2_000);
  expect(history).toEqual(['NOT_SERVING', 'SERVING', 'NOT_SERVING', 'SERVING', 'NOT_SERVING', 'unknown']);
});
