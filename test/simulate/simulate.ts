import { isOpen } from '../../src/domain/roll.ts';
import { hold } from '../domain/invariants.ts';
import { calmBehaviour, drawBehaviour, drawConfig, drawLeftovers } from './draw.ts';
import { Host } from './host.ts';
import type { Random } from './random.ts';
import { createRandom } from './random.ts';
import { createTrace } from './trace.ts';
import type { SimulatedWorker } from './worker.ts';

export interface Outcome {
  readonly seed: number;
  /** What did not hold; empty: everything did. */
  readonly failure: string;
  readonly virtualMs: number;
  readonly steps: number;
  /** How many requests ended in which way. */
  readonly ended: ReadonlyMap<string, number>;
  /** The same for the same run. */
  readonly digest: string;
  readonly lastLines: readonly string[];
}

const never = Number.POSITIVE_INFINITY;
/** A calm host has whole pools within that, whatever was before: back-offs, kills that take long, slow sweeps. */
const calmMs = 180_000;
const gapMs = { disturbance: 4_000, lull: 60_000 } as const;

/** One host's life: a time of trouble, a calm in which it must recover, and a shutdown that leaves nothing. */
export function simulate(seed: number, hours: number): Outcome {
  const random = createRandom(seed);
  const trace = createTrace();
  const host = new Host(random, trace, () => drawBehaviour(random));
  let failure = '';
  try {
    live(host, random, hours * 3_600_000);
  } catch (error) {
    failure = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  const { nowMs, steps, ended } = host;
  return { seed, failure, virtualMs: nowMs, steps, ended, digest: trace.digest(), lastLines: trace.last() };
}

function live(host: Host, random: Random, troubleMs: number): void {
  host.tell({ type: 'config', config: drawConfig(random) });
  host.leave(drawLeftovers(random));
  const trouble = { over: false };
  repeat(
    host,
    trouble,
    () => random.gapMs(random.chance(0.02) ? gapMs.lull : gapMs.disturbance),
    () => {
      random.pick(disturbances)(host, random);
    },
  );
  // Load comes in waves, and at times is more than the pools can serve.
  let everyMs = 500;
  repeat(
    host,
    trouble,
    () => random.gapMs(20_000),
    () => {
      everyMs = random.pick([100, 500, 1_000, 3_000, 10_000]);
    },
  );
  repeat(
    host,
    trouble,
    () => random.gapMs(everyMs),
    () => {
      for (let burst = random.chance(0.05) ? 20 : 1; burst > 0; burst -= 1) ask(host, random);
    },
  );
  host.run(troubleMs);
  trouble.over = true;
  recover(host, random);
  shutDown(host, random);
}

function recover(host: Host, random: Random): void {
  host.behave = () => calmBehaviour(random);
  host.availableBytes = 1e9;
  for (const worker of host.workers.values()) kill(worker);
  host.tell({ type: 'resume-node' });
  for (const pool of host.state.pools.keys()) {
    host.tell({ type: 'resume-pool', pool });
    host.tell({ type: 'resume-roll', pool });
  }
  const isWhole = (): boolean =>
    host.open.size === 0 &&
    [...host.state.pools.values()].every(({ name, phase, size, roll }) => {
      const ready = [...host.state.workers.values()].filter(
        (worker) => worker.pool === name && worker.phase === 'ready',
      );
      return phase === 'running' && ready.length >= size && (roll === null || !isOpen(roll));
    });
  hold(
    host.run(calmMs, isWhole),
    'a calm host: expected whole pools, ended rolls and no request left, got none in time',
  );
}

function shutDown(host: Host, random: Random): void {
  host.tell({ type: 'shutdown', how: random.pick(['drain', 'now'] as const) });
  hold(
    host.run(calmMs, () => host.finished > 0),
    'a shutdown comes to its end',
  );
  for (const name of host.state.pools.keys()) host.dispatch.removePool(name);
  host.run(60_000);
  hold(host.finished === 1, `finish: expected once, got ${host.finished} times`);
  hold(host.open.size === 0, `${host.open.size} requests never ended`);
  hold(host.workers.size === 0, `processes left after the shutdown: ${[...host.workers.keys()].join(', ')}`);
}

function repeat(host: Host, trouble: { over: boolean }, gap: () => number, work: () => void): void {
  host.later(gap(), () => {
    if (trouble.over) return;
    work();
    repeat(host, trouble, gap, work);
  });
}

function ask(host: Host, random: Random): void {
  const command = random.pick(['short', 'short', 'short', 'long', 'async', 'stream', 'crash', 'long']);
  if (command === 'crash' && random.chance(0.9)) return;
  const asked = host.submit(
    {
      pool: random.chance(0.8) ? 'p' : random.chance(0.95) ? 'q' : 'nowhere',
      command: random.chance(0.005) ? 'unknown' : command,
      sessionId: random.chance(0.3) ? `s${random.int(0, 5)}` : '',
      hasCallerId: false,
      idempotent: random.chance(0.4),
      deadlineMs: random.chance(0.2) ? host.nowMs + random.int(1, 3_000) : never,
      streams: command === 'stream' && random.chance(0.95),
    },
    command === 'crash' ? `poison ${random.int(0, 3)}` : '',
  );
  const { request } = asked;
  if (request === undefined) return;
  const { dispatch } = host;
  // The next agent knows nothing of it.
  const later = (ms: number, work: () => void): void => host.later(ms, () => host.dispatch === dispatch && work());
  if (random.chance(0.05)) later(random.int(0, 500), () => dispatch.cancel(request, asked.answers));
  if (request.streams && random.chance(0.3)) {
    dispatch.pause(request, asked.answers);
    later(random.int(0, 2_000), () => dispatch.resume(request, asked.answers));
  }
}

type Disturbance = (host: Host, random: Random) => void;

function aWorker(host: Host, random: Random): SimulatedWorker | undefined {
  const workers = [...host.workers.values()];
  return workers.length === 0 ? undefined : random.pick(workers);
}

function kill(worker: SimulatedWorker): void {
  worker.harmed = true;
  worker.die('SIGKILL');
}

function command(host: Host, random: Random): void {
  const workerId = random.pick(['nobody', ...host.state.workers.keys()]);
  const pool = random.pick(['p', 'p', 'q']);
  if (random.chance(0.3)) return roll(host, random, pool);
  const chosen = random.int(0, 9);
  if (chosen <= 3) return host.tell({ type: 'recycle-worker', workerId });
  if (chosen <= 5) return host.tell({ type: 'scale', pool, size: random.int(0, 5) });
  if (chosen === 6) return host.tell({ type: 'drain-worker', workerId });
  if (chosen === 7) {
    const worker = host.workers.get(workerId);
    if (worker !== undefined) worker.harmed = true;
    return host.tell({ type: 'stop-worker', workerId, replace: random.chance(0.7) });
  }
  const [drain, resume] = random.chance(0.5)
    ? ([{ type: 'drain-node' }, { type: 'resume-node' }] as const)
    : ([
        { type: 'drain-pool', pool },
        { type: 'resume-pool', pool },
      ] as const);
  host.tell(drain);
  host.later(random.int(0, 5_000), () => host.tell(resume));
}

function roll(host: Host, random: Random, pool: string): void {
  const type = random.pick(['roll', 'roll', 'roll', 'pause-roll', 'resume-roll', 'abort-roll'] as const);
  host.tell(type === 'roll' ? { type, pool, maxFailures: random.int(1, 4) } : { type, pool });
}

const disturbances: readonly Disturbance[] = [
  command,
  command,
  (host, random) => {
    const worker = aWorker(host, random);
    if (worker !== undefined) kill(worker);
  },
  /** Frozen, or with the GIL held: for less or for longer than it takes to count as hung. */
  (host, random) => {
    const worker = aWorker(host, random);
    if (worker === undefined) return;
    worker.harmed = true;
    worker.freeze(random.pick([100, 2_000, 8_000, 30_000, 1e9]), random.chance(0.5));
  },
  (host, random) => {
    const worker = aWorker(host, random);
    if (worker === undefined) return;
    worker.harmed = true;
    worker.terminate();
  },
  /** A leak at once. */
  (host, random) => {
    const worker = aWorker(host, random);
    if (worker === undefined) return;
    worker.harmed = true;
    worker.memoryBytes += random.pick([300, 700, 2_000]);
  },
  (host, random) => {
    if (random.chance(0.3)) host.tell({ type: 'config', config: drawConfig(random) });
    if (random.chance(0.1)) host.tell({ type: 'config-refused', message: 'a problem' });
  },
  /** Others on the host take its memory, or give it back. */
  (host, random) => {
    host.availableBytes = random.pick([4_000, 5_500, 1e9, 1e9]);
  },
  /** The agent itself is held up. */
  (host, random) => host.lag(random.pick([50, 300, 2_000, 10_000])),
  /** The agent is killed, and the next one takes over. */
  (host, random) => {
    if (random.chance(0.3)) host.restart();
  },
  /** All workers of the host die at once. */
  (host, random) => {
    if (random.chance(0.1)) for (const worker of host.workers.values()) kill(worker);
  },
];
