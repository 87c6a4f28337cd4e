import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { followAgent, processesOf, root, until, untilReady } from './agent.ts';

// What a new user does, in order, with one agent from `npm start`.

let agent: TestAgent;
const dir = mkdtempSync(join(tmpdir(), 'pw-'));

beforeAll(async () => {
  const flags = ['--runtime-dir', join(dir, 'run'), '--state-dir', join(dir, 'state'), '--http', '127.0.0.1:0'];
  agent = await followAgent('npm', ['start', '--silent', '--', ...flags], dir, { cwd: root });
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

test('the agent logs each worker as it becomes ready, and then a command to try', async () => {
  await until(() => agent.output().includes('ready to serve'), 'the last line', agent.output);
  const lines = agent.output().split('\n');
  const ready = lines.findIndex((line) => line.includes('ready to serve'));
  const workers = lines.filter((line) =>
    /^\d\d:\d\d:\d\d (text|matrix|faults)-\d-\w+ ready: ready in [\d.]+ s$/.test(line),
  );
  expect(workers).toHaveLength(4);
  expect(lines.findLastIndex((line) => line.includes(' ready: ready in '))).toBeLessThan(ready);
  expect(lines[ready]).toContain('pitwarden call text summarize --file README.md');
});

test('status and workers show what runs', async () => {
  const status = await agent.cli('status');
  expect(status.stdout).toMatch(/^text +running +2\/2 /m);
  const workers = await agent.cli('workers');
  expect(workers.stdout.split('\n').filter((line) => / ready +well /.test(line))).toHaveLength(4);
});

test('call text summarize --file README.md answers with sentences of that file', async () => {
  const { code, stdout } = await agent.cli('call', 'text', 'summarize', '--file', join(root, 'README.md'));
  expect(code).toBe(0);
  expect(stdout.length).toBeGreaterThan(100);
  expect(stdout).toContain('worker');
});

test('a streamed call prints its results one by one', async () => {
  const { stdout } = await agent.cli('call', 'text', 'tokens', '--stream', '--args', '{"text": "one two three"}');
  expect(stdout).toBe('one\ntwo\nthree\n');
});

test('numpy answers, and wrong shapes are reported as the caller’s mistake', async () => {
  const { stdout } = await agent.cli('call', 'matrix', 'solve', '--args', '{"a": [[2, 0], [0, 4]], "b": [1, 2]}');
  expect(JSON.parse(stdout)).toEqual([0.5, 0.5]);
  const wrong = await agent.cli('call', 'matrix', 'solve', '--args', '{"a": [[1, 2]], "b": [1]}');
  expect(wrong.code).toBe(1);
  expect(wrong.stderr).toMatch(/^INVALID_ARGUMENT: pitwarden.InvalidArgument: a: expected a square matrix, got 1×2\n/);
});

test('scale changes the size from 2 to 4 to 1', async () => {
  expect((await agent.cli('scale', 'text', '4')).stdout).toBe('pool text: size 4\n');
  await untilReady(agent, 'text', 4);
  await agent.cli('scale', 'text', '1');
  await until(async () => (await agent.workers('text')).length === 1, 'one worker to be left');
  expect(await untilReady(agent, 'text', 1)).toMatchObject([{ slot: 0 }]);
});

test('recycle starts the replacement before the old worker goes', async () => {
  const [old] = await untilReady(agent, 'text', 1);
  const told = await agent.cli('recycle', old?.worker_id ?? '');
  expect(told.stdout).toBe(`worker ${old?.worker_id}: ready (operator)\n`);
  const [fresh] =
    (await until(async () => {
      const workers = await agent.workers('text');
      expect(workers.some((worker) => worker.state === 'WORKER_STATE_READY')).toBe(true);
      return workers.length === 1 && workers[0]?.generation === (old?.generation ?? 0) + 1 ? workers : undefined;
    }, 'the replacement alone to be left')) ?? [];
  expect(fresh?.slot).toBe(old?.slot);
});

test('start, stop and drain of a worker change the size of the pool', async () => {
  await agent.cli('start', 'text');
  const [, second] = await untilReady(agent, 'text', 2);
  await agent.cli('stop', second?.worker_id ?? '');
  await until(async () => (await agent.workers('text')).length === 1, 'it to be gone');
  await agent.cli('start', 'text');
  const [, third] = await untilReady(agent, 'text', 2);
  await agent.cli('drain', third?.worker_id ?? '');
  await until(async () => (await agent.workers('text')).length === 1, 'it to be gone');
});

test('a worker killed by kill -9 is replaced, and calls are answered again', async () => {
  const [victim] = await untilReady(agent, 'text', 1);
  process.kill(victim?.pid ?? 0, 'SIGKILL');
  await until(
    async () => (await untilReady(agent, 'text', 1))[0]?.generation === (victim?.generation ?? 0) + 1,
    'a new one',
  );
  expect((await agent.cli('call', 'text', 'count_words', '--args', '["a"]')).stdout).toBe('{\n  "a": 1\n}\n');
});

test('a drained pool refuses calls until it is resumed, whatever else is scaled, started or resumed', async () => {
  await agent.cli('drain', 'text');
  const call = () => agent.cli('call', 'text', 'count_words', '--args', '["a"]');
  const refusal = { code: 1, stderr: 'UNAVAILABLE: pool text is draining\n' };
  expect(await call()).toMatchObject(refusal);
  const hint = /still drained \(\S*pitwarden resume text --socket \S+\)\n$/;
  expect((await agent.cli('scale', 'text', '1')).stdout).toMatch(hint);
  const { code, stderr } = await agent.cli('start', 'text');
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(/^FAILED_PRECONDITION: .*ResumePool \(pitwarden resume text\)/),
  ]);
  expect((await agent.cli('resume')).stdout).toMatch(hint);
  expect(await call()).toMatchObject(refusal);
  await agent.cli('drain', '--node');
  expect((await agent.cli('resume', 'text')).stdout).toMatch(
    /^pool text: running, but its node is drained \(\S*pitwarden resume --socket \S+\)\n$/,
  );
  expect(await call()).toMatchObject(refusal);
  expect((await agent.cli('resume')).stdout).toMatch(/^node \S+: running\n$/);
  expect((await call()).code).toBe(0);
});

test('SIGTERM exits with 0, and no process is left', async () => {
  expect(processesOf(dir).length).toBeGreaterThan(0);
  const agentPid = (await agent.json<{ node: { pid: number } }>('status')).node.pid;
  process.kill(agentPid, 'SIGTERM');
  expect(await agent.exited).toEqual({ code: 0, signal: null });
  expect(processesOf(dir)).toEqual([]);
});
