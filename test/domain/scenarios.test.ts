import { describe, expect, test } from 'vitest';
import type { NodeConfig, PoolConfig } from '../../src/domain/config.ts';
import { rollProgress } from '../../src/domain/roll.ts';
import { healthy, nodeConfig, poolConfig, Simulation } from './simulation.ts';

const never = Number.POSITIVE_INFINITY;
const base = poolConfig();
const recycling = (patch: Partial<PoolConfig['recycle']>, more: Partial<PoolConfig> = {}) =>
  poolConfig({ recycle: { ...base.recycle, ...patch }, ...more });

/** A simulation in which all workers of the pool are ready. */
function up(pool: PoolConfig, config: NodeConfig = nodeConfig(pool)): Simulation {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config });
  expect(simulation.run(10_000, () => simulation.ready(pool.name).length === pool.size)).toBe(true);
  return simulation;
}

const count = (simulation: Simulation, type: string) =>
  simulation.actions.filter((action) => action.type === type).length;

describe('starting workers:', () => {
  test('at most start.parallel start at once, and the next one starts when one is ready', () => {
    const simulation = new Simulation();
    simulation.apply({
      type: 'config',
      config: nodeConfig(poolConfig({ size: 5, start: { ...base.start, parallel: 2 } })),
    });
    expect(simulation.workers().map((worker) => worker.phase)).toEqual(['starting', 'starting']);
    simulation.run(201);
    expect(simulation.ready()).toHaveLength(2);
    expect(simulation.workers()).toHaveLength(4);
    expect(simulation.run(5_000, () => simulation.ready().length === 5)).toBe(true);
  });

  test('a worker that does not attach in time is killed, and its slot backs off', () => {
    const simulation = new Simulation();
    simulation.behaviour = { ...healthy, attachMs: never };
    simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 1 })) });
    simulation.run(5_100);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'start_timeout' }));
    const why = 'not ready within 5 s (start.timeout): its import or a start hook has not ended';
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'kill', inspectBecause: why }));
    expect(simulation.state.pools.get('p')?.lastFailure?.message).toMatch(
      /: ended by SIGKILL: not ready within 5 s .*; its last lines:\nthe end$/,
    );
    expect(simulation.workers()).toHaveLength(0);
    simulation.behaviour = { ...healthy };
    expect(simulation.run(1_000, () => simulation.ready().length === 1)).toBe(true);
  });

  test("the message of an exit contains the worker's last lines, up to the newest 4 Ki characters", () => {
    const simulation = up(poolConfig({ size: 1 }));
    const [process] = simulation.processes.values();
    if (process === undefined) throw new Error('expected a process');
    simulation.die(process, 'SIGSEGV', [...Array.from({ length: 19 }, () => 'x'.repeat(8_192)), 'the newest line']);
    simulation.run(100);
    const message = simulation.state.pools.get('p')?.lastFailure?.message ?? '';
    expect(message).toMatch(/: ended by SIGSEGV.*; its last lines:\n…x+\nthe newest line$/s);
    expect(message.length).toBeLessThan(4_300);
  });

  test('the message of an exit says where the worker crashed or hung', () => {
    const simulation = up(poolConfig({ size: 1 }));
    const { workerId } = simulation.process(simulation.ready()[0]);
    const exit = { code: null, signal: 'SIGSEGV' };
    simulation.apply({ type: 'exited', workerId, exit, lastLines: [], place: 'f (/app.py, line 3)' });
    expect(simulation.state.pools.get('p')?.lastFailure?.message).toMatch(
      /: ended by SIGSEGV, in f \(\/app.py, line 3\)$/,
    );
  });

  test('a shortage of the host counts as no failure; starts are retried every 5 s, and it is reported once', () => {
    const simulation = up(poolConfig({ size: 2 }));
    simulation.behaviour = { ...healthy, shortage: 'all file descriptors are in use' };
    simulation.die(simulation.process(simulation.ready()[0]));
    simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 2, env: { CHANGED: '1' } })) });
    const spawns = count(simulation, 'spawn');
    simulation.run(60_000);
    expect(count(simulation, 'spawn') - spawns).toBeLessThanOrEqual(13);
    expect(simulation.kinds().filter((kind) => kind === 'starts_blocked')).toHaveLength(1);
    expect(simulation.state.node.blockedStarts.because).toBe('all file descriptors are in use');
    expect(simulation.state.pools.get('p')?.quarantine).toBe('');
    expect(simulation.ready()).toHaveLength(1);
    simulation.behaviour = { ...healthy };
    expect(simulation.run(10_000, () => simulation.ready().length === 2)).toBe(true);
    expect(simulation.kinds()).toContain('starts_resumed');
  });

  test('a slot whose starts fail does not delay other slots', () => {
    const simulation = up(poolConfig({ size: 2 }));
    simulation.behaviour = { ...healthy, spawnMs: never };
    simulation.die(simulation.process(simulation.ready()[0]));
    simulation.run(20_000);
    expect(simulation.ready().map((worker) => worker.slot)).toEqual([1]);
    expect(simulation.kinds().filter((kind) => kind === 'slot_backing_off').length).toBeGreaterThan(3);
    expect(simulation.ready()[0]?.generation).toBe(1);
  });
});

describe('a crash at import', () => {
  // The defaults of restart.backoff, with a crash half a second after each spawn, the time that Python needs.
  const pool = poolConfig({
    size: 2,
    restart: { backoffMinMs: 500, backoffMaxMs: 30_000, resetAfterMs: 30_000, quarantineAfter: 3 },
  });

  test('costs fewer than 15 spawns per slot in 60 s', () => {
    const simulation = new Simulation();
    simulation.behaviour = { ...healthy, attachMs: never };
    simulation.apply({ type: 'config', config: nodeConfig(pool) });
    const endsAtMs = simulation.nowMs + 60_000;
    const spawned = () => simulation.workers().some((worker) => worker.pid > 0);
    while (simulation.run(endsAtMs - simulation.nowMs, spawned)) {
      simulation.run(500);
      for (const worker of simulation.workers()) if (worker.pid > 0) simulation.die(simulation.process(worker), null);
      simulation.run(10);
    }
    expect(simulation.nowMs).toBeGreaterThanOrEqual(endsAtMs);
    for (const slot of [0, 1]) {
      const spawns = simulation.actions.filter(
        (action) => action.type === 'spawn' && action.worker.slot === slot,
      ).length;
      expect(spawns).toBeGreaterThanOrEqual(5);
      expect(spawns).toBeLessThan(15);
    }
  });
});

describe('replacing a worker:', () => {
  test('the old worker serves until the new one is ready, and then drains', () => {
    const simulation = up(recycling({ maxAgeMs: 5_000 }, { size: 1 }));
    const [old] = simulation.ready();
    simulation.process(old).counters.inFlight = 1;
    simulation.run(5_100, () => simulation.workers().length === 2);
    expect(simulation.workers().map(({ phase, generation }) => `${phase} ${generation}`)).toEqual([
      'ready 1',
      'starting 2',
    ]);
    simulation.run(1_000, () => simulation.workers()[0]?.phase !== 'ready');
    expect(simulation.workers().map(({ phase, generation }) => `${phase} ${generation}`)).toEqual([
      'draining 1',
      'ready 2',
    ]);
    expect(simulation.workers()[0]?.ending).toBe('ttl');
    simulation.process(old).counters.inFlight = 0;
    simulation.apply({ type: 'idle', workerId: old?.id ?? '' });
    simulation.run(1_000);
    expect(simulation.workers().map(({ generation }) => generation)).toEqual([2]);
  });

  test('the old worker stays while its replacements fail', () => {
    const simulation = up(recycling({ maxAgeMs: 5_000 }, { size: 1 }));
    simulation.behaviour = { ...healthy, spawnMs: never };
    simulation.run(30_000);
    expect(simulation.ready()).toMatchObject([{ generation: 1, due: { reason: 'ttl' } }]);
  });

  test('without surge at most max_unavailable slots are empty at a time', () => {
    const simulation = up(recycling({ maxAgeMs: 5_000, maxSurge: 0, maxUnavailable: 1 }, { size: 3 }));
    let least = 3;
    simulation.run(12_000, () => {
      least = Math.min(least, simulation.ready().length);
      expect(simulation.workers().length).toBeLessThanOrEqual(3);
      return simulation.ready().length === 3 && simulation.ready().every((worker) => worker.generation > 1);
    });
    expect(simulation.ready().every((worker) => worker.generation > 1)).toBe(true);
    expect(least).toBe(2);
  });

  test('workers that started together do not become due together', () => {
    const simulation = up(recycling({ maxAgeMs: 10_000, jitter: 0.5, maxSurge: 5 }, { size: 5 }));
    let most = 5;
    simulation.run(10_000, () => {
      most = Math.max(most, simulation.workers().length);
      return false;
    });
    expect(most).toBeLessThanOrEqual(7);
    expect(simulation.ready().every((worker) => worker.generation === 2)).toBe(true);
  });

  test('a config change that reaches the process replaces workers, and any other does not', () => {
    const pool = poolConfig({ size: 1 });
    const simulation = up(pool);
    simulation.apply({ type: 'config', config: nodeConfig({ ...pool, queue: { maxRequests: 3, maxBytes: 3 } }) });
    simulation.run(5_000);
    expect(simulation.ready()).toMatchObject([{ generation: 1, due: null }]);
    simulation.apply({ type: 'config', config: nodeConfig({ ...pool, env: { A: 'b' } }) });
    simulation.run(5_000);
    expect(simulation.ready()).toMatchObject([{ generation: 2 }]);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'config' }));
  });

  test('two samples over the soft limit replace a worker, and one over the hard limit kills it', () => {
    const simulation = up(recycling({ memory: { softBytes: 100, hardBytes: 1_000, samples: 2, of: 3 } }, { size: 1 }));
    const [first] = simulation.ready();
    simulation.process(first).behaviour.memoryBytes = 500;
    simulation.run(4_000, () => simulation.ready().some((worker) => worker.generation === 2));
    simulation.run(100);
    expect(simulation.actions).toContainEqual(
      expect.objectContaining({ type: 'release', workerId: first?.id, reason: 'memory' }),
    );
    const [second] = simulation.ready();
    simulation.process(second).behaviour.memoryBytes = 5_000;
    simulation.run(2_000);
    expect(simulation.actions).toContainEqual(
      expect.objectContaining({ type: 'release', workerId: second?.id, reason: 'memory_hard' }),
    );
  });
});

describe('planning replacements:', () => {
  test.each([
    { maxSurge: 1, maxUnavailable: 0 },
    { maxSurge: 0, maxUnavailable: 3 },
    { maxSurge: 2, maxUnavailable: 2 },
  ])('of 16 workers that started together no more than max_unavailable are ever missing: %o', (tokens) => {
    const pool = recycling(
      { maxAgeMs: 20_000, jitter: 0.2, ...tokens },
      { size: 16, start: { ...base.start, parallel: 16 } },
    );
    const simulation = up(pool);
    let least = 16;
    let most = 16;
    simulation.run(120_000, () => {
      least = Math.min(least, simulation.ready().length);
      most = Math.max(most, simulation.workers().length);
      return false;
    });
    expect(least).toBeGreaterThanOrEqual(16 - tokens.maxUnavailable);
    expect(most).toBeLessThanOrEqual(16 + tokens.maxSurge);
    expect(simulation.ready().every((worker) => worker.generation >= 5)).toBe(true);
  });

  test('with both max_surge and max_unavailable more workers are replaced at once than with one of them', () => {
    const times = [
      { maxSurge: 1, maxUnavailable: 0 },
      { maxSurge: 1, maxUnavailable: 2 },
    ].map((tokens) => {
      const simulation = up(recycling(tokens, { size: 6 }));
      simulation.apply({ type: 'roll', pool: 'p', maxFailures: 3 });
      const sinceMs = simulation.nowMs;
      expect(simulation.run(60_000, () => simulation.state.pools.get('p')?.roll?.phase === 'done')).toBe(true);
      return simulation.nowMs - sinceMs;
    });
    expect(times[1]).toBeLessThan((times[0] ?? 0) * 0.7);
  });

  test('the most pressing reason decides whose turn it is, and the first reason is reported', () => {
    const simulation = up(
      recycling({ maxAgeMs: 5_000, memory: { softBytes: 100, hardBytes: 0, samples: 2, of: 3 } }, { size: 3 }),
    );
    simulation.behaviour = { ...healthy, attachMs: 4_000 };
    simulation.run(6_000, () => simulation.ready().every((worker) => worker.due !== null));
    const last = simulation
      .ready()
      .find((worker) => simulation.workers().every((w) => w.slot !== worker.slot || w === worker));
    simulation.process(last).behaviour.memoryBytes = 500;
    simulation.run(3_000, () => simulation.state.workers.get(last?.id ?? '')?.due?.mostPressing === 'memory');
    expect(simulation.state.workers.get(last?.id ?? '')?.due?.reason).toBe('ttl');
    const first = simulation.workers().find((worker) => worker.phase === 'starting')?.slot;
    simulation.run(20_000, () => simulation.workers().some((w) => w.phase === 'starting' && w.slot !== first));
    expect(simulation.workers().find((w) => w.phase === 'starting')?.slot).toBe(last?.slot);
  });

  test('an idle worker is replaced if it has served, and stays if it never has', () => {
    const simulation = up(recycling({ maxIdleMs: 5_000 }, { size: 2 }));
    const [served] = simulation.ready();
    simulation.process(served).counters.lastEvidenceAtMs = simulation.nowMs;
    simulation.apply({ type: 'idle', workerId: served?.id ?? '' });
    simulation.run(20_000);
    expect(simulation.ready().map((worker) => worker.generation)).toEqual([2, 1]);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'idle' }));
  });

  test('a worker is ready only after its warm-up, and one whose warm-up fails is a failed start', () => {
    const pool = poolConfig({ size: 1, start: { ...base.start, warmUp: { command: 'c', payload: '[]' } } });
    const simulation = new Simulation();
    simulation.apply({ type: 'config', config: nodeConfig(pool) });
    simulation.run(210);
    expect(simulation.workers()).toMatchObject([{ phase: 'starting', attached: true }]);
    expect(count(simulation, 'admit')).toBe(0);
    simulation.run(100);
    expect(simulation.ready()).toHaveLength(1);
    simulation.behaviour = { ...healthy, warmUp: 'fails' };
    simulation.apply({ type: 'recycle-worker', workerId: simulation.ready()[0]?.id ?? '' });
    simulation.run(5_000);
    expect(simulation.ready()).toMatchObject([{ generation: 1 }]);
    expect(simulation.state.pools.get('p')?.lastFailure?.message).toContain('SIGKILL');
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'start_failed' }));
    simulation.behaviour = { ...healthy, warmUp: 'never' };
    simulation.run(20_000);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'start_timeout' }));
  });
});

describe('a changed config with which no worker becomes ready', () => {
  const changed = poolConfig({ size: 3, app: 'm:broken' });

  test('is abandoned for the last good one, which is used until the config changes again', () => {
    const simulation = up(poolConfig({ size: 3 }));
    simulation.behaviour = { ...healthy, spawnMs: never };
    simulation.apply({ type: 'config', config: nodeConfig(changed) });
    simulation.run(60_000);
    expect(simulation.kinds().filter((kind) => kind === 'pool_quarantined')).toHaveLength(1);
    expect(count(simulation, 'spawn')).toBe(3 + base.restart.quarantineAfter);
    expect(simulation.ready().map((worker) => worker.generation)).toEqual([1, 1, 1]);
    simulation.behaviour = { ...healthy };
    const [lost] = simulation.ready();
    simulation.die(simulation.process(lost));
    expect(simulation.run(20_000, () => simulation.ready().every((worker) => worker.id !== lost?.id))).toBe(true);
    expect(simulation.run(20_000, () => simulation.ready().length === 3)).toBe(true);
    const apps = simulation.actions.flatMap((action) => (action.type === 'spawn' ? [action.pool.app] : []));
    expect(apps.at(-1)).toBe('m:app');
    simulation.apply({ type: 'config', config: nodeConfig({ ...changed, app: 'm:mended' }) });
    simulation.run(60_000);
    expect(simulation.state.pools.get('p')?.quarantine).toBe('');
    const mended = simulation.state.pools.get('p')?.fingerprint;
    expect(simulation.ready().map((worker) => worker.fingerprint === mended)).toEqual([true, true, true]);
  });

  test('without surge costs at most max_unavailable workers', () => {
    const tokens = { recycle: { ...base.recycle, maxSurge: 0, maxUnavailable: 1 } };
    const simulation = up(poolConfig({ size: 3, ...tokens }));
    simulation.behaviour = { ...healthy, attachMs: never };
    simulation.apply({ type: 'config', config: nodeConfig({ ...changed, ...tokens }) });
    simulation.run(1_000);
    expect(simulation.run(60_000, () => simulation.state.pools.get('p')?.quarantine !== '')).toBe(true);
    expect(simulation.ready()).toHaveLength(2);
    simulation.behaviour = { ...healthy };
    expect(simulation.run(10_000, () => simulation.ready().length === 3)).toBe(true);
  });
});

describe('a roll', () => {
  const rollOf = (simulation: Simulation) => simulation.state.pools.get('p')?.roll;
  const progress = (simulation: Simulation) => {
    const roll = rollOf(simulation);
    return roll == null ? undefined : rollProgress(roll, simulation.state.workers.values());
  };

  test('replaces all current workers, none before its replacement is ready', () => {
    const simulation = up(poolConfig({ size: 4 }));
    simulation.apply({ type: 'roll', pool: 'p', maxFailures: 3 });
    expect(progress(simulation)).toMatchObject({ phase: 'running', total: 4, replaced: 0, replacing: 1 });
    let least = 4;
    simulation.run(20_000, () => {
      least = Math.min(least, simulation.ready().length);
      return rollOf(simulation)?.phase === 'done';
    });
    expect(progress(simulation)).toMatchObject({ phase: 'done', total: 4, replaced: 4 });
    expect(least).toBe(4);
    expect(simulation.ready().map((worker) => worker.generation)).toEqual([2, 2, 2, 2]);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'roll' }));
  });

  test('can be paused, resumed and aborted', () => {
    const simulation = up(poolConfig({ size: 4 }));
    simulation.apply({ type: 'roll', pool: 'p', maxFailures: 3 });
    simulation.apply({ type: 'pause-roll', pool: 'p' });
    simulation.run(20_000);
    expect(progress(simulation)).toMatchObject({ phase: 'paused', replaced: 1 });
    simulation.apply({ type: 'resume-roll', pool: 'p' });
    simulation.run(20_000, () => progress(simulation)?.replaced === 2);
    simulation.apply({ type: 'abort-roll', pool: 'p' });
    simulation.run(20_000);
    expect(progress(simulation)).toMatchObject({ phase: 'aborted' });
    expect(simulation.ready().filter((worker) => worker.generation === 1).length).toBeGreaterThanOrEqual(1);
    expect(simulation.ready().every((worker) => worker.due === null)).toBe(true);
  });

  test('fails if its replacements fail, and leaves the remaining workers', () => {
    const simulation = up(poolConfig({ size: 3 }));
    simulation.behaviour = { ...healthy, spawnMs: never };
    simulation.apply({ type: 'roll', pool: 'p', maxFailures: 2 });
    simulation.run(60_000);
    expect(progress(simulation)).toMatchObject({ phase: 'failed', failures: 2, replaced: 0 });
    expect(progress(simulation)?.message).toContain('2 replacements failed');
    expect(simulation.ready()).toMatchObject([1, 1, 1].map((generation) => ({ generation, due: null })));
    expect(count(simulation, 'spawn')).toBe(3 + 2);
  });
});

describe("if the host's memory", () => {
  const living = (simulation: Simulation) => simulation.workers().filter((worker) => worker.phase !== 'exited').length;
  const floor = (pool: PoolConfig): NodeConfig => ({ ...nodeConfig(pool), memoryFloorBytes: 1_000 });

  test('has no room for a second worker, workers are replaced one at a time, the old one first', () => {
    const pool = recycling({ maxAgeMs: 5_000, maxSurge: 3 }, { size: 3 });
    const simulation = up(pool, floor(pool));
    simulation.availableBytes = 1_005;
    let [least, most] = [3, 3];
    simulation.run(30_000, () => {
      [least, most] = [Math.min(least, simulation.ready().length), Math.max(most, living(simulation))];
      return simulation.ready().length === 3 && simulation.ready().every((worker) => worker.generation > 1);
    });
    expect([least, most]).toEqual([2, 3]);
    expect(simulation.ready().every((worker) => worker.generation > 1)).toBe(true);
  });

  test('is below the floor, the worker that has grown most is replaced, and only that one', () => {
    const pool = poolConfig({ size: 3 });
    const simulation = up(pool, floor(pool));
    simulation.run(3_000);
    const [small, large] = simulation.ready();
    simulation.process(small).behaviour.memoryBytes = 20 * 1024 * 1024;
    simulation.process(large).behaviour.memoryBytes = 90 * 1024 * 1024;
    simulation.availableBytes = 500;
    expect(simulation.run(20_000, () => simulation.ready().some((worker) => worker.generation === 2))).toBe(true);
    expect(simulation.ready().map((worker) => worker.generation)).toEqual([1, 2, 1]);
    simulation.availableBytes = 5_000_000_000;
    simulation.run(30_000);
    expect(simulation.ready().map((worker) => worker.generation)).toEqual([1, 2, 1]);
    expect(simulation.kinds().filter((kind) => kind === 'host_memory_low')).toHaveLength(1);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'memory' }));
  });
});

describe('ending a worker:', () => {
  test('drain until its timeout, stop message, SIGTERM, inspection within the grace time, SIGKILL', () => {
    const simulation = up(poolConfig({ size: 1 }));
    const [worker] = simulation.ready();
    const process = simulation.process(worker);
    Object.assign(process.behaviour, { stopMs: never, termMs: never });
    process.counters.inFlight = 1;
    simulation.apply({ type: 'drain-worker', workerId: worker?.id ?? '' });
    const times: Record<string, number> = {};
    const sinceMs = simulation.nowMs;
    simulation.run(30_000, () => {
      for (const type of ['send-drain', 'send-stop', 'terminate', 'inspect', 'kill']) {
        if (count(simulation, type) > 0) times[type] ??= simulation.nowMs - sinceMs;
      }
      return simulation.workers().length === 0;
    });
    expect(times).toEqual({ 'send-drain': 0, 'send-stop': 10_000, terminate: 12_000, inspect: 13_700, kill: 14_000 });
    expect(count(simulation, 'inspect')).toBe(1);
    expect(simulation.actions).toContainEqual({ type: 'kill', workerId: worker?.id, inspectBecause: '' });
    expect(simulation.state.pools.get('p')?.size).toBe(0);
  });

  test.each([0, 1, 100, 60_000])(
    'with kill_after %i ms a worker that ignores everything is killed exactly then',
    (killAfterMs) => {
      const simulation = up(poolConfig({ size: 1, drain: { timeoutMs: 1_000, killAfterMs } }));
      const process = simulation.process(simulation.ready()[0]);
      Object.assign(process.behaviour, { stopMs: never, termMs: never });
      const sinceMs = simulation.nowMs;
      simulation.apply({ type: 'stop-worker', workerId: process.workerId, replace: false });
      simulation.run(100_000, () => count(simulation, 'kill') > 0);
      expect(simulation.nowMs - sinceMs).toBe(killAfterMs);
    },
  );

  test('a worker that exits during its inspection is not killed', () => {
    const simulation = up(poolConfig({ size: 1 }));
    const process = simulation.process(simulation.ready()[0]);
    Object.assign(process.behaviour, { stopMs: 3_800, termMs: never });
    simulation.apply({ type: 'stop-worker', workerId: process.workerId, replace: false });
    simulation.run(10_000, () => simulation.workers().length === 0);
    expect(count(simulation, 'inspect')).toBe(1);
    expect(count(simulation, 'kill')).toBe(0);
  });

  test('a shutdown with "now" kills without inspection, even workers that are already stopping', () => {
    const simulation = up(poolConfig({ size: 2 }));
    const [first, second] = simulation.ready();
    for (const worker of [first, second])
      Object.assign(simulation.process(worker).behaviour, { stopMs: never, termMs: never });
    simulation.apply({ type: 'stop-worker', workerId: first?.id ?? '', replace: false });
    simulation.apply({ type: 'shutdown', how: 'now' });
    for (const worker of [first, second])
      expect(simulation.actions).toContainEqual({ type: 'kill', workerId: worker?.id, inspectBecause: '' });
    expect(count(simulation, 'inspect')).toBe(0);
  });

  test('scaling down drains the highest slots', () => {
    const simulation = up(poolConfig({ size: 4 }));
    simulation.apply({ type: 'scale', pool: 'p', size: 1 });
    simulation.run(1_000);
    expect(simulation.workers()).toMatchObject([{ slot: 0, phase: 'ready' }]);
  });

  test('a shutdown serves the queue first, then drains', () => {
    const simulation = up(poolConfig({ size: 1 }));
    simulation.queued = 3;
    simulation.apply({ type: 'shutdown', how: 'drain' });
    simulation.run(1_000);
    expect(simulation.ready()).toHaveLength(1);
    simulation.queued = 0;
    simulation.run(1_000);
    expect(simulation.finished).toBe(1);
  });

  test('a shutdown waits at most drain.timeout for the queue and running requests', () => {
    const simulation = up(poolConfig({ size: 1 }));
    simulation.queued = 3;
    simulation.process(simulation.ready()[0]).counters.inFlight = 1;
    const sinceMs = simulation.nowMs;
    simulation.apply({ type: 'shutdown', how: 'drain' });
    simulation.run(60_000, () => simulation.finished > 0);
    expect(simulation.nowMs - sinceMs).toBeLessThan(10_200);
  });

  test('a removed pool drains and is deleted, unless the config contains it again in time', () => {
    const pool = poolConfig({ size: 1 });
    const simulation = up(pool);
    simulation.process(simulation.ready()[0]).counters.inFlight = 1;
    simulation.apply({ type: 'config', config: nodeConfig() });
    expect(simulation.workers()).toMatchObject([{ phase: 'draining' }]);
    simulation.apply({ type: 'config', config: nodeConfig(pool) });
    simulation.run(20_000);
    expect(simulation.ready()).toMatchObject([{ generation: 2 }]);
    simulation.apply({ type: 'config', config: nodeConfig() });
    simulation.run(1_000);
    expect(simulation.state.pools.size).toBe(0);
    expect(simulation.kinds()).toContain('pool_removed');
  });
});

describe('a worker whose pings', () => {
  const pings = { intervalMs: 1_000, timeoutMs: 3_000, maxMissed: 2, busyLimitMs: 20_000 };

  test('are missed without any sign of activity is hung: it is killed and replaced', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    simulation.process(simulation.ready()[0]).behaviour.answersPings = false;
    simulation.run(10_000, () => simulation.ready()[0]?.generation === 2);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'hung' }));
    expect(simulation.ready()).toMatchObject([{ generation: 2 }]);
  });

  test.each([
    { intervalMs: 2_000, timeoutMs: 10_000, maxMissed: 3, busyLimitMs: 60_000 },
    { intervalMs: 200, timeoutMs: 600, maxMissed: 2, busyLimitMs: 20_000 },
    { intervalMs: 1_000, timeoutMs: 1_000, maxMissed: 1, busyLimitMs: 20_000 },
  ])('are missed is found within interval × max_missed + timeout, whenever it hangs: %o', (heartbeat) => {
    for (let offsetMs = 0; offsetMs < heartbeat.intervalMs * 2; offsetMs += heartbeat.intervalMs / 7) {
      const simulation = up(poolConfig({ size: 1, heartbeat }));
      simulation.timersLateMs = 1;
      const process = simulation.process(simulation.ready()[0]);
      // It uses CPU until the moment it hangs.
      process.behaviour.cpu = 1;
      simulation.run(20_000 + offsetMs);
      const burned = process.behaviour.cpu * (simulation.nowMs - process.bornAtMs);
      const hungAtMs = simulation.nowMs;
      process.behaviour.answersPings = false;
      simulation.freezeCpu(process, burned);
      expect(simulation.run(60_000, () => simulation.kinds().includes('worker_killed'))).toBe(true);
      const withinMs = heartbeat.intervalMs * heartbeat.maxMissed + heartbeat.timeoutMs;
      // Each ping and the verdict may be late by a timer's delay, and sampling takes a millisecond here.
      expect(simulation.nowMs - hungAtMs).toBeLessThanOrEqual(withinMs + heartbeat.maxMissed + 2);
    }
  });

  test('are missed while many threads use a little CPU time each is hung', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    const process = simulation.process(simulation.ready()[0]);
    Object.assign(process.behaviour, { answersPings: false, cpu: 0.3, busiestThread: 0.01 });
    simulation.run(10_000, () => simulation.ready()[0]?.generation === 2);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'hung' }));
  });

  test('are missed while one thread uses CPU time is busy', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    const process = simulation.process(simulation.ready()[0]);
    Object.assign(process.behaviour, { answersPings: false, cpu: 0.06, busiestThread: 0.06 });
    expect(simulation.run(10_000, () => simulation.ready()[0]?.health === 'busy')).toBe(true);
  });

  test('are missed while its cpu time advances is busy and paused, and well again with the next pong', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    const process = simulation.process(simulation.ready()[0]);
    Object.assign(process.behaviour, { answersPings: false, cpu: 1 });
    expect(simulation.run(10_000, () => simulation.ready()[0]?.health === 'busy')).toBe(true);
    expect(count(simulation, 'pause')).toBe(1);
    simulation.run(5_000);
    expect(simulation.ready()).toHaveLength(1);
    const sequence = simulation.ready()[0]?.heartbeat.sequence ?? 0;
    process.behaviour.answersPings = true;
    simulation.apply({
      type: 'pong',
      workerId: process.workerId,
      sequence,
      atMs: simulation.nowMs,
      reported: { running: 0, oldestMs: 0, loopLagMs: 0 },
    });
    simulation.run(10);
    expect(simulation.ready()[0]?.health).toBe('well');
    expect(count(simulation, 'resume')).toBe(1);
  });

  test('are answered while its asyncio loop is blocked gets no new requests until the loop runs again', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    const says = (loopLagMs: number): void => {
      const [worker] = simulation.ready();
      const [workerId, sequence] = [worker?.id ?? '', worker?.heartbeat.sequence ?? 0];
      const reported = { running: 1, oldestMs: 0, loopLagMs };
      simulation.apply({ type: 'pong', workerId, sequence, atMs: simulation.nowMs, reported });
    };
    Object.assign(simulation.process(simulation.ready()[0]).behaviour, { answersPings: false });
    const asked = (): boolean => (simulation.ready()[0]?.heartbeat.unanswered.length ?? 0) > 0;
    expect(simulation.run(2_000, asked)).toBe(true);
    says(pings.timeoutMs);
    expect(simulation.ready()[0]?.health).toBe('busy');
    expect(count(simulation, 'pause')).toBe(1);
    expect(simulation.run(2_000, asked)).toBe(true);
    says(0);
    expect(simulation.ready()[0]?.health).toBe('well');
    expect(count(simulation, 'resume')).toBe(1);
  });

  test('are missed for longer than busy_limit is killed', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    Object.assign(simulation.process(simulation.ready()[0]).behaviour, { answersPings: false, cpu: 1 });
    expect(simulation.run(20_000, () => simulation.ready()[0]?.generation === 2)).toBe(false);
    expect(simulation.run(10_000, () => simulation.ready()[0]?.generation === 2)).toBe(true);
  });

  test('wait because the agent itself lags is not blamed', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    simulation.run(1_001);
    // The agent was stopped for a minute, with unread pongs.
    simulation.nowMs += 60_000;
    simulation.run(5_000);
    expect(simulation.ready()).toMatchObject([{ generation: 1, health: 'well', heartbeat: { missed: 0 } }]);
    expect(simulation.kinds()).not.toContain('worker_health');
  });
});

describe('the admission of requests:', () => {
  const gates = (simulation: Simulation) =>
    simulation.actions.flatMap((action) =>
      action.type === 'set-admission' ? [[action.open, action.why, action.refuseQueued]] : [],
    );

  test('a resumed node accepts requests again, and its workers were kept', () => {
    const simulation = up(poolConfig());
    simulation.apply({ type: 'drain-node' });
    simulation.apply({ type: 'resume-node' });
    simulation.run(10_000);
    expect(gates(simulation)).toEqual([
      [false, 'pool p is draining', false],
      [true, '', false],
    ]);
    expect(simulation.ready()).toMatchObject([{ generation: 1 }, { generation: 1 }]);
  });

  test('a pool that was drained on its own accepts requests when the pool is resumed, not the node', () => {
    const simulation = up(poolConfig());
    simulation.apply({ type: 'drain-pool', pool: 'p' });
    simulation.apply({ type: 'drain-node' });
    simulation.apply({ type: 'resume-node' });
    expect(gates(simulation)).toEqual([[false, 'pool p is draining', false]]);
    simulation.apply({ type: 'resume-pool', pool: 'p' });
    simulation.apply({ type: 'resume-pool', pool: 'p' });
    expect(gates(simulation)).toEqual([
      [false, 'pool p is draining', false],
      [true, '', false],
    ]);
    expect(simulation.kinds().filter((kind) => kind === 'pool_resumed')).toHaveLength(1);
  });

  test('a drained pool that is scaled gets its new size at once and stays drained', () => {
    const simulation = up(poolConfig());
    simulation.apply({ type: 'drain-pool', pool: 'p' });
    simulation.apply({ type: 'scale', pool: 'p', size: 3 });
    simulation.run(10_000);
    expect(simulation.ready()).toHaveLength(3);
    expect(simulation.state.pools.get('p')).toMatchObject({ phase: 'draining', size: 3, open: false });
  });

  test('a pool of size 0 refuses its queued requests', () => {
    const simulation = up(poolConfig());
    simulation.apply({ type: 'scale', pool: 'p', size: 0 });
    simulation.apply({ type: 'scale', pool: 'p', size: 1 });
    expect(gates(simulation)).toEqual([
      [false, 'pool p has no workers: its size is 0', true],
      [true, '', false],
    ]);
  });
});

describe('facts in an unexpected order:', () => {
  test('an exit before the worker was ready, and a hello after a stop', () => {
    const simulation = new Simulation();
    simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 1 })) });
    simulation.run(50);
    const [worker] = simulation.workers();
    simulation.die(simulation.process(worker), null);
    simulation.run(5);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'exit_code' }));

    const isSpawned = () => simulation.workers()[0]?.generation === 2 && simulation.workers()[0]?.pid !== 0;
    expect(simulation.run(5_000, isSpawned)).toBe(true);
    const [second] = simulation.workers();
    simulation.process(second).behaviour.termMs = never;
    simulation.apply({ type: 'stop-worker', workerId: second?.id ?? '', replace: true });
    simulation.run(300);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'send-stop', workerId: second?.id }));
    expect(simulation.actions).not.toContainEqual(expect.objectContaining({ type: 'admit', workerId: second?.id }));
  });

  test('a link that closes without an exit stops new requests, and the worker is killed in the end', () => {
    const simulation = up(poolConfig({ size: 1 }));
    const [worker] = simulation.ready();
    simulation.apply({ type: 'link-closed', workerId: worker?.id ?? '' });
    expect(count(simulation, 'pause')).toBe(1);
    simulation.run(5_000);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'link_lost' }));
  });
});

describe('a worker that leaves by itself', () => {
  const served = { inFlight: 1, kept: 0, completed: 3, failed: 0, lastEvidenceAtMs: 0 };
  const left = (simulation: Simulation, leavingReason: string): void => {
    const process = simulation.process(simulation.ready()[0]);
    simulation.apply({ type: 'leaving', workerId: process.workerId, leavingReason });
  };
  const failures = (simulation: Simulation) => simulation.state.pools.get('p')?.slots.get(0)?.failures;

  test.each([
    ['because its application asked to', 'the model is broken', /^it asks to be replaced: the model is broken$/],
    ['because of an external SIGTERM', '', /^it leaves: it received a SIGTERM that the agent did not send$/],
  ])('%s is drained and replaced at once, and counts as no failure', (_, leavingReason, message) => {
    const simulation = up(poolConfig({ size: 1 }));
    for (let round = 0; round < 4; round += 1) {
      const [worker] = simulation.ready();
      const { counters } = simulation.process(worker);
      Object.assign(counters, served);
      left(simulation, leavingReason);
      expect(simulation.workers().map(({ phase, ending }) => [phase, ending])).toEqual([
        ['draining', 'retired'],
        ['starting', null],
      ]);
      counters.inFlight = 0;
      simulation.apply({ type: 'idle', workerId: worker?.id ?? '' });
      expect(simulation.run(5_000, () => simulation.ready().length === 1)).toBe(true);
    }
    expect(simulation.kinds()).not.toContain('slot_backing_off');
    expect(failures(simulation)).toEqual({ start: 0, crash: 0, memory: 0 });
    const records = simulation.actions.flatMap((action) => (action.type === 'record' ? [action.record] : []));
    const due = records.filter(({ kind }) => kind === 'worker_due');
    expect(due).toHaveLength(4);
    for (const record of due)
      expect(record).toMatchObject({ reason: 'retired', message: expect.stringMatching(message) });
  });

  test('before it has served anything makes its slot back off', () => {
    const simulation = up(poolConfig({ size: 1 }));
    for (let round = 0; round < 4; round += 1) {
      left(simulation, 'no licence');
      expect(simulation.run(60_000, () => simulation.ready().length === 1)).toBe(true);
    }
    expect(failures(simulation)?.crash).toBe(4);
    expect(simulation.kinds()).toContain('slot_backing_off');
  });

  test('is not affected by late facts', () => {
    const simulation = up(poolConfig({ size: 1 }));
    const { workerId } = simulation.process(simulation.ready()[0]);
    left(simulation, 'once');
    simulation.apply({ type: 'leaving', workerId, leavingReason: 'twice' });
    simulation.run(60_000, () => simulation.ready().length === 1);
    simulation.apply({ type: 'leaving', workerId, leavingReason: 'thrice' });
    expect(simulation.kinds().filter((kind) => kind === 'worker_due')).toHaveLength(1);
    expect(simulation.ready()).toHaveLength(1);
  });
});
