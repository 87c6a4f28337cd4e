import { describe, expect, test } from 'vitest';
import type { NodeConfig, PoolConfig } from '../../src/domain/config.ts';
import { healthy, nodeConfig, poolConfig, Simulation } from './simulation.ts';

const never = Number.POSITIVE_INFINITY;
const base = poolConfig();
const recycling = (patch: Partial<PoolConfig['recycle']>, more: Partial<PoolConfig> = {}) =>
  poolConfig({ recycle: { ...base.recycle, ...patch }, ...more });

/** A simulation in which this pool is up. */
function up(pool: PoolConfig, config: NodeConfig = nodeConfig(pool)): Simulation {
  const simulation = new Simulation();
  simulation.tell({ type: 'config', config });
  expect(simulation.run(10_000, () => simulation.ready(pool.name).length === pool.size)).toBe(true);
  return simulation;
}

const count = (simulation: Simulation, type: string) =>
  simulation.actions.filter((action) => action.type === type).length;

describe('starting', () => {
  test('no more than start.parallel at once; readiness makes room for the next', () => {
    const simulation = new Simulation();
    simulation.tell({
      type: 'config',
      config: nodeConfig(poolConfig({ size: 5, start: { ...base.start, parallel: 2 } })),
    });
    expect(simulation.workers().map((worker) => worker.phase)).toEqual(['starting', 'starting']);
    simulation.run(201);
    expect(simulation.ready()).toHaveLength(2);
    expect(simulation.workers()).toHaveLength(4);
    expect(simulation.run(5_000, () => simulation.ready().length === 5)).toBe(true);
  });

  test('not attached in time: killed, and the next start waits', () => {
    const simulation = new Simulation();
    simulation.behaviour = { ...healthy, attachMs: never };
    simulation.tell({ type: 'config', config: nodeConfig(poolConfig({ size: 1 })) });
    simulation.run(5_100);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'start_timeout' }));
    expect(simulation.state.pools.get('p')?.lastFailure?.message).toContain('the end');
    expect(simulation.workers()).toHaveLength(0);
    simulation.behaviour = { ...healthy };
    expect(simulation.run(1_000, () => simulation.ready().length === 1)).toBe(true);
  });

  test('a slot that fails to start holds up no other', () => {
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
  // The defaults of restart.backoff, and a crash half a second after each spawn, as Python needs for it.
  const pool = poolConfig({ size: 2, restart: { backoffMinMs: 500, backoffMaxMs: 30_000, resetAfterMs: 30_000 } });

  test('costs fewer than 15 spawns of a slot in 60 s', () => {
    const simulation = new Simulation();
    simulation.behaviour = { ...healthy, attachMs: never };
    simulation.tell({ type: 'config', config: nodeConfig(pool) });
    const endsAtMs = simulation.nowMs + 60_000;
    const spawned = () => simulation.workers().some((worker) => worker.pid > 0);
    while (simulation.run(endsAtMs - simulation.nowMs, spawned)) {
      simulation.run(500);
      for (const worker of simulation.workers()) if (worker.pid > 0) simulation.die(simulation.process(worker), null);
      simulation.run(10);
    }
    expect(simulation.nowMs).toBeGreaterThanOrEqual(endsAtMs);
    for (const slot of [0, 1]) {
      const spawns = simulation.actions.filter((action) => action.type === 'spawn' && action.slot === slot).length;
      expect(spawns).toBeGreaterThanOrEqual(5);
      expect(spawns).toBeLessThan(15);
    }
  });
});

describe('replacing', () => {
  test('the old one serves until the new one is ready, then it drains', () => {
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
    simulation.tell({ type: 'idle', workerId: old?.id ?? '' });
    simulation.run(1_000);
    expect(simulation.workers().map(({ generation }) => generation)).toEqual([2]);
  });

  test('while replacements fail the old one stays', () => {
    const simulation = up(recycling({ maxAgeMs: 5_000 }, { size: 1 }));
    simulation.behaviour = { ...healthy, spawnMs: never };
    simulation.run(30_000);
    expect(simulation.ready()).toMatchObject([{ generation: 1, due: { reason: 'ttl' } }]);
  });

  test('without surge it is replaced in its place, no more at once than may be missing', () => {
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

  test('equals do not fall due together', () => {
    const simulation = up(recycling({ maxAgeMs: 10_000, jitter: 0.5, maxSurge: 5 }, { size: 5 }));
    let most = 5;
    simulation.run(10_000, () => {
      most = Math.max(most, simulation.workers().length);
      return false;
    });
    expect(most).toBeLessThanOrEqual(7);
    expect(simulation.ready().every((worker) => worker.generation === 2)).toBe(true);
  });

  test('a changed config recycles, one that reaches no process does not', () => {
    const pool = poolConfig({ size: 1 });
    const simulation = up(pool);
    simulation.tell({ type: 'config', config: nodeConfig({ ...pool, queue: { maxRequests: 3, maxBytes: 3 } }) });
    simulation.run(5_000);
    expect(simulation.ready()).toMatchObject([{ generation: 1, due: null }]);
    simulation.tell({ type: 'config', config: nodeConfig({ ...pool, env: { A: 'b' } }) });
    simulation.run(5_000);
    expect(simulation.ready()).toMatchObject([{ generation: 2 }]);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'config' }));
  });

  test('two samples over the soft limit recycle, one over the hard limit kills', () => {
    const simulation = up(recycling({ memory: { softBytes: 100, hardBytes: 1_000 } }, { size: 1 }));
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

describe('ending', () => {
  test('the ladder: drain until its timeout, stop message, SIGTERM, SIGKILL', () => {
    const simulation = up(poolConfig({ size: 1 }));
    const [worker] = simulation.ready();
    const process = simulation.process(worker);
    Object.assign(process.behaviour, { stopMs: never, termMs: never });
    process.counters.inFlight = 1;
    simulation.tell({ type: 'drain-worker', workerId: worker?.id ?? '' });
    const times: Record<string, number> = {};
    const sinceMs = simulation.nowMs;
    simulation.run(30_000, () => {
      for (const type of ['send-drain', 'send-stop', 'terminate', 'kill']) {
        if (count(simulation, type) > 0) times[type] ??= simulation.nowMs - sinceMs;
      }
      return simulation.workers().length === 0;
    });
    expect(times).toEqual({ 'send-drain': 0, 'send-stop': 10_000, terminate: 12_000, kill: 14_000 });
    expect(simulation.state.pools.get('p')?.size).toBe(0);
  });

  test('scaling down drains the highest slots', () => {
    const simulation = up(poolConfig({ size: 4 }));
    simulation.tell({ type: 'scale', pool: 'p', size: 1 });
    simulation.run(1_000);
    expect(simulation.workers()).toMatchObject([{ slot: 0, phase: 'ready' }]);
  });

  test('shutdown serves the queue first, then drains', () => {
    const simulation = up(poolConfig({ size: 1 }));
    simulation.queued = 3;
    simulation.tell({ type: 'shutdown', how: 'drain' });
    simulation.run(1_000);
    expect(simulation.ready()).toHaveLength(1);
    simulation.queued = 0;
    simulation.run(1_000);
    expect(simulation.finished).toBe(1);
  });

  test('shutdown waits for queue and requests no longer than drain.timeout', () => {
    const simulation = up(poolConfig({ size: 1 }));
    simulation.queued = 3;
    simulation.process(simulation.ready()[0]).counters.inFlight = 1;
    const sinceMs = simulation.nowMs;
    simulation.tell({ type: 'shutdown', how: 'drain' });
    simulation.run(60_000, () => simulation.finished > 0);
    expect(simulation.nowMs - sinceMs).toBeLessThan(10_200);
  });

  test('a removed pool drains and goes; if it returns meanwhile, it stays', () => {
    const pool = poolConfig({ size: 1 });
    const simulation = up(pool);
    simulation.process(simulation.ready()[0]).counters.inFlight = 1;
    simulation.tell({ type: 'config', config: nodeConfig() });
    expect(simulation.workers()).toMatchObject([{ phase: 'draining' }]);
    simulation.tell({ type: 'config', config: nodeConfig(pool) });
    simulation.run(20_000);
    expect(simulation.ready()).toMatchObject([{ generation: 2 }]);
    simulation.tell({ type: 'config', config: nodeConfig() });
    simulation.run(1_000);
    expect(simulation.state.pools.size).toBe(0);
    expect(simulation.kinds()).toContain('pool_removed');
  });
});

describe('pings', () => {
  const pings = { intervalMs: 1_000, timeoutMs: 3_000, maxMissed: 2, busyLimitMs: 20_000 };

  test('unanswered while nothing moves: hung, killed, replaced', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    simulation.process(simulation.ready()[0]).behaviour.answersPings = false;
    simulation.run(10_000, () => simulation.ready()[0]?.generation === 2);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'hung' }));
    expect(simulation.ready()).toMatchObject([{ generation: 2 }]);
  });

  test('unanswered while cpu time advances: busy and paused; well again with the next pong', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    const process = simulation.process(simulation.ready()[0]);
    Object.assign(process.behaviour, { answersPings: false, cpu: 1 });
    expect(simulation.run(10_000, () => simulation.ready()[0]?.health === 'busy')).toBe(true);
    expect(count(simulation, 'pause')).toBe(1);
    simulation.run(5_000);
    expect(simulation.ready()).toHaveLength(1);
    const sequence = simulation.ready()[0]?.heartbeat.sequence ?? 0;
    process.behaviour.answersPings = true;
    simulation.tell({ type: 'pong', workerId: process.workerId, sequence, atMs: simulation.nowMs });
    simulation.run(10);
    expect(simulation.ready()[0]?.health).toBe('well');
    expect(count(simulation, 'resume')).toBe(1);
  });

  test('busy for longer than busy_limit: killed', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    Object.assign(simulation.process(simulation.ready()[0]).behaviour, { answersPings: false, cpu: 1 });
    expect(simulation.run(20_000, () => simulation.ready()[0]?.generation === 2)).toBe(false);
    expect(simulation.run(10_000, () => simulation.ready()[0]?.generation === 2)).toBe(true);
  });

  test('the agent’s own lag is nobody’s fault', () => {
    const simulation = up(poolConfig({ size: 1, heartbeat: pings }));
    simulation.run(1_001);
    // The agent stood still for a minute, with pongs unread.
    simulation.nowMs += 60_000;
    simulation.run(5_000);
    expect(simulation.ready()).toMatchObject([{ generation: 1, health: 'well', heartbeat: { missed: 0 } }]);
    expect(simulation.kinds()).not.toContain('worker_health');
  });
});

describe('gates', () => {
  const gates = (simulation: Simulation) =>
    simulation.actions.flatMap((action) =>
      action.type === 'gate' ? [[action.open, action.why, action.refuseQueued]] : [],
    );

  test('drain and resume', () => {
    const simulation = up(poolConfig());
    simulation.tell({ type: 'drain-pool', pool: 'p' });
    simulation.tell({ type: 'drain-node' });
    simulation.tell({ type: 'resume-node' });
    simulation.run(10_000);
    expect(gates(simulation)).toEqual([
      [false, 'pool p is draining', false],
      [true, '', false],
    ]);
    expect(simulation.ready()).toMatchObject([{ generation: 1 }, { generation: 1 }]);
  });

  test('a pool of no size refuses what waits', () => {
    const simulation = up(poolConfig());
    simulation.tell({ type: 'scale', pool: 'p', size: 0 });
    simulation.tell({ type: 'scale', pool: 'p', size: 1 });
    expect(gates(simulation)).toEqual([
      [false, 'pool p has no workers: its size is 0', true],
      [true, '', false],
    ]);
  });
});

describe('facts in another order', () => {
  test('an exit before it was ready, and a hello after a stop', () => {
    const simulation = new Simulation();
    simulation.tell({ type: 'config', config: nodeConfig(poolConfig({ size: 1 })) });
    simulation.run(50);
    const [worker] = simulation.workers();
    simulation.die(simulation.process(worker), null);
    simulation.run(5);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'exit_code' }));

    const isSpawned = () => simulation.workers()[0]?.generation === 2 && simulation.workers()[0]?.pid !== 0;
    expect(simulation.run(5_000, isSpawned)).toBe(true);
    const [second] = simulation.workers();
    simulation.process(second).behaviour.termMs = never;
    simulation.tell({ type: 'stop-worker', workerId: second?.id ?? '', replace: true });
    simulation.run(300);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'send-stop', workerId: second?.id }));
    expect(simulation.actions).not.toContainEqual(expect.objectContaining({ type: 'admit', workerId: second?.id }));
  });

  test('a link that closes without an exit: no requests, and killed in the end', () => {
    const simulation = up(poolConfig({ size: 1 }));
    const [worker] = simulation.ready();
    simulation.tell({ type: 'link-closed', workerId: worker?.id ?? '' });
    expect(count(simulation, 'pause')).toBe(1);
    simulation.run(5_000);
    expect(simulation.actions).toContainEqual(expect.objectContaining({ type: 'release', reason: 'link_lost' }));
  });
});
