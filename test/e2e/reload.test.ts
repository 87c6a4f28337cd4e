import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, python, startAgent, until, untilReady } from './agent.ts';
import type { Connection } from './grpc.ts';
import { connect } from './grpc.ts';

// What a reload can come upon, told to one agent.

let agent: TestAgent;
let client: Connection;

const text = (keys: string) => `text: { app: text:app, python: ${python}, cwd: ${examples}, ${keys} }`;

beforeAll(async () => {
  agent = await startAgent(text('size: 1'));
  client = connect(agent.socket);
  await untilReady(agent, 'text', 1);
});

afterAll(async () => {
  client.close();
  await agent.stop();
});

const configError = async () => (await agent.json<{ node: { config_error: string } }>('status')).node.config_error;

test('a file that is no configuration is refused in words, and the agent and its workers go on', async () => {
  const file = join(agent.dir, 'pitwarden.yaml');
  const before = await agent.workers('text');
  const refused = async (expected: RegExp): Promise<void> => {
    agent.signal('SIGHUP');
    await until(async () => expected.test(await configError()), String(expected), configError);
    expect((await client.execute('text', 'count_words', ['a'])).value).toEqual({ a: 1 });
  };
  writeFileSync(file, `pools: { ${text('start: { warm_up: x, warm_up_args: &x { y: *x } }')} }`);
  await refused(/an alias stands within what it names/);
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
