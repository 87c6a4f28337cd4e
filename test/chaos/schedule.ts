import type { Random } from '../simulate/random.ts';
import type { ChaosAgent, ChaosWorker } from './agent.ts';
import { isWorker } from './agent.ts';
import type { Fate, Load } from './load.ts';
import type { Harm } from './oracle.ts';

export const pools = ['single', 'many'] as const;

/**
 * The disturbances of an agent while it serves. Times and kinds are drawn from a seed; the worker is one that is there at that
 * time.
 */
export interface Schedule {
  /** Done so far, by kind. */
  readonly done: ReadonlyMap<string, number>;
  /** The disturbances of each worker so far. */
  harmed(): ReadonlyMap<string, ReadonlySet<Harm>>;
  /** Nothing new; frozen workers go on. */
  end(): Promise<void>;
}

/** On average between two disturbances. */
const gapMs = 900;
/** Everything a disturbance needs. */
interface Stage {
  readonly agent: ChaosAgent;
  readonly load: Load;
  readonly random: Random;
  harm(workerId: string, harm: Harm): void;
  /** Its worker is known only when it has ended. */
  harmBy(fate: Fate, harm: Harm): void;
  later(ms: number, work: () => void): void;
}

const disturbances: Readonly<Record<string, { readonly weight: number; play(stage: Stage): Promise<void> }>> = {
  kill: { weight: 5, play: kill },
  freeze: { weight: 3, play: freeze },
  leak: { weight: 2, play: leak },
  hold: { weight: 2, play: hold },
  recycle: { weight: 5, play: recycle },
  roll: { weight: 2, play: async ({ agent, random }) => void agent.roll(random.pick(pools)) },
  scale: { weight: 2, play: ({ agent, random }) => agent.scale(random.pick(pools), random.int(1, 4)) },
  reload: { weight: 2, play: async ({ agent, random }) => agent.reload(drawConfig(random)) },
};

export function startSchedule(agent: ChaosAgent, load: Load, random: Random): Schedule {
  const done = new Map<string, number>();
  const harms = new Map<string, Set<Harm>>();
  const byFate: { fate: Fate; harm: Harm }[] = [];
  const timers = new Map<NodeJS.Timeout, () => void>();
  const kinds = Object.entries(disturbances).flatMap(([kind, { weight }]) => Array<string>(weight).fill(kind));
  const harm = (workerId: string, what: Harm): void => {
    harms.set(workerId, (harms.get(workerId) ?? new Set()).add(what));
  };
  const stage: Stage = {
    ...{ agent, load, random, harm },
    harmBy: (fate, what) => byFate.push({ fate, harm: what }),
    later: (ms, work) => {
      const timer = setTimeout(() => {
        timers.delete(timer);
        work();
      }, ms);
      timers.set(timer, work);
    },
  };
  let over = false;
  const play = async (): Promise<void> => {
    while (!over) {
      await new Promise((resolve) => setTimeout(resolve, random.gapMs(gapMs)));
      if (over) return;
      const kind = random.pick(kinds);
      // The worker may have gone meanwhile. Then there is no disturbance.
      await disturbances[kind]?.play(stage).catch((error: Error) => {
        if (!/no such worker|NOT_FOUND/i.test(error.message)) throw error;
      });
      done.set(kind, (done.get(kind) ?? 0) + 1);
    }
  };
  const played = play();
  return {
    done,
    harmed: () => {
      for (const { fate, harm: what } of byFate) harm(fate.workerId, what);
      return harms;
    },
    end: async () => {
      over = true;
      await played;
      for (const [timer, work] of timers) {
        clearTimeout(timer);
        work();
      }
    },
  };
}

async function aWorker({ agent, random }: Stage): Promise<ChaosWorker | undefined> {
  const workers = (await agent.workers()).filter(({ pid, pool }) => pid > 0 && pools.some((name) => name === pool));
  return workers.length === 0 ? undefined : random.pick(workers);
}

async function kill(stage: Stage): Promise<void> {
  const worker = await aWorker(stage);
  if (worker === undefined || !isWorker(worker.pid, worker.worker_id)) return;
  stage.harm(worker.worker_id, 'kill');
  process.kill(worker.pid, 'SIGKILL');
}

/** For less or for longer than it takes to count as hung. */
async function freeze(stage: Stage): Promise<void> {
  const worker = await aWorker(stage);
  const ms = stage.random.pick([300, 1_500, 9_000]);
  if (worker === undefined || !isWorker(worker.pid, worker.worker_id)) return;
  const { pid, worker_id } = worker;
  stage.harm(worker_id, 'freeze');
  process.kill(pid, 'SIGSTOP');
  stage.later(ms, () => {
    if (isWorker(pid, worker_id)) process.kill(pid, 'SIGCONT');
  });
}

/** Past the soft limit, or past the hard one at once. */
async function leak({ load, random, harmBy }: Stage): Promise<void> {
  const mib = random.pick([80, 80, 600]);
  harmBy(load.ask(random.pick(pools), 'leaks', [mib, mib > 500 ? 10 : 0.1]), 'leak');
}

async function hold({ load, random, harmBy }: Stage): Promise<void> {
  harmBy(load.ask(random.pick(pools), 'holds', [random.pick([0.3, 2, 5])]), 'hold');
}

async function recycle(stage: Stage): Promise<void> {
  const worker = await aWorker(stage);
  if (worker !== undefined) await stage.agent.recycle(worker.worker_id);
}

/** Sizes change, workers' environments change, and a pool that nobody calls comes and goes. */
function drawConfig(random: Random): string {
  const idle = random.chance(0.5) ? `  idle: { COMMON, env: { CHAOS_RUNS: 'FOLDER' } }\n` : '';
  return idle + configText(random.int(2, 3), random.int(1, 3), random.int(1, 3));
}

export function configText(single: number, many: number, colour: number): string {
  const common = [
    `COMMON, env: { CHAOS_RUNS: 'FOLDER', COLOUR: '${colour}' }`,
    'heartbeat: { interval: 500ms, timeout: 2s, max_missed: 2, busy_limit: 20s }',
    'restart: { backoff: { min: 100ms, max: 1s } }',
    'drain: { timeout: 20s, kill_after: 4s }',
    // No two requests are the same here: what crashes a worker is a signal.
    'poison: { after: off }',
  ].join(', ');
  const recycle = 'memory: { soft: 120MiB, hard: 400MiB }, min_lifetime: 1s';
  return [
    `  single: { ${common}, size: ${single}, recycle: { ${recycle}, max_requests: 3000, max_age: 40s } }`,
    `  many: { ${common}, size: ${many}, concurrency: 4, request: { session_affinity: hint }, recycle: { ${recycle}, max_age: 25s, max_surge: 2 } }`,
  ].join('\n');
}
