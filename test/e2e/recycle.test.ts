import { afterEach, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, python, root, spawnAgent, until, untilLogged, untilReady } from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect } from './grpc.ts';
import { scrape } from './http.ts';

let agent: TestAgent;
let client: TestClient;

afterEach(async () => {
  client?.close();
  await agent?.stop();
});

async function start(pools: string): Promise<void> {
  agent = await spawnAgent(pools);
  client = connect(agent.socket);
}

test('10,000 requests are all answered while both workers are recycled by age and by request budget', async () => {
  await start(`
text:
  app: text:app
  python: ${python}
  cwd: ${examples}
  size: 2
  recycle: { max_requests: 500, max_age: 5s, min_lifetime: 100ms }
`);
  await untilReady(agent, 'text', 2);
  const answeredBy = new Map<string, number>();
  let sent = 0;
  const caller = async (): Promise<void> => {
    while (sent < 10_000) {
      sent += 1;
      const words = `the ${sent} a a`;
      const { value, workerId } = await client.execute('text', 'count_words', [words]);
      expect(value).toEqual({ a: 2, the: 1 });
      answeredBy.set(workerId, (answeredBy.get(workerId) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: 16 }, caller));
  expect([...answeredBy.values()].reduce((sum, count) => sum + count, 0)).toBe(10_000);
  // Budgets are at most 500, so 10,000 requests need at least 10 generations, unless the replacements took all the
  // time.
  expect(answeredBy.size).toBeGreaterThan(4);
  const metrics = await scrape(agent.http);
  expect(metrics).toMatch(/pitwarden_worker_recycles_total\{pool="text",reason="request_budget"\} [1-9]/);
  expect(metrics).toContain('pitwarden_requests_total{pool="text",outcome="ok"} 10000');
});

test('an idle worker that reaches its maximum age is replaced by one that is ready before', async () => {
  await start(`
text:
  app: text:app
  python: ${python}
  cwd: ${examples}
  recycle: { max_age: 1500ms, min_lifetime: 100ms }
`);
  const [first] = await untilReady(agent, 'text', 1);
  const second = await until(
    async () =>
      (await agent.workers('text')).find((worker) => worker.generation >= 3 && worker.state === 'WORKER_STATE_READY'),
    'the third generation',
    () => agent.workers('text'),
  );
  expect(second.slot).toBe(first?.slot);
  await untilLogged(agent, '(ttl)');
});

test('a worker beyond its soft memory limit is recycled without a failed request, and one beyond its hard limit is killed', async () => {
  await start(`
faults:
  app: faults:app
  python: ${python}
  cwd: ${examples}
  recycle: { memory: { soft: 120MiB, hard: 400MiB } }
  restart: { backoff: { min: 100ms } }
`);
  const [first] = await untilReady(agent, 'faults', 1);
  let last = '';
  await until(
    async () => {
      last = (await client.execute('faults', 'leak', [4])).workerId;
      return last !== first?.worker_id;
    },
    'another worker to answer',
    () => agent.output().slice(-2000),
  );
  await untilLogged(agent, /reason":"memory"/);
  expect(agent.output()).not.toContain('memory_hard');

  // A single request that lasts until the kill: between two requests the kill could find the worker idle.
  const killed = client.execute('faults', 'leak', [600, 30]);
  await expect(killed).rejects.toMatchObject({ code: 14, told: { exit_reason: 'memory_hard', worker_id: last } });
  await until(async () => (await untilReady(agent, 'faults', 1))[0]?.worker_id !== last, 'a new worker');
  await client.execute('faults', 'leak', [1]);
});

test('a memory peak that is freed again does not recycle the worker', async () => {
  await start(`
faults:
  app: faults:app
  python: ${python}
  cwd: ${examples}
  recycle: { memory: { soft: 120MiB, hard: 2GiB } }
`);
  const [first] = await untilReady(agent, 'faults', 1);
  await client.execute('faults', 'allocate_and_free', [120]);
  await client.execute('faults', 'allocate_and_free', [120]);
  const workers = await agent.workers('faults');
  expect(workers).toHaveLength(1);
  expect(workers[0]).toMatchObject({ worker_id: first?.worker_id, reason: '', state: 'WORKER_STATE_READY' });
});

test('a reload adds, removes, resizes and changes pools while others serve, and an invalid file changes nothing', async () => {
  const text = (size: number, extra = '') =>
    `text: { app: text:app, python: ${python}, cwd: ${examples}, size: ${size}${extra} }`;
  const faults = `faults: { app: faults:app, python: ${python}, cwd: ${examples} }`;
  await start(`${text(1)}\n${faults}`);
  const [before] = await untilReady(agent, 'text', 1);

  agent.config(`${text(2)}\nmatrix: { app: matrix:app, python: ${python}, cwd: ${examples} }`);
  agent.signal('SIGHUP');
  await untilReady(agent, 'matrix', 1);
  await until(async () => (await agent.workers('faults')).length === 0, 'pool faults to go');
  expect((await untilReady(agent, 'text', 2)).map((worker) => worker.worker_id)).toContain(before?.worker_id);

  agent.config('text: { app: text:app, sise: 3 }');
  agent.signal('SIGHUP');
  await until(() => agent.output().includes('did you mean size?'), 'the problem to be told', agent.output);
  const { node } = await agent.json<{ node: { config_error: string } }>('status');
  expect(node.config_error).toContain('did you mean size?');
  expect(await untilReady(agent, 'text', 2)).toHaveLength(2);

  agent.config(text(2, ', env: { COLOUR: green }'));
  agent.signal('SIGHUP');
  await until(
    async () => (await untilReady(agent, 'text', 2)).every((worker) => worker.generation === 2),
    'both workers to be replaced',
    () => agent.workers('text'),
  );
});

test('a worker that asks for a replacement is replaced at once each time, without failures or lost requests', async () => {
  await start(`
p:
  app: awkward:app
  python: ${python}
  cwd: ${root}test/fixtures
`);
  await untilReady(agent, 'p', 1);
  const answeredBy = new Set<string>();
  for (let round = 0; round < 4; round += 1) {
    const { value, workerId } = await client.execute('p', 'retire', ['the model is broken']);
    expect(value).toBe('the last answer');
    answeredBy.add(workerId);
  }
  expect(answeredBy.size).toBe(4);
  const ended = await until(
    async () => {
      const exits = await agent.json<Record<string, unknown>[]>('exits');
      return exits.length === 4 ? exits : undefined;
    },
    'four exits',
    () => agent.json('exits'),
  );
  for (const exit of ended) expect(exit).toMatchObject({ reason: 'retired', exit_code: 0, unplanned: false });
  await untilLogged(agent, 'it asks to be replaced: the model is broken');
  expect(agent.output()).not.toContain('backing off');
});
