import type { NodeConfig, PoolConfig } from '../../src/domain/config.ts';
import type { Leftover } from '../../src/domain/state.ts';
import type { Wish } from './asked.ts';
import type { Random } from './random.ts';
import type { WorkerBehaviour } from './worker.ts';

const never = Number.POSITIVE_INFINITY;

/** The values that all configs of one host share, so that the checks can rely on them. */
export interface Traits {
  readonly keepMs: number;
  /** 0: a worker may go on with a request for ever. */
  readonly killAfterMs: number;
  /** Its durations are as short or as long as can be. */
  readonly isExtreme: boolean;
  /** A control plane sets intents. */
  readonly isManaged: boolean;
}

/** Node's longest timer is shorter by a millisecond. */
const longMs = 2 ** 31;
const dayMs = 86_400_000;

export function drawTraits(random: Random): Traits {
  const isExtreme = random.chance(0.2);
  return {
    keepMs: isExtreme ? random.pick([100, longMs - 1]) : random.pick([1_000, 5_000, 60_000]),
    killAfterMs: isExtreme ? random.pick([0, 100, longMs]) : random.pick([0, 3_000, 3_000]),
    isExtreme,
    isManaged: random.chance(0.4),
  };
}

/** One or two pools; `p` is always there. */
export function drawConfig(random: Random, traits: Traits): NodeConfig {
  const names = random.chance(0.5) ? ['p'] : ['p', 'q'];
  return {
    nodeId: 'n',
    memoryFloorBytes: random.pick([0, 5_000]),
    pools: new Map(names.map((name) => [name, drawPool(random, traits, name)])),
  };
}

function drawPool(random: Random, traits: Traits, name: string): PoolConfig {
  const maxSurge = random.int(0, 2);
  const { keepMs, killAfterMs } = traits;
  const ms = (usual: number, ...extremes: readonly number[]): number =>
    traits.isExtreme ? random.pick(extremes) : usual;
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
      timeoutMs: ms(10_000, 2_000, longMs + 1),
      parallel: random.int(1, 4),
      warmUp: random.pick([null, null, { command: 'short', payload: '{}' }]),
    },
    heartbeat: {
      intervalMs: ms(1_000, 100, longMs),
      timeoutMs: ms(3_000, 1_000, longMs),
      maxMissed: random.int(1, 3),
      busyLimitMs: ms(20_000, 1_000, 365 * dayMs),
    },
    recycle: {
      maxAgeMs: ms(random.pick([0, 30_000, 120_000]), 0, longMs),
      maxRequests: random.pick([0, 20, 200]),
      maxIdleMs: ms(random.pick([0, 0, 20_000]), 0, longMs),
      memory: random.pick([
        { softBytes: 0, hardBytes: 0, samples: 2, of: 3 },
        { softBytes: 600, hardBytes: 1_200, samples: random.int(1, 3), of: 3 },
      ]),
      jitter: random.pick([0, 0.1, 0.5]),
      maxSurge,
      maxUnavailable: maxSurge === 0 ? random.int(1, 2) : random.pick([0, 0, 1]),
      minLifetimeMs: random.pick([0, 1_000]),
    },
    restart: {
      backoffMinMs: ms(500, 10),
      backoffMaxMs: ms(10_000, 10),
      resetAfterMs: ms(30_000, 100, longMs),
      quarantineAfter: random.int(1, 4),
    },
    drain: { timeoutMs: ms(20_000, 0, longMs - 1), killAfterMs: ms(6_000, 0, longMs - 1) },
    orphanTimeoutMs: ms(60_000, 1_000, longMs - 1),
    queue: { maxRequests: random.pick([5, 40]), maxBytes: random.pick([60, 10_000]) },
    request: {
      timeoutMs: ms(random.pick([2_000, 15_000]), 10, longMs, 2 ** 32 + 1),
      maxAttempts: random.int(1, 3),
      killAfterMs,
      affinity: random.pick(['off', 'hint', 'strict'] as const),
      // Answers are let go by time alone here; test/dispatch/delivery.property.test.ts has the other bounds.
      keep: { forMs: keepMs, maxResults: 10_000, maxBytes: 1e9 },
    },
    limits: { pids: 0, memoryBytes: 0, openFiles: 0 },
    telemetry: { maxSeries: 100 },
    poison: random.pick([
      { after: 0, forMs: 0 },
      { after: 2, forMs: 60_000 },
    ]),
  };
}

/** Most start well and live; the rest are what operators fear. */
export function drawBehaviour(random: Random): WorkerBehaviour {
  const sound = random.chance(0.7);
  const odd = (usual: number, ...others: readonly number[]): number =>
    sound || random.chance(0.8) ? usual : random.pick(others);
  return {
    isBlocked: !sound && random.chance(0.1),
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

export function drawWish(random: Random): Wish {
  const rare: readonly [string, number][] = [
    ['crash', 0.0125],
    ['stuck', 0.006],
    ['unknown', 0.005],
  ];
  const usual = random.pick(['short', 'short', 'short', 'long', 'long', 'async', 'stream']);
  const command = rare.find(([, share]) => random.chance(share))?.[0] ?? usual;
  return {
    pool: random.chance(0.8) ? 'p' : random.chance(0.95) ? 'q' : 'nowhere',
    command,
    sessionId: random.chance(0.3) ? `s${random.int(0, 5)}` : '',
    hasCallerId: random.chance(0.5),
    idempotent: random.chance(0.4),
    timeoutMs: random.chance(0.2) ? random.int(1, 3_000) : random.chance(0.02) ? longMs : never,
    streams: command === 'stream' && random.chance(0.95),
    payload: command === 'crash' ? `poison ${random.int(0, 3)}` : '',
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

/** The behaviour of all workers at the end, when nothing disturbs the host any more. */
export function calmBehaviour(random: Random): WorkerBehaviour {
  return {
    ...{
      isBlocked: false,
      spawnMs: 1,
      attachMs: random.int(50, 800),
      diesMs: never,
      marksBegun: true,
      stopMs: 10,
      termMs: 10,
    },
    ...{ killMs: 2, sweepMs: 2, latencyMs: 0.1, ignoresCancels: false, warmUpMs: 5, warmUpFails: false },
  };
}
