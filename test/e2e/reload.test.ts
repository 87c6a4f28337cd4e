import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, processesOf, python, spawnAgent, until, untilLogged, untilReady } from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect } from './grpc.ts';

// What a reload may encounter, with one agent.

let agent: TestAgent;
let client: TestClient;

const text = (keys: string) => `text: { app: text:app, python: ${python}, cwd: ${examples}, ${keys} }`;

beforeAll(async () => {
  agent = await spawnAgent(text('size: 1'));
  client = connect(agent.socket);
  await untilReady(agent, 'text', 1);
});

afterAll(async () => {
  client.close();
  await agent.stop();
});

const configError = async () => (await agent.json<{ node: { config_error: string } }>('status')).node.config_error;

test('a file that is not a configuration is refused with the reason, and the agent and its workers continue', async () => {
  const file = join(agent.dir, 'pitwarden.yaml');
  const before = await agent.workers('text');
  const refused = async (expected: RegExp): Promise<void> => {
    agent.signal('SIGHUP');
    await until(async () => expected.test(await configError()), String(expected), configError);
    expect((await client.execute('text', 'count_words', ['a'])).value).toEqual({ a: 1 });
  };
  writeFileSync(file, `pools: { ${text('start: { warm_up: x, warm_up_args: &x { y: *x } }')} }`);
  await refused(/an alias is inside the value that it refers to/);
  writeFileSync(file, `pools: { ${text('size: 1')}, __proto__: { app: text:app } }`);
  await refused(/pools.__proto__: expected another key/);
  rmSync(file);
  execFileSync('mkfifo', [file]);
  await refused(/expected a file, got a FIFO/);
  rmSync(file);
  agent.config(text('size: 2'));
  agent.signal('SIGHUP');
  await untilReady(agent, 'text', 2);
  expect(await configError()).toBe('');
  expect((await agent.workers('text')).map(({ pid }) => pid)).toContain(before[0]?.pid);
});

test('a key that takes effect at the next start is named in the log and in status', async () => {
  const file = join(agent.dir, 'pitwarden.yaml');
  writeFileSync(file, `node: { id: another }\npools: { ${text('size: 2')} }`);
  agent.signal('SIGHUP');
  const needed = async () => (await agent.json<{ node: { restart_needed: string[] } }>('status')).node.restart_needed;
  await until(async () => (await needed()).length > 0, 'it to be told', agent.output);
  expect(await needed()).toEqual(['node.id']);
  expect((await agent.cli('status')).stdout).toContain("in effect with the agent's next start: node.id");
  await untilLogged(agent, /"level":"?(40|warn)"?.*restart_needed/);
});

test('a request with a deadline a year away does not cause a busy timer', async () => {
  const reloads = () => agent.output().split('"pool_changed"').length;
  const before = reloads();
  agent.config(text('size: 2, request: { timeout: 365d }'));
  agent.signal('SIGHUP');
  await until(() => reloads() > before, 'the reload', agent.output);
  // A caller without a deadline gets the pool's.
  expect((await agent.cli('call', 'text', 'count_words', '--args', '["a"]')).code).toBe(0);
  expect(agent.output()).not.toContain('TimeoutOverflowWarning');
});

test('running workers apply the orphan_timeout and the drain timeout of a reload', async () => {
  const other = await spawnAgent(text('size: 1'));
  await untilReady(other, 'text', 1);
  other.config(text('size: 1, orphan_timeout: 1s, drain: { timeout: 1s, kill_after: 1m }'));
  other.signal('SIGHUP');
  await until(() => other.output().includes('"pool_changed"'), 'the reload', other.output);
  // The frame with the limits arrives before the answer to a later request.
  const asking = connect(other.socket);
  await asking.execute('text', 'count_words', ['a']);
  asking.close();
  other.signal('SIGKILL');
  await other.exited;
  // With its original limits it would wait for a minute, and its guardian even longer.
  await until(
    () => processesOf(other.dir).length === 0,
    'the worker to leave',
    () => processesOf(other.dir),
    20_000,
  );
  rmSync(other.dir, { recursive: true, force: true });
});

test('plan shows what a reload would change, and reload applies it', async () => {
  const before = (await agent.workers('text')).length;
  agent.config(text(`size: ${before + 1}, env: { A: '1' }, queue: { max_requests: 9 }`));
  const planned = await agent.cli('plan');
  expect(planned.code).toBe(0);
  expect(planned.stdout.split('\n')).toEqual([
    `pool text (${before} → ${before + 1} workers):`,
    `  scale: from ${before} to ${before + 1} workers: the configuration changes`,
    '  start 1 worker: the pool grows',
    `  replace ${before} workers: env: as recycle.max_surge allows`,
    expect.stringMatching(/^ {2}configure: .*queue.max_requests/),
    '',
  ]);
  expect((await agent.cli('reload', '--plan')).stdout).toBe(planned.stdout);
  expect((await agent.workers('text')).length).toBe(before);
  const applied = await agent.json<{ applied: boolean; plan: { pools: object[] } }>('reload');
  expect(applied).toMatchObject({ applied: true, plan: { pools: [{ pool: 'text', size_planned: before + 1 }] } });
  await untilReady(agent, 'text', before + 1);
  expect((await agent.cli('plan')).stdout).toBe('nothing changes\n');
});

test('reload prints all problems of the file with line and column, and changes nothing', async () => {
  const file = join(agent.dir, 'pitwarden.yaml');
  const before = await agent.workers('text');
  writeFileSync(file, `pools:\n  text: { app: text:app, size: many }\n  Other: { app: a:b }\nlisten: nowhere\n`);
  const problems = [`${file}:2:32: pools.text.size: `, `${file}:3:3: pools.Other`, `${file}:4:9: listen: `];
  for (const command of ['plan', 'reload']) {
    const { code, stderr } = await agent.cli(command);
    expect(code).toBe(1);
    for (const problem of problems) expect(stderr).toContain(problem);
  }
  const refused = await agent.cli('reload', '--json');
  expect(refused.code).toBe(1);
  expect(JSON.parse(refused.stdout)).toMatchObject({
    applied: false,
    plan: null,
    problems: expect.arrayContaining([
      { file, line: 2, column: 32, path: 'pools.text.size', message: expect.stringContaining('many') },
    ]),
  });
  expect((await agent.workers('text')).map(({ pid }) => pid)).toEqual(before.map(({ pid }) => pid));
  expect(await configError()).toContain('pools.text.size');
});
