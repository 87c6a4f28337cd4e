import { isOpen } from '../../src/domain/roll.ts';
import { hold } from '../domain/invariants.ts';
import { disturbances, killWorker } from './disturbances.ts';
import type { Traits } from './draw.ts';
import { calmBehaviour, drawBehaviour, drawConfig, drawLeftovers, drawTraits, drawWish } from './draw.ts';
import { SimulatedHost } from './host.ts';
import type { Random } from './random.ts';
import { createRandom } from './random.ts';
import { createTrace } from './trace.ts';

export interface SimulationOutcome {
  readonly seed: number;
  /** What did not hold; empty: everything did. */
  readonly failure: string;
  readonly virtualMs: number;
  readonly steps: number;
  /** How many calls ended in which way. */
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
export async function simulate(seed: number, hours: number): Promise<SimulationOutcome> {
  const random = createRandom(seed);
  const trace = createTrace();
  const traits = drawTraits(random);
  const host = new SimulatedHost(random, trace, traits, drawConfig(random, traits), () => drawBehaviour(random));
  let failure = '';
  try {
    await live(host, random, traits, hours * 3_600_000);
  } catch (error) {
    failure = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  const { nowMs, steps, callers } = host;
  const { ended } = callers;
  return { seed, failure, virtualMs: nowMs, steps, ended, digest: trace.digest(), lastLines: trace.last() };
}

async function live(host: SimulatedHost, random: Random, traits: Traits, troubleMs: number): Promise<void> {
  host.start(drawLeftovers(random));
  const trouble = { over: false };
  repeat(
    host,
    trouble,
    () => random.gapMs(random.chance(0.02) ? gapMs.lull : gapMs.disturbance),
    () => {
      random.pick(disturbances)(host, random, traits);
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
      for (let burst = random.chance(0.05) ? 20 : 1; burst > 0; burst -= 1) host.callers.ask(drawWish(random));
    },
  );
  await host.run(troubleMs);
  trouble.over = true;
  await recover(host, random);
  await shutDown(host, random);
}

async function recover(host: SimulatedHost, random: Random): Promise<void> {
  host.callers.isCalm = true;
  host.behave = () => calmBehaviour(random);
  host.availableBytes = 1e9;
  host.disk.mood = 'quick';
  const agent = await host.nextAgent(calmMs);
  for (const worker of host.processes.values()) killWorker(worker);
  host.tell({ type: 'resume-node' });
  for (const pool of agent.state.pools.keys()) {
    host.tell({ type: 'resume-pool', pool });
    host.tell({ type: 'resume-roll', pool });
  }
  const isWhole = (): boolean =>
    host.callers.open.size === 0 &&
    [...agent.state.pools.values()].every(({ name, phase, size, roll }) => {
      const ready = [...agent.state.workers.values()].filter(
        (worker) => worker.pool === name && worker.phase === 'ready',
      );
      return phase === 'running' && ready.length >= size && (roll === null || !isOpen(roll));
    });
  hold(
    await host.run(calmMs, isWhole),
    'a calm host: expected whole pools, ended rolls and no request left, got none in time',
  );
}

async function shutDown(host: SimulatedHost, random: Random): Promise<void> {
  const { agent } = host;
  if (agent === undefined) throw new Error('the agent is dead');
  host.tell({ type: 'shutdown', how: random.pick(['drain', 'now'] as const) });
  hold(await host.run(calmMs, () => host.finished > 0), 'a shutdown comes to its end');
  for (const name of agent.state.pools.keys()) agent.dispatch.removePool(name);
  await host.run(60_000);
  hold(host.finished === 1, `finish: expected once, got ${host.finished} times`);
  hold(host.callers.open.size === 0, `${host.callers.open.size} requests never ended`);
  hold(host.processes.size === 0, `processes left after the shutdown: ${[...host.processes.keys()].join(', ')}`);
  const { nowMs } = host;
  // Past the farthest deadline.
  host.nowMs += 1e16;
  hold(agent.dispatch.expire() === never, 'a request is left to be timed');
  hold(agent.unclaimed.usedBytes === 0, `${agent.unclaimed.usedBytes} bytes are held for callers who have left`);
  host.nowMs = nowMs;
}

function repeat(host: SimulatedHost, trouble: { over: boolean }, gap: () => number, work: () => void): void {
  host.later(gap(), () => {
    if (trouble.over) return;
    work();
    repeat(host, trouble, gap, work);
  });
}
