import { readdirSync, readFileSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { python, root, spawnAgent, until } from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect } from './grpc.ts';

// A control plane sets intents, and the agent is killed before, in the middle of and after that.

let agent: TestAgent;
let client: TestClient;

const pool = (name: string) => `${name}: { app: survivor:app, python: ${python}, cwd: ${root}test/fixtures, size: 1 }`;
const pools = `${pool('a')}\n${pool('b')}`;

beforeAll(async () => {
  agent = await spawnAgent(pools);
  client = connect(agent.socket);
});

afterAll(async () => {
  client?.close();
  await agent?.stop();
});

/** No two generations that follow each other agree in a pool, so that a half of each would be seen. */
const sizesOf = (generation: number) => (generation % 2 === 0 ? { a: 2, b: 1 } : { a: 1, b: 2 });

function intent(generation: number, patch: object = {}) {
  const { a, b } = sizesOf(generation);
  const [open, drained] = ['POOL_ADMISSION_OPEN', 'POOL_ADMISSION_DRAINED'];
  const wanted = [
    { pool: 'a', size: a, admission: a === 1 ? open : drained },
    { pool: 'b', size: b, admission: b === 1 ? open : drained },
  ];
  return { cluster_uid: 'c-1', epoch: 5, generation, pools: wanted, drained: generation % 2 === 0, ...patch };
}

interface Node {
  readonly state: string;
  readonly managed_by: string;
  readonly cluster_uid: string;
  readonly epoch: number;
  readonly generation: number;
  readonly drift: string;
}
interface Pools {
  readonly pools: { readonly pool: string; readonly state: string; readonly size: number; readonly drift: string }[];
}

const set = (request: object) => client.control<{ changed: boolean; generation: number }>('SetDesired', request);

async function killAndStartNext(): Promise<void> {
  agent.signal('SIGKILL');
  await agent.exited;
  agent = await spawnAgent(pools, '', agent.dir);
  client.close();
  client = connect(agent.socket);
}

/** The generation in force, which is reached whole. */
async function generationInForce(): Promise<number> {
  const node = await client.control<Node>('GetNode');
  const listed = await client.control<Pools>('ListPools');
  const { a, b } = sizesOf(node.generation);
  const state = (size: number) => (size === 1 ? 'POOL_STATE_RUNNING' : 'POOL_STATE_DRAINING');
  expect(listed.pools.map(({ pool: name, size, state: is, drift }) => [name, size, is, drift])).toEqual([
    ['a', a, state(a), ''],
    ['b', b, state(b), ''],
  ]);
  const nodeState = node.generation % 2 === 0 ? 'NODE_STATE_DRAINING' : 'NODE_STATE_RUNNING';
  expect(node).toMatchObject({ cluster_uid: 'c-1', epoch: 5, state: nodeState, drift: '' });
  return node.generation;
}

async function refusesOutdated(generation: number): Promise<void> {
  const outdated: [object, string][] = [
    [intent(generation + 1, { epoch: 4 }), 'epoch: expected at least 5, got 4'],
    [intent(generation - 1), `generation: expected at least ${generation} in epoch 5, got ${generation - 1}`],
    [intent(generation, { pools: [] }), `generation: expected more than ${generation} in epoch 5 for other content`],
    [intent(generation + 1, { cluster_uid: 'c-2' }), 'cluster_uid: expected c-1'],
  ];
  for (const [request, message] of outdated) {
    await expect(set(request)).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      message: expect.stringContaining(message),
    });
  }
  expect(await set(intent(generation))).toMatchObject({ changed: false, generation });
  expect(await generationInForce()).toBe(generation);
}

test('outdated intents are refused and a repeated one changes nothing, before and after a kill -9 of the agent', async () => {
  await set(intent(2));
  expect(await set(intent(3))).toMatchObject({ changed: true });
  await refusesOutdated(3);
  await killAndStartNext();
  await refusesOutdated(3);
});

/** Where the agent is killed: at once, at an event of a file of the state folder, or when the call is answered. */
const cuts: ['sent' | 'answered' | RegExp, number][] = [
  ['sent', 0],
  [/^intent\.json\.new$/, 1],
  [/^intent\.json\.new$/, 2],
  [/^intent\.json$/, 1],
  [/^orders\.json\.new$/, 1],
  [/^orders\.json$/, 1],
  ['answered', 0],
];

test('a kill -9 in the middle of SetDesired leaves the earlier intent or the new one, whole, and an answered one holds', async () => {
  let [generation, taken] = [await generationInForce(), 0];
  for (const [cut, count] of cuts) {
    generation += 1;
    const kill = () => agent.signal('SIGKILL');
    let seen = 0;
    const watcher = watch(join(agent.dir, 'state'), (_, name) => {
      if (!(cut instanceof RegExp) || name === null || !cut.test(name)) return;
      seen += 1;
      if (seen === count) kill();
    });
    let answered = false;
    const call = set(intent(generation)).then(
      () => {
        answered = true;
      },
      (error: { code: number }) => expect(error.code).toBe(status.UNAVAILABLE),
    );
    if (cut === 'sent') kill();
    await call;
    if (cut instanceof RegExp) await until(() => seen >= count, `the cut at ${cut}`);
    watcher.close();
    await killAndStartNext();
    const inForce = await generationInForce();
    expect([generation - 1, generation], `cut at ${cut}`).toContain(inForce);
    if (answered) expect(inForce, `cut at ${cut}`).toBe(generation);
    if (inForce === generation) taken += 1;
    await refusesOutdated(inForce);
    await set(intent(generation));
  }
  // The last one was answered.
  expect(taken).toBeGreaterThan(0);
});

test('an intent holds after the agent was stopped and started again; a torn file is set aside, and the event says so', async () => {
  const generation = await generationInForce();
  const stopped = async () => {
    agent.signal('SIGTERM');
    await agent.exited;
  };
  const startNext = async () => {
    agent = await spawnAgent(pools, '', agent.dir);
    client.close();
    client = connect(agent.socket);
  };
  await stopped();
  await startNext();
  expect(await generationInForce()).toBe(generation);
  await stopped();
  const file = join(agent.dir, 'state/intent.json');
  writeFileSync(file, readFileSync(file).subarray(0, 100));
  await startNext();
  expect(await client.control<Node>('GetNode')).toMatchObject({ managed_by: '', epoch: 0, generation: 0 });
  const events = async () => (await agent.cli('events', '--since', '1h', '--kind', 'intent_lost')).stdout;
  await until(async () => /intent\.json: expected a complete file/.test(await events()), 'the event', events);
  expect(readdirSync(join(agent.dir, 'state/ledger-set-aside'))).toEqual([expect.stringMatching(/-intent\.json$/)]);
  expect(await set(intent(generation))).toMatchObject({ changed: true });
});

test('on a managed node the command line is refused, or shows drift by force, until the node is released', async () => {
  const { generation } = await client.control<Node>('GetNode');
  await set(
    intent(generation + 1, { drained: false, pools: [{ pool: 'a', size: 2, admission: 'POOL_ADMISSION_OPEN' }] }),
  );
  const refused = await agent.cli('scale', 'a', '1');
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain(
    `managed by a caller at control.sock (cluster c-1, epoch 5, generation ${generation + 1})`,
  );
  expect(refused.stderr).toContain('pitwarden fleet scale a SIZE');
  for (const command of [['start', 'a'], ['drain', 'a'], ['resume', 'a'], ['drain', '--node'], ['resume']])
    expect((await agent.cli(...command)).stderr, command.join(' ')).toContain('managed by');
  expect((await agent.cli('scale', 'a', '1', '--force')).stdout).toContain('pool a: size 1');
  const shown = (await agent.cli('status')).stdout;
  expect(shown).toContain(`managed by a caller at control.sock (cluster c-1, epoch 5, generation ${generation + 1})`);
  expect(shown).toContain('drift from the intent: pool a: size 1 instead of 2');
  const beat = await new Promise<object>((done, fail) => {
    const stream = client.report();
    stream.on('error', fail);
    stream.once('data', (message: object) => {
      stream.removeAllListeners('error').on('error', () => undefined);
      stream.cancel();
      done(message);
    });
  });
  expect(beat).toMatchObject({ cluster_uid: 'c-1', applied_epoch: 5, applied_generation: generation + 1 });
  // What was forced is newer than the intent, for the next agent too.
  await killAndStartNext();
  expect((await agent.cli('status')).stdout).toContain('drift from the intent: pool a: size 1 instead of 2');
  const events = async () => (await agent.cli('events', '--since', '1h', '--kind', 'intent_forced')).stdout;
  await until(async () => (await events()).includes('ScalePool by a caller at control.sock'), 'the event', events);
  expect((await agent.cli('release')).stderr).toContain('pitwarden release --force');
  expect((await agent.cli('release', '--force')).code).toBe(0);
  expect((await agent.cli('scale', 'a', '2')).code).toBe(0);
  expect((await agent.cli('status')).stdout).not.toContain('managed by');
  await expect(set(intent(generation))).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
  await killAndStartNext();
  await expect(set(intent(generation))).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
  expect(await set({ ...intent(1), cluster_uid: 'c-2', epoch: 1 })).toMatchObject({ changed: true });
});
