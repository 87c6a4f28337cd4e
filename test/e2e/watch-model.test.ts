import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, python, spawnAgent, until } from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect } from './grpc.ts';
import { Mirror, textOf } from './mirror.ts';

// A control plane that follows a node by Watch knows what lists show, at every revision, whatever happens to workers, streams and
// agents meanwhile.

const poolOf = (name: string): string =>
  `${name}: { app: text:app, python: ${python}, cwd: ${examples}, size: 1, restart: { backoff: { min: 50ms } } }`;
const twoPools = [poolOf('a'), poolOf('b')].join('\n');
const quickly = { 'grpc.initial_reconnect_backoff_ms': 100, 'grpc.max_reconnect_backoff_ms': 200 };

/** A list at the revision that it shows. */
interface Listed {
  readonly agentId: string;
  readonly revision: number;
  readonly what: 'node' | 'pools' | 'workers';
  /** Only workers of this pool; '': all. */
  readonly pool: string;
  readonly text: string;
}

const names = ['a', 'b'] as const;
const actions = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('scale'), pool: fc.constantFrom(...names), size: fc.nat(3) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('kill-worker'), index: fc.nat(5) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('order'),
      method: fc.constantFrom('StopWorker', 'DrainWorker', 'RecycleWorker'),
      index: fc.nat(5),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constantFrom('drain', 'resume', 'roll'), pool: fc.constantFrom(...names) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('drain-node', 'resume-node', 'add-pool', 'remove-pool') }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('cut') }) },
);
type Action = typeof actions extends fc.Arbitrary<infer T> ? T : never;
const pauses = fc.constantFrom(0, 0, 5, 50, 200);
/** What is done to the agent once, between the two halves of the other actions. */
const endings = fc.constantFrom('kill -9', 'handover', 'stop');

class Scene {
  agent: TestAgent;
  client: TestClient;
  readonly dir: string;
  readonly mirrors: Mirror[];
  readonly listed: Listed[] = [];

  private constructor(agent: TestAgent, dir: string) {
    this.agent = agent;
    this.dir = dir;
    this.client = connect(agent.socket, quickly);
    this.mirrors = [new Mirror(this.client), new Mirror(this.client, 'a')];
  }

  static async start(): Promise<Scene> {
    const dir = mkdtempSync(join(tmpdir(), 'pw-'));
    return new Scene(await spawnAgent(twoPools, '', dir), dir);
  }

  async act(action: Action): Promise<void> {
    if (action.do === 'cut') for (const mirror of this.mirrors) mirror.cut();
    else await this.#change(action);
    await this.list();
  }

  async #change(action: Action): Promise<void> {
    const { client, agent } = this;
    const pool = 'pool' in action ? action.pool : '';
    const { workers } = await client.control<{ workers: { worker_id: string; pid: number }[] }>('ListWorkers');
    const worker = 'index' in action ? workers[action.index % Math.max(1, workers.length)] : undefined;
    if (action.do === 'scale' && 'size' in action) await client.control('ScalePool', { pool, size: action.size });
    if (action.do === 'kill-worker' && worker !== undefined && worker.pid > 0) killIfThere(worker.pid);
    if ('method' in action && worker !== undefined) await this.#order(action.method, worker.worker_id);
    if (action.do === 'drain') await client.control('DrainPool', { pool });
    if (action.do === 'resume') await client.control('ResumePool', { pool });
    if (action.do === 'roll') client.roll({ pool }).on('error', () => undefined);
    if (action.do === 'drain-node') await client.control('DrainNode');
    if (action.do === 'resume-node') await client.control('ResumeNode');
    if (action.do === 'add-pool') agent.config(`${twoPools}\n${poolOf('c')}`);
    if (action.do === 'remove-pool') agent.config(twoPools);
    if (action.do.endsWith('-pool')) agent.signal('SIGHUP');
  }

  /** The worker may have ended meanwhile. */
  async #order(method: string, workerId: string): Promise<void> {
    await this.client.control(method, { worker_id: workerId }).catch((error: { code: number }) => {
      if (error.code !== 5) throw error;
    });
  }

  async list(): Promise<void> {
    const { client, listed } = this;
    const before = await client.control<{ agent_id: string; revision: number }>('GetNode');
    const agentId = before.agent_id;
    const add = (what: Listed['what'], pool: string, revision: number, views: object[]): void => {
      listed.push({ agentId, what, pool, revision, text: textOf(views) });
    };
    add('node', '', before.revision, [before]);
    const pools = await client.control<{ pools: object[]; revision: number }>('ListPools');
    add('pools', '', pools.revision, pools.pools);
    for (const pool of ['', 'a']) {
      const { revision, workers } = await client.control<{ workers: object[]; revision: number }>('ListWorkers', {
        pool,
      });
      add('workers', pool, revision, workers);
    }
  }

  async endAgent(how: string): Promise<void> {
    if (how === 'kill -9') this.agent.signal('SIGKILL');
    else if (how === 'stop') this.agent.signal('SIGTERM');
    else await this.client.control('Handover');
    await this.agent.exited;
    this.agent = await spawnAgent(twoPools, '', this.dir);
    const isThere = () =>
      this.client.control('GetNode').then(
        () => true,
        () => false,
      );
    await until(isThere, 'the next agent to answer', this.agent.output);
  }

  /** Waits until the mirrors know what the last lists showed. */
  async untilCaughtUp(): Promise<void> {
    await this.list();
    const last = this.listed.at(-1);
    if (last === undefined) return;
    await until(
      () => this.mirrors.every((mirror) => mirror.isAt(last.agentId, last.revision)),
      `the mirrors to know revision ${last.revision}`,
      () => this.agent.output().slice(-2_000),
    );
  }

  async close(): Promise<void> {
    for (const mirror of this.mirrors) mirror.close();
    this.client.close();
    await this.agent.stop();
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Compares each list with what the models showed at its revision. Returns how many could be compared. */
function compare({ listed, mirrors: [whole, ofPool] }: Scene): number {
  let compared = 0;
  for (const { agentId, revision, what, pool, text } of listed) {
    const moment = (pool === 'a' ? ofPool : whole)?.at(agentId, revision);
    // The mirror was not there yet.
    if (moment === undefined) continue;
    compared += 1;
    expect({ what, pool, revision, text: moment[what] }).toEqual({ what, pool, revision, text });
  }
  return compared;
}

test('a model kept by Watch equals lists at each revision, over broken streams, kills and other ends of the agent', {
  timeout: 300_000,
}, async () => {
  const timed = fc.tuple(actions, pauses);
  const half = fc.array(timed, { minLength: 8, maxLength: 14 });
  await fc.assert(
    fc.asyncProperty(half, endings, half, async (first, ending, second) => {
      const scene = await Scene.start();
      const run = async (some: typeof first): Promise<void> => {
        for (const [action, pauseMs] of some) {
          await scene.act(action);
          await delay(pauseMs);
        }
        await scene.untilCaughtUp();
      };
      try {
        await scene.untilCaughtUp();
        await run(first);
        await scene.endAgent(ending);
        await scene.untilCaughtUp();
        await run(second);
        const compared = compare(scene);
        expect(compared).toBeGreaterThan(scene.listed.length * 0.8);
        expect(scene.mirrors.flatMap(({ failures }) => failures)).toEqual([]);
        // The other agent has other revisions, so each mirror begins again, and only then.
        expect(scene.mirrors.map(({ restarted }) => restarted)).toEqual([1, 1]);
        const cuts = [...first, ...second].filter(([{ do: what }]) => what === 'cut').length;
        if (cuts > 0) expect(scene.mirrors.every(({ resumed }) => resumed > 0)).toBe(true);
      } finally {
        await scene.close();
      }
    }),
    { numRuns: 3, endOnFailure: true },
  );
});
