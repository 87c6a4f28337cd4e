import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, processesOf, python, root, runToEnd, spawnAgent, until, untilLogged, untilReady } from './agent.ts';
import { connect } from './grpc.ts';

// Mistakes of users, and what they are told.

const bin = join(root, 'bin/pitwarden');
const text = `text: { app: text:app, python: ${python}, cwd: ${examples} }`;
let dir: string;
let agent: TestAgent | undefined;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
});

afterEach(async () => {
  await agent?.stop();
  agent = undefined;
  rmSync(dir, { recursive: true, force: true });
});

const cli = (...args: string[]) => runToEnd(process.execPath, [bin, ...args]);

function config(yaml: string): string {
  const file = join(dir, 'a.yaml');
  writeFileSync(file, yaml);
  return file;
}

function agentFlags(file: string, folder = dir): string[] {
  return ['agent', '--config', file, '--runtime-dir', join(folder, 'run'), '--state-dir', join(folder, 'state')];
}

test('without an agent, commands exit with 3, and say where they looked and what to do', async () => {
  for (const args of [['status'], ['workers'], ['call', 'text', 'x'], ['scale', 'text', '1'], ['events']]) {
    const { code, stdout, stderr } = await cli(...args, '--socket', join(dir, 'agent.sock'));
    expect(code).toBe(3);
    expect(stdout).toBe('');
    expect(stderr).toBe(
      `${join(dir, 'agent.sock')}: no agent runs there (ENOENT); ` +
        'start one with `bin/pitwarden agent --config FILE`, or name its socket with --socket PATH\n',
    );
  }
});

test('check and agent report all problems of an invalid config alike, and exit with 2', async () => {
  const file = config('http: 9464\npools:\n  text: { app: text, sise: 2 }\n');
  const checked = await cli('check', file);
  expect(checked).toMatchObject({ code: 2, stdout: '' });
  expect(checked.stderr.trimEnd().split('\n')).toEqual([
    `${file}:1:7: http: expected HOST:PORT such as 127.0.0.1:9464, got only a port; write 127.0.0.1:9464`,
    `${file}:3:16: pools.text.app: expected module:attribute of a pitwarden.App, such as text:app, got "text"`,
    `${file}:3:22: pools.text.sise: unknown key; did you mean size?`,
  ]);
  expect(await cli(...agentFlags(file))).toEqual(checked);
});

test('wrong arguments exit with 2, and say what was expected', async () => {
  const cases: [string[], RegExp][] = [
    [['agent'], /required option '--config <file>' not specified/],
    [['stauts'], /unknown command 'stauts'.*\n.*Did you mean status/],
    [['call', 'text'], /missing required argument 'command'/],
    [['call', 'text', 'x', '--args', '{'], /--args: expected a JSON object .* got "{"/],
    [['call', 'text', 'x', '--args', '3'], /--args: expected a JSON object .* got 3/],
    [['call', 'text', 'x', '--args', '[]', '--stdin'], /expected one of --args, --file and --stdin, got several/],
    [['call', 'text', 'x', '--file', join(dir, 'none')], /--file: ENOENT/],
    [['call', 'text', 'x', '--timeout', '5'], /--timeout: expected a duration .* did you mean 5s\?/],
    [['scale', 'text', 'two'], /SIZE: expected a whole number of at most 9 digits, got "two"/],
    // 2^32 + 3, whose lowest 32 bits are 3.
    [['scale', 'text', '4294967299'], /SIZE: expected a whole number of at most 9 digits, got "4294967299"/],
    [['drain'], /expected a pool, a worker id, or --node/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await cli(...args);
    expect(stderr).toMatch(message);
    expect({ args, code, stdout }).toEqual({ args, code: 2, stdout: '' });
  }
});

test('commands that stop or drain are never suggested, and --version prints the version', async () => {
  for (const word of ['stpo', 'drian', 'recylce', 'rol']) {
    const { code, stderr } = await cli(word);
    expect({ word, code }).toEqual({ word, code: 2 });
    expect(stderr).not.toContain('Did you mean');
  }
  expect((await cli('--version')).stdout).toBe((await cli('version')).stdout);
});

test('a folder that this user may not create is refused, with the reason and a remedy', async () => {
  const blocked = join(dir, 'file');
  writeFileSync(blocked, '');
  const agentIn = (runtime: string, state: string) =>
    cli('agent', '--config', config('pools: {}'), '--runtime-dir', runtime, '--state-dir', state, '--http', 'off');
  expect(await agentIn(join(blocked, 'run'), join(dir, 'state'))).toMatchObject({
    code: 1,
    stderr: `${blocked}/run: expected a folder that this user may make, got ENOTDIR at ${blocked}/run; name another folder with --runtime-dir DIR (config: runtime_dir)\n`,
  });
  expect(await agentIn(join(dir, 'run'), join(blocked, 'state'))).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('name another folder with --state-dir DIR (config: state_dir)'),
  });
});

test('a second agent in the same folder is refused with the pid of the first, which is not affected', async () => {
  agent = await spawnAgent(text);
  await untilReady(agent, 'text', 1);
  const second = await cli(...agentFlags(join(agent.dir, 'pitwarden.yaml'), agent.dir), '--http', '127.0.0.1:0');
  expect(second.code).toBe(1);
  expect(second.stderr).toContain(`expected no other agent to use it, got one with pid ${agent.pid}`);
  expect(second.stderr).toContain('folders of its own with --runtime-dir and --state-dir');
  expect((await agent.cli('call', 'text', 'count_words', '--args', '["a"]')).code).toBe(0);
});

test('after kill -9 of an agent the next one starts in its folder', async () => {
  const first = await spawnAgent(text);
  await untilReady(first, 'text', 1);
  first.signal('SIGKILL');
  await first.exited;
  agent = await spawnAgent(text, '', first.dir);
  await untilReady(agent, 'text', 1);
  await until(() => processesOf(first.dir).length === 1, 'only the new worker to be left');
});

test('a port in use is reported at once with exit code 1, no worker is started, and the folder is free again', async () => {
  const taken = createServer();
  await new Promise<void>((done) => taken.listen(0, '127.0.0.1', done));
  const { port } = taken.address() as { port: number };
  const file = config(`pools:\n  ${text}\n`);
  const http = await cli(...agentFlags(file), '--http', `127.0.0.1:${port}`);
  expect(http).toMatchObject({ code: 1, stderr: expect.stringContaining(`127.0.0.1:${port}: listen EADDRINUSE`) });
  expect(http.stderr).toContain('name another address with --http HOST:PORT (config: http), or off');
  const listen = await cli(...agentFlags(file), '--http', 'off', '--listen', `127.0.0.1:${port}`);
  expect(listen).toMatchObject({ code: 1, stderr: expect.stringContaining(`could not listen at 127.0.0.1:${port}`) });
  expect(listen.stderr).toContain('name another address with --listen HOST:PORT (config: listen), or off');
  expect(processesOf(dir)).toEqual([]);
  taken.close();
});

test('a TCP socket that a service manager passes is refused, because everybody could call everything there', async () => {
  const passing = `
import os, socket, sys
passed = socket.create_server(("127.0.0.1", 0))
os.dup2(passed.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])`;
  const flags = [...agentFlags(config('pools: {}')), '--http', 'off'];
  const refused = await runToEnd('python3', ['-c', passing, process.execPath, bin, ...flags]);
  expect(refused).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/expected a unix socket from the service manager .*, got TCP at 127\.0\.0\.1:\d+/),
  });
});

test('an interpreter without the SDK fails with the name of the missing module', async () => {
  const bare = join(dir, 'python');
  writeFileSync(bare, '#!/bin/sh\nexec python3 -S -I "$@"\n', { mode: 0o755 });
  agent = await spawnAgent(`bare: { app: text:app, python: ${bare}, cwd: ${examples} }`);
  await until(
    async () => (await agent?.cli('status'))?.stdout.includes("No module named 'pitwarden'"),
    'the reason',
    () => agent?.output(),
  );
});

test('--listen serves the API on a free loopback port with a warning, and refuses other addresses', async () => {
  agent = await spawnAgent(text, 'listen: 127.0.0.1:0');
  await untilReady(agent, 'text', 1);
  const { node } = await agent.json<{ node: { listen_address: string; warnings: string[] } }>('status');
  expect(node.listen_address).toMatch(/^127\.0\.0\.1:\d+$/);
  await untilLogged(agent, `gRPC at ${node.listen_address}`);
  const warning = `listen: gRPC at ${node.listen_address} has no authentication`;
  expect(node.warnings).toEqual([expect.stringContaining(warning)]);
  await untilLogged(agent, warning);
  expect((await agent.cli('status')).stdout).toContain(`warning: ${warning}`);
  const client = connect(node.listen_address);
  expect((await client.execute('text', 'count_words', ['a'])).value).toEqual({ a: 1 });
  await expect(client.control('DrainNode', {})).rejects.toMatchObject({ code: status.PERMISSION_DENIED });
  client.close();
  const refused = await cli(...agentFlags(config('pools: {}')), '--listen', '0.0.0.0:0');
  expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining('--listen: expected a loopback address') });
});

test('a full queue refuses requests with the time after which to retry', async () => {
  agent = await spawnAgent(
    `faults: { app: faults:app, python: ${python}, cwd: ${examples}, queue: { max_requests: 2 } }`,
  );
  await untilReady(agent, 'faults', 1);
  const client = connect(agent.socket);
  const calls = [1, 2, 3, 4, 5].map(() => client.execute('faults', 'sleep', [0.5]));
  const settled = await Promise.allSettled(calls);
  expect(settled.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
  for (const result of settled.filter(({ status }) => status === 'rejected')) {
    expect(result).toMatchObject({ reason: { code: 8, told: { retry_after_ms: expect.any(Number) } } });
  }
  client.close();
});

test('a caller that cancels frees the worker, because the cancellation reaches the command', async () => {
  agent = await spawnAgent(`faults: { app: faults:app, python: ${python}, cwd: ${examples} }`);
  await untilReady(agent, 'faults', 1);
  const client = connect(agent.socket);
  await expect(client.execute('faults', 'sleep', [60], {}, 300)).rejects.toMatchObject({ code: 4 });
  const next = await client.execute('faults', 'leak', [1], {}, 10_000);
  expect(next.value).toEqual({ leaked_mb: 1 });
  const stream = client.stream('faults', 'sleep', [60]);
  const cancelled = new Promise((resolve) => stream.once('error', resolve));
  await until(async () => (await agent?.workers('faults'))?.[0]?.in_flight === 1, 'the stream to run');
  stream.cancel();
  await cancelled;
  await until(async () => (await agent?.workers('faults'))?.[0]?.in_flight === 0, 'the worker to be free');
  client.close();
});
