import type { NodeConfig, PoolConfig } from '../../src/domain/config.ts';
import type { Leftover } from '../../src/domain/state.ts';
import type { Random } from './random.ts';
import type { Behaviour } from './worker.ts';

const never = Number.POSITIVE_INFINITY;

/** One or two pools; `p` is always there. */
export function drawConfig(random: Random): NodeConfig {
  const names = random.chance(0.5) ? ['p'] : ['p', 'q'];
  return {
    nodeId: 'n',
    memoryFloorBytes: random.pick([0, 5_000]),
    pools: new Map(names.map((name) => [name, drawPool(random, name)])),
  };
}

function drawPool(random: Random, name: string): PoolConfig {
  const maxSurge = random.int(0, 2);
  return {
    name,
    app: random.pick(['m:app', 'm:app', 'm:other']),
    python: 'python3',
    cwd: '/',
    env: {},
    size: random.int(1, 4),
    concurrency: random.pick([1, 1, 4]),
    start: {
      mode: 'exec',
      timeoutMs: 10_000,
      parallel: random.int(1, 4),
      warmUp: random.pick([null, null, { command: 'short', payload: '{}' }]),
    },
    heartbeat: { intervalMs: 1_000, timeoutMs: 3_000, maxMissed: random.int(1, 3), busyLimitMs: 20_000 },
    recycle: {
      maxAgeMs: random.pick([0, 30_000, 120_000]),
      maxRequests: random.pick([0, 20, 200]),
      maxIdleMs: random.pick([0, 0, 20_000]),
      memory: random.pick([
        { softBytes: 0, hardBytes: 0, samples: 2, of: 3 },
        { softBytes: 600, hardBytes: 1_200, samples: random.int(1, 3), of: 3 },
      ]),
      jitter: random.pick([0, 0.1, 0.5]),
      maxSurge,
      maxUnavailable: maxSurge === 0 ? random.int(1, 2) : random.pick([0, 0, 1]),
      minLifetimeMs: random.pick([0, 1_000]),
    },
    restart: { backoffMinMs: 500, backoffMaxMs: 10_000, resetAfterMs: 30_000, quarantineAfter: random.int(1, 4) },
    drain: { timeoutMs: 20_000, killAfterMs: 6_000 },
    orphanTimeoutMs: 60_000,
    queue: { maxRequests: random.pick([5, 40]), maxBytes: random.pick([60, 10_000]) },
    request: {
      timeoutMs: random.pick([2_000, 15_000]),
      maxAttempts: random.int(1, 3),
      killAfterMs: random.pick([0, 3_000]),
      affinity: random.pick(['off', 'hint', 'strict'] as const),
      keep: { forMs: 5_000, maxResults: 100, maxBytes: 10_000 },
    },
    limits: { pids: 0, memoryBytes: 0, openFiles: 0 },
    poison: random.pick([
      { after: 0, forMs: 0 },
      { after: 2, forMs: 60_000 },
    ]),
  };
}

/** Most start well and live; the rest are what operators fear. */
export function drawBehaviour(random: Random): Behaviour {
  const sound = random.chance(0.7);
  const odd = (usual: number, ...others: readonly number[]): number =>
    sound || random.chance(0.8) ? usual : random.pick(others);
  return {
    spawnMs: odd(random.int(0, 5), 300, never),
    attachMs: odd(random.int(50, 800), 0, 5_000, 9_990, 15_000, never),
    diesMs: odd(never, 10, 400, 3_000, 40_000),
    marksBegun: random.chance(0.9),
    stopMs: odd(random.int(1, 50), 2_900, never),
    termMs: odd(random.int(1, 20), never),
    killMs: odd(random.int(1, 5), 7_000),
    sweepMs: odd(random.int(0, 5), 3_000, 10_000),
    latencyMs: odd(random.pick([0.05, 0.5, 2]), 40),
    ignoresCancels: random.chance(0.2),
    warmUpMs: odd(random.int(1, 300), 9_000, never),
    warmUpFails: !sound && random.chance(0.2),
  };
}

/** Most agents start on a clean host. */
export function drawLeftovers(random: Random): (Leftover & { readonly sweptAfterMs: number })[] {
  const count = random.chance(0.7) ? 0 : random.int(1, 3);
  return Array.from({ length: count }, (_, index) => {
    const [pool, slot] = [random.pick(['p', 'q']), random.int(0, 2)];
    const generation = random.int(1, 3);
    return {
      workerId: `${pool}-${slot}-left${index}`,
      pool,
      slot,
      generation,
      sweptAfterMs: random.pick([0, 50, 10_000]),
    };
  });
}

/** What every host comes back to when it is left alone. */
export function calmBehaviour(random: Random): Behaviour {
  return {
    ...{ spawnMs: 1, attachMs: random.int(50, 800), diesMs: never, marksBegun: true, stopMs: 10, termMs: 10 },
    ...{ killMs: 2, sweepMs: 2, latencyMs: 0.1, ignoresCancels: false, warmUpMs: 5, warmUpFails: false },
  };
}
