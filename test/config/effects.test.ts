import { describe, expect, test } from 'vitest';
import { allKeys } from '../../src/config/all-keys.ts';
import { effects } from '../../src/config/keys.ts';
import type { Config } from '../../src/config/load.ts';
import { changedSince } from '../../src/config/next-start.ts';
import type { PoolConfig } from '../../src/domain/config.ts';
import type { Worker } from '../../src/domain/state.ts';
import { Simulation } from '../domain/simulation.ts';
import { loadWith, nameOf } from './loading.ts';

// Changes every key by a reload while a worker runs, and checks that it takes effect when docs/configuration.md says.

const tls = { 'tls.cert': 'a.pem', 'tls.key': 'b.pem', 'tls.client_ca': 'c.pem' };

/**
 * Another value for each key, and what else must be set for it to matter. A new key without an entry fails the test.
 */
const others: Readonly<Record<string, readonly [unknown, Readonly<Record<string, unknown>>?]>> = {
  'node.id': ['other'],
  runtime_dir: ['other'],
  state_dir: ['other'],
  socket_group: [1],
  control_group: [1],
  http: ['off'],
  http_allow_remote: [true],
  memory_floor: ['1MiB'],
  listen: ['127.0.0.1:0'],
  listen_insecure_control: [true],
  'tls.cert': ['other.pem', tls],
  'tls.key': ['other.pem', tls],
  'tls.client_ca': ['other.pem', tls],
  'tls.crl': ['other.pem', tls],
  'tls.domain': ['other', tls],
  'tls.identities': [{ 'spiffe://a/b': 'role/viewer' }, tls],
  'tls.max_connection_age': ['2h', tls],
  'log.level': ['debug'],
  'log.format': ['json'],
  'message.max_bytes': ['1MiB'],
  'message.budget': ['1GiB'],
  'message.max_unread_bytes': ['1MiB'],
  'pools.*.app': ['m:other'],
  'pools.*.python': ['/bin/sh'],
  'pools.*.cwd': ['/tmp'],
  'pools.*.env': [{ A: 'b' }],
  'pools.*.size': [2],
  'pools.*.concurrency': [2],
  'pools.*.start.timeout': ['7s'],
  'pools.*.start.parallel': [2],
  'pools.*.start.warm_up': ['c'],
  'pools.*.start.warm_up_args': [[1], { 'pools.*.start.warm_up': 'c' }],
  'pools.*.heartbeat.interval': ['1s'],
  'pools.*.heartbeat.timeout': ['8s'],
  'pools.*.heartbeat.max_missed': [4],
  'pools.*.heartbeat.busy_limit': ['1m'],
  'pools.*.recycle.max_age': ['1h'],
  'pools.*.recycle.max_requests': [1_000],
  'pools.*.recycle.max_idle': ['1h'],
  'pools.*.recycle.memory.soft': ['1GiB'],
  'pools.*.recycle.memory.hard': ['1GiB'],
  'pools.*.recycle.memory.samples': [3],
  'pools.*.recycle.memory.of': [4],
  'pools.*.recycle.jitter': [0.5, { 'pools.*.recycle.max_age': '1h' }],
  'pools.*.recycle.max_surge': [2],
  'pools.*.recycle.max_unavailable': [1],
  'pools.*.recycle.min_lifetime': ['2s'],
  'pools.*.restart.backoff.min': ['1s'],
  'pools.*.restart.backoff.max': ['1m'],
  'pools.*.restart.reset_after': ['2m'],
  'pools.*.restart.quarantine_after': [4],
  'pools.*.drain.timeout': ['1m'],
  'pools.*.drain.kill_after': ['20s'],
  'pools.*.limits.pids': [100],
  'pools.*.limits.memory': ['1GiB'],
  'pools.*.limits.open_files': [100],
  'pools.*.orphan_timeout': ['2m'],
  'pools.*.queue.max_requests': [10],
  'pools.*.queue.max_bytes': ['1MiB'],
  'pools.*.request.timeout': ['65s'],
  'pools.*.request.max_attempts': [4],
  'pools.*.request.kill_after': ['1m'],
  'pools.*.request.session_affinity': ['hint'],
  'pools.*.request.keep.for': ['2m'],
  'pools.*.request.keep.max_results': [10],
  'pools.*.request.keep.max_bytes': ['1MiB'],
  'pools.*.poison.after': [4],
  'pools.*.poison.for': ['1m'],
  'pools.*.telemetry.max_series': [100],
};
/** There is no other value: only one mode exists. */
const single = new Set(['pools.*.start.mode']);

async function load(keys: Readonly<Record<string, unknown>>): Promise<Config> {
  const config = await loadWith(keys);
  if (typeof config === 'string') throw new Error(config);
  return config;
}

interface Reloaded {
  readonly before: Config;
  readonly after: Config;
  readonly simulation: Simulation;
  /** The worker that ran before the reload. */
  readonly worker: Worker;
}

async function reload(name: string): Promise<Reloaded> {
  const [value, given = {}] = others[name] ?? [];
  const [before, after] = [await load(given), await load({ ...given, [name]: value })];
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: before.node });
  expect(simulation.run(10_000, () => simulation.ready().length === 1)).toBe(true);
  const [worker] = simulation.ready();
  if (worker === undefined) throw new Error('expected a worker');
  simulation.actions.length = 0;
  const restartNeeded = changedSince(before.nextStart, after.nextStart);
  simulation.apply({ type: 'config', config: after.node, restartNeeded });
  simulation.run(5_000);
  return { before, after, simulation, worker };
}

const poolOf = ({ node }: Config): PoolConfig | undefined => node.pools.get('p');
const setPools = (simulation: Simulation) =>
  simulation.actions.flatMap((action) => (action.type === 'set-pool' ? [action.pool] : []));
const spawned = (simulation: Simulation) =>
  simulation.actions.flatMap((action) => (action.type === 'spawn' ? [action] : []));

/** The checks after a reload, by when the key takes effect. */
const held: Readonly<Record<string, (name: string, reloaded: Reloaded) => void>> = {
  [effects.nextStart]: (name, { before, after, simulation }) => {
    expect(simulation.state.node.restartNeeded).toEqual([name]);
    const records = simulation.actions.flatMap((action) => (action.type === 'record' ? [action.record] : []));
    expect(records).toMatchObject([{ kind: 'restart_needed', message: expect.stringContaining(name) }]);
    expect(after.node.pools).toEqual(before.node.pools);
    simulation.apply({ type: 'config', config: before.node, restartNeeded: [] });
    expect(simulation.state.node.restartNeeded).toEqual([]);
  },
  [effects.replacing]: (_, { after, simulation, worker }) => {
    expect(spawned(simulation).map(({ pool }) => pool)).toEqual([poolOf(after)]);
    expect(simulation.workers().map(({ id }) => id)).not.toContain(worker.id);
  },
  [effects.nextWorker]: (_, { after, simulation, worker }) => {
    expect(simulation.ready()).toMatchObject([{ id: worker.id, limits: worker.limits, warmUp: worker.warmUp }]);
    simulation.die(simulation.process(worker));
    simulation.run(5_000);
    const [next] = simulation.workers();
    expect(spawned(simulation)[0]?.pool).toEqual(poolOf(after));
    const born = ({ limits, warmUp }: Worker) => ({ limits, warmUp });
    if (next === undefined) throw new Error('expected another worker');
    const changed =
      poolOf(after)?.start.timeoutMs === 7_000 || JSON.stringify(born(next)) !== JSON.stringify(born(worker));
    expect(changed, 'what the next worker is born with').toBe(true);
  },
  [effects.atOnce]: (name, { after, simulation, worker }) => {
    expect(simulation.ready().map(({ id }) => id)).toContain(worker.id);
    if (name === 'memory_floor') expect(simulation.state.node.host.floorBytes).toBe(2 ** 20);
    else expect(setPools(simulation)).toEqual([poolOf(after)]);
    expect(simulation.state.pools.get('p')?.config).toEqual(poolOf(after));
    expect(simulation.ready()).toHaveLength(poolOf(after)?.size ?? 0);
    // Values that are drawn or recorded at a worker's start would only reach the next worker.
    simulation.die(simulation.process(worker));
    simulation.run(5_000);
    const next = simulation.ready().find(({ slot }) => slot === worker.slot);
    expect(next).toMatchObject({ limits: worker.limits, warmUp: worker.warmUp });
  },
};

test('every key says when it takes effect and is tested here', () => {
  const names = allKeys().map(nameOf);
  expect(names.filter((name) => others[name] === undefined && !single.has(name))).toEqual([]);
});

describe.each(Object.values(effects))('a key that takes effect %s', (effect) => {
  const names = allKeys().filter((key) => key.takesEffect === effect && !single.has(nameOf(key)));
  test.each(names.map(nameOf))('%s', async (name) => {
    const reloaded = await reload(name);
    const { before, after } = reloaded;
    // A key that the loader dropped would otherwise pass.
    const seen = ({ node, nextStart }: Config) => JSON.stringify([node, [...node.pools], [...nextStart]]);
    expect(seen(after)).not.toBe(seen(before));
    held[effect]?.(name, reloaded);
  });
});
