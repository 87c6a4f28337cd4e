import { once } from 'node:events';
import { mkdtempSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ClientReadableStream } from '@grpc/grpc-js';
import { credentials, status } from '@grpc/grpc-js';
import { afterEach, expect, test } from 'vitest';
import { clients } from '../../src/grpc/proto.ts';
import type { TestAgent } from './agent.ts';
import { examples, followAgent, node, processesOf, python, root, spawnAgent, until, untilReady } from './agent.ts';
import type { Answer, TestClient } from './grpc.ts';
import { connect, Failure } from './grpc.ts';

const poolsWith = (more = '') => `
faults: { app: faults:app, python: ${python}, cwd: ${examples}, size: 2, drain: { timeout: 20s }${more} }
`;
const pools = poolsWith();

let agent: TestAgent;
let client: TestClient;

afterEach(async () => {
  client?.close();
  await agent?.stop();
});

test('a handover answers running requests, exits with 75, and leaves the workers to the successor', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  const first = await spawnAgent(pools, '', dir);
  agent = first;
  const before = await untilReady(first, 'faults', 2);
  client = connect(first.socket);
  const running = client.execute('faults', 'sleep', [6]);
  await until(async () => (await first.workers()).some((worker) => worker.in_flight === 1), 'the request to run');

  const handover = first.cli('handover', '--json');
  const ended = first.exited.then(async (exit) => {
    agent = await spawnAgent(pools, '', dir);
    return exit;
  });
  expect((await running).value).toBe(6);
  expect(await ended).toEqual({ code: 75, signal: null });
  const { code, stdout, stderr } = await handover;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const told = JSON.parse(stdout);
  expect(told).toMatchObject({ from: { pid: first.pid }, to: { pid: agent.pid }, taken_over: 2, started: 0 });

  const after = await untilReady(agent, 'faults', 2);
  expect(after.map(({ pid }) => pid).sort()).toEqual(before.map(({ pid }) => pid).sort());
});

test('a handover ends long streams at once and accepts no new calls', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  writeFileSync(join(dir, 'pitwarden.yaml'), `pools:\n${poolsWith(', orphan_timeout: 2s').replace(/^(?=.)/gm, '  ')}`);
  const relative = ['agent', '--config', 'pitwarden.yaml', '--runtime-dir', 'run', '--state-dir=state'];
  const program = join(root, 'bin/pitwarden');
  agent = await followAgent(node, [program, ...relative, '--http', '127.0.0.1:0'], dir, { cwd: dir });
  await untilReady(agent, 'faults', 2);
  client = connect(agent.socket);
  const running = client.execute('faults', 'sleep', [6]);
  await until(async () => (await agent.workers()).some((worker) => worker.in_flight === 1), 'the request to run');
  const watched = watch(agent.socket);
  await watched.begun;
  const handover = agent.cli('handover', '--timeout', '1s');

  expect(await watched.failed).toMatchObject({
    code: status.UNAVAILABLE,
    details: 'the agent is shutting down; retry with its successor',
  });
  const late = await agent.cli('status');
  expect(late).toMatchObject({ code: 3 });
  expect((await running).value).toBe(6);
  expect(await agent.exited).toEqual({ code: 75, signal: null });

  const { code, stderr } = await handover;
  expect(code).toBe(1);
  expect(stderr).toContain(`the agent with pid ${agent.pid} has handed over, but no other agent answers`);
  expect(stderr).toContain(
    `bin/pitwarden agent --config ${agent.dir}/pitwarden.yaml --runtime-dir ${agent.dir}/run --state-dir=${agent.dir}/state`,
  );
  await until(() => processesOf(agent.dir).length === 0, 'its workers to leave, since no agent comes');
});

async function askAgain(ask: () => Promise<Answer>): Promise<Answer> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      const isDropped = error instanceof Failure && error.code === status.UNAVAILABLE && error.told === undefined;
      if (!isDropped) throw error;
    }
  }
}

test('with a socket from systemd, callers wait for the next agent, and no agent unlinks it', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  const socket = join(dir, 'run/agent.sock');
  const command: [string, ...string[]] = [python, join(root, 'test/fixtures/holds_socket.py'), socket, node];
  agent = await spawnAgent(pools, '', dir, command);
  await untilReady(agent, 'faults', 2);
  const inode = statSync(socket).ino;
  client = connect(socket);
  const calls = Array.from({ length: 20 }, (_, index) => client.execute('faults', 'sleep', [0.1 * (index % 5)]));
  const handover = agent.cli('handover', '--json');
  await until(() => /handing over/.test(agent.output()), 'the handover to begin');
  // A call that meets a GOAWAY may be dropped without an answer from the agent: then its caller retries.
  for (let index = 0; index < 20; index += 1) {
    calls.push(askAgain(() => client.execute('faults', 'sleep', [0.01], { request_id: `late-${index}` })));
  }
  await Promise.all(calls);
  const { code, stdout, stderr } = await handover;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(JSON.parse(stdout).taken_over).toBe(2);
  expect(statSync(socket).ino).toBe(inode);
  agent.signal('SIGTERM');
  expect(await agent.exited).toEqual({ code: 0, signal: null });
  expect(statSync(socket).ino).toBe(inode);
});

test('a handover that is told to stop stops together with its workers', async () => {
  agent = await spawnAgent(pools);
  await untilReady(agent, 'faults', 2);
  client = connect(agent.socket);
  const running = client.execute('faults', 'sleep', [8]);
  await until(async () => (await agent.workers()).some((worker) => worker.in_flight === 1), 'the request to run');
  const handover = agent.cli('handover', '--timeout', '1s');
  await until(() => /handing over/.test(agent.output()), 'the handover to begin');
  agent.signal('SIGTERM');
  expect((await running).value).toBe(8);
  expect(await agent.exited).toEqual({ code: 0, signal: null });
  expect((await handover).code).toBe(1);
});

test('a handover to an invalid configuration is refused, and nothing happens', async () => {
  agent = await spawnAgent(pools);
  await untilReady(agent, 'faults', 2);
  agent.config('faults: { app: faults:app, sizes: 2 }');
  const { code, stderr } = await agent.cli('handover');
  expect(code).toBe(1);
  expect(stderr).toMatch(
    /^FAILED_PRECONDITION: nothing was done, because the next agent would not start:\n.*sizes: unknown key/,
  );
  expect((await agent.cli('status')).code).toBe(0);
});

function watch(socket: string) {
  const control = new clients.Control(`unix:${socket}`, credentials.createInsecure());
  const call = control['Watch']?.({}) as unknown as ClientReadableStream<object>;
  const failed = once(call, 'error').then(([error]) => error as Error);
  return { begun: once(call, 'data'), failed: failed.finally(() => control.close()) };
}
