import type { DiskMood } from './disk.ts';
import { diskMoods } from './disk.ts';
import type { Traits } from './draw.ts';
import { drawConfig, drawWish } from './draw.ts';
import type { SimulatedHost } from './host.ts';
import type { Random } from './random.ts';
import type { SimulatedWorker } from './worker.ts';

/** What operators, other programs and faults do to a host. */
export type Disturbance = (host: SimulatedHost, random: Random, traits: Traits) => void;

export function killWorker(worker: SimulatedWorker): void {
  worker.harmed = true;
  worker.die({ code: null, signal: 'SIGKILL' });
}

function aWorker(host: SimulatedHost, random: Random): SimulatedWorker | undefined {
  const workers = [...host.processes.values()];
  return workers.length === 0 ? undefined : random.pick(workers);
}

const onWorker =
  (disturb: (worker: SimulatedWorker, random: Random) => void): Disturbance =>
  (host, random) => {
    const worker = aWorker(host, random);
    if (worker !== undefined) disturb(worker, random);
  };

function command(host: SimulatedHost, random: Random): void {
  const workerId = random.pick(['nobody', ...(host.agent?.state.workers.keys() ?? [])]);
  const pool = random.pick(['p', 'p', 'q']);
  if (random.chance(0.3)) return roll(host, random, pool);
  const chosen = random.int(0, 9);
  if (chosen <= 3) return host.tell({ type: 'recycle-worker', workerId });
  if (chosen <= 5) return host.tell({ type: 'scale', pool, size: random.int(0, 5) });
  if (chosen === 6) return host.tell({ type: 'drain-worker', workerId });
  if (chosen === 7) {
    const worker = host.processes.get(workerId);
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
  host.later(random.int(0, 15_000), () => host.tell(resume));
}

function roll(host: SimulatedHost, random: Random, pool: string): void {
  const type = random.pick(['roll', 'roll', 'roll', 'pause-roll', 'resume-roll', 'abort-roll'] as const);
  host.tell(type === 'roll' ? { type, pool, maxFailures: random.int(1, 4) } : { type, pool });
}

/** A link breaks while its agent and its worker live. */
function breakLink(worker: SimulatedWorker, random: Random): void {
  // A worker that takes so long is given up.
  const isSlow = random.chance(0.1);
  if (isSlow) worker.harmed = true;
  worker.loseLink(isSlow ? 8_000 : random.int(20, 500));
}

/** The agent is killed, now and then just after an order or under load, and the next one comes at once or later. */
function restart(host: SimulatedHost, random: Random): void {
  if (random.chance(0.3)) command(host, random);
  const namedAndLong = { pool: 'p', command: 'long', hasCallerId: true, streams: false, payload: '' } as const;
  for (let burst = random.pick([0, 0, 8]); burst > 0; burst -= 1) {
    host.callers.ask({ ...drawWish(random), ...namedAndLong, idempotent: false });
  }
  const afterMs = random.pick([0, 0, 100, 3_000, 20_000, 70_000]);
  host.later(random.int(1, 300), () => {
    if (!host.callers.isCalm) host.restart(afterMs);
  });
}

export const disturbances: readonly Disturbance[] = [
  command,
  command,
  onWorker(killWorker),
  /** Frozen, or with the GIL held: for less or for longer than it takes to count as hung. */
  onWorker((worker, random) => worker.freeze(random.pick([100, 2_000, 8_000, 30_000, 1e9]), random.chance(0.5))),
  onWorker((worker) => {
    worker.harmed = true;
    worker.terminate();
  }),
  onWorker((worker) => worker.retire()),
  onWorker(breakLink),
  onWorker(breakLink),
  /** All links at once: the agent's socket was replaced, say. */
  (host, random) => {
    if (random.chance(0.3)) for (const worker of host.processes.values()) breakLink(worker, random);
  },
  /** A leak at once. */
  onWorker((worker, random) => {
    worker.harmed = true;
    worker.memoryBytes += random.pick([300, 700, 2_000]);
  }),
  (host, random, traits) => {
    if (random.chance(0.3)) host.reload(drawConfig(random, traits));
    if (random.chance(0.1)) host.tell({ type: 'config-refused', message: 'a problem' });
  },
  /** The control plane manages the node. */
  (host, random, traits) => {
    if (traits.isManaged && random.chance(0.5)) host.intend();
  },
  /** Others on the host take its memory, or give it back. */
  (host, random) => {
    host.availableBytes = random.pick([4_000, 5_500, 1e9, 1e9]);
  },
  /** The disk is slow, full, or does not answer, for a while. */
  (host, random) => {
    const mood = random.pick<DiskMood>(diskMoods);
    host.disk.mood = mood;
    host.later(random.pick([300, 3_000, 20_000]), () => {
      if (host.disk.mood === mood) host.disk.mood = 'quick';
    });
  },
  /** The agent itself is held up. */
  (host, random) => host.lag(random.pick([50, 300, 2_000, 10_000])),
  (host, random) => {
    if (random.chance(0.5)) restart(host, random);
  },
  /** All workers of the host die at once. */
  (host, random) => {
    if (random.chance(0.1)) for (const worker of host.processes.values()) killWorker(worker);
  },
];
