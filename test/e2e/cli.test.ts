import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { node, python, root, runToEnd, spawnAgent, until, untilLogged, untilReady } from './agent.ts';
import { connect } from './grpc.ts';

// The command line passes input and output unchanged, and foreign text cannot harm its reader.

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
const pool = `{ app: awkward:app, python: ${python}, cwd: ${root}test/fixtures`;
let agent: TestAgent;

beforeAll(async () => {
  agent = await spawnAgent(`p: ${pool} }\nq: ${pool}, size: 2 }`, 'log: { format: pretty }');
  await untilReady(agent, 'p', 1);
  await untilReady(agent, 'q', 2);
});

afterAll(async () => {
  rmSync(dir, { recursive: true });
  await agent.stop();
});

/** Characters that control a terminal, including tab but not newline. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
const acts = /[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/;
const evil = ['x\r12:00:00 pool safe added: all is well\u001b[K \u001b]0;title\u0007\u009b8m\u202e'];

describe('the progress that a command reports', () => {
  const gateOf = (name: string) => join(dir, name);
  const waits = (name: string) => ['report', JSON.stringify([gateOf(name)])] as const;

  test('is shown on stderr by `call --progress`, and by `workers`', async () => {
    const [command, args] = waits('cli');
    const call = agent.cli('call', 'p', command, '--args', args, '--progress');
    await until(async () => (await agent.cli('workers')).stdout.includes('42%, shard \\x1b[31m2 of 5'), 'the report');
    const [worker] = JSON.parse((await agent.cli('workers', '--pool', 'p', '--json')).stdout) as object[];
    expect(worker).toMatchObject({ progress: 0.42, progress_message: expect.stringContaining('2 of 5') });
    writeFileSync(gateOf('cli'), '');
    const { code, stdout, stderr } = await call;
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'done\n' });
    expect(stderr.trimEnd().split('\n').at(-1)).toBe('progress: 42%, shard \\x1b[31m2 of 5');
    expect((await agent.cli('workers')).stdout).not.toContain('42%');
  });

  const newest = { fraction: 0.42, message: 'shard \\x1b[31m2 of 5' };

  test('reaches callers of ExecuteStream and Submit that request it', async () => {
    const caller = connect(agent.socket);
    const [command, args] = waits('streams');
    const request = { pool: 'p', command, payload: Buffer.from(args), progress: true, request_id: 'asks' };
    const submits = caller.submit();
    submits.write({ items: [{ request }] });
    submits.end();
    const stream = caller.stream('q', command, JSON.parse(args), { progress: true });
    const [streamed, submitted] = [collect<Streamed>(stream), collect<Submitted>(submits)];
    await until(
      () => streamed.messages.at(-1)?.progress?.message === newest.message,
      'the newest report in the stream',
    );
    const last = () => submitted.messages.at(-1)?.results.at(-1);
    await until(() => last()?.progress?.message === newest.message, 'the newest report of Submit');
    expect(streamed.messages.at(-1)).toMatchObject({ progress: newest, content_type: '' });
    expect(last()).toMatchObject({ request_id: 'asks', progress: newest, outcome: 'progress', more: true });
    writeFileSync(gateOf('streams'), '');
    await Promise.all([streamed.end, submitted.end]);
    expect(streamed.messages.at(-1)).toMatchObject({ payload: Buffer.from('"done"'), progress: null });
    expect(last()).toMatchObject({ response: { payload: Buffer.from('"done"') }, outcome: 'response', more: false });
    // Thousands of reports were made within some tens of milliseconds.
    expect(streamed.messages.length).toBeLessThan(100);
    caller.close();
  });

  test('does not reach callers that did not request it, nor callers of Execute', async () => {
    const caller = connect(agent.socket);
    const [command, args] = waits('silent');
    const streamed = collect<Streamed>(caller.stream('p', command, JSON.parse(args)));
    await until(async () => (await agent.cli('workers')).stdout.includes('42%'), 'the report');
    writeFileSync(gateOf('silent'), '');
    await streamed.end;
    expect(streamed.messages).toMatchObject([{ payload: Buffer.from('"done"'), progress: null }]);
    await expect(caller.execute('p', command, JSON.parse(args), { progress: true })).rejects.toMatchObject({
      code: 3,
      message: expect.stringContaining('progress: expected false in Execute'),
    });
    caller.close();
  });

  test('reaches the callback of a Python client, whose call returns the single result', async () => {
    const script = `
import sys, pathlib, pitwarden
gate = pathlib.Path(sys.argv[2])
def seen(fraction, message):
    print(fraction, message)
    if fraction == 0.42:
        gate.touch()
with pitwarden.Client(sys.argv[1]) as client:
    print(client.options(on_progress=seen).call("p", "report", str(gate)))
`;
    const { code, stdout, stderr } = await runToEnd(python, ['-c', script, agent.socket, gateOf('python')]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/0.42 shard \\x1b\[31m2 of 5\ndone\n$/);
  });
});

test('a result is printed as the worker sent it: large integers, 1.0 and the order of keys', async () => {
  const row = '{"id":9007199254740993,"10":"ten","2":"two","ratio":1.0}';
  const { stdout } = await agent.cli('call', 'p', 'row');
  expect(stdout.replaceAll(/\s/g, '')).toBe(row);
  expect(stdout.split('\n')).toHaveLength(7);
  expect((await agent.cli('call', 'p', 'row', '--json')).stdout.trimEnd().replaceAll(' ', '')).toBe(row);
  expect((await agent.cli('call', 'p', 'number')).stdout).toBe('12345678901234567890\n');
  expect((await agent.cli('call', 'p', 'echo', '--args', '[[9007199254740993, 1.0]]')).stdout).toBe(
    '[\n  9007199254740993,\n  1.0\n]\n',
  );
});

test('--bytes sends a file or stdin unchanged, while text that is not UTF-8 is refused', async () => {
  const bytes = Buffer.from([0xef, 0xbb, 0xbf, 0, 0xff, 0x80, 0x0a, 0xc3]);
  const file = join(dir, 'bytes');
  writeFileSync(file, bytes);
  const command = [node, join(root, 'bin/pitwarden'), 'call', 'p', 'echo', '--socket', agent.socket, '--bytes'];
  const hexOf = async (shell: string) => (await runToEnd('sh', ['-c', `${shell} | od -An -v -tx1`])).stdout.trim();
  const sent = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
  expect(await hexOf(`${command.join(' ')} --file ${file}`)).toBe(sent);
  expect(await hexOf(`${command.join(' ')} --stdin < ${file}`)).toBe(sent);
  const refused = await agent.cli('call', 'p', 'echo', '--file', file);
  expect(refused).toMatchObject({
    code: 2,
    stderr: '--file: expected UTF-8 text, got other bytes; --bytes sends them as they are\n',
  });
  writeFileSync(file, '\ufeffa b\r\n');
  expect((await agent.cli('call', 'p', 'echo', '--file', file)).stdout).toBe('\ufeffa b\r\n\n');
});

test("control characters of workers reach neither the log nor the caller's terminal", async () => {
  const args = ['--args', JSON.stringify(evil)];
  await agent.cli('call', 'p', 'show', ...args);
  await until(() => agent.output().includes('bad input'), 'the line in the log');
  expect(agent.output()).not.toMatch(acts);
  const failed = await agent.cli('call', 'p', 'fail', ...args);
  expect(failed.stderr).toContain('UNKNOWN: builtins.ValueError: x\\r12:00:00 pool safe added');
  expect(failed.stderr).not.toMatch(acts);
  const unknown = await agent.cli('call', 'p', '\u001b[Knone');
  expect(unknown.stderr).toContain('\\x1b[Knone');
  expect(unknown.stderr).not.toMatch(acts);
  expect((await agent.cli('explain', '\u001b[K')).stderr).not.toMatch(acts);
});

test('the result of a command is escaped on a terminal, and unchanged in a pipe', async () => {
  const args = ['call', 'p', 'echo', '--socket', agent.socket, '--args', JSON.stringify(evil)];
  const pty = 'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))';
  const onTerminal = await runToEnd(python, ['-c', pty, node, join(root, 'bin/pitwarden'), ...args]);
  expect(onTerminal.stdout.replaceAll('\r\n', '\n')).not.toMatch(acts);
  expect(onTerminal.stdout).toContain('x\\r12:00:00 pool safe added');
  expect((await agent.cli(...args)).stdout).toBe(`${evil[0]}\n`);
});

test('with --json an error is JSON on stderr, and stdout stays empty', async () => {
  const errorOf = async (...args: string[]): Promise<[number, unknown]> => {
    const { code, stdout, stderr } = await agent.cli(...args, '--json');
    expect(stdout).toBe('');
    return [code, (JSON.parse(stderr) as { error: unknown }).error];
  };
  expect(await errorOf('call', 'p', 'fail', '--args', JSON.stringify(evil))).toEqual([
    1,
    expect.objectContaining({
      status: 'UNKNOWN',
      type: 'builtins.ValueError',
      message: evil[0],
      traceback: expect.stringContaining('Traceback'),
      worker_id: expect.stringMatching(/^p-0-/),
      exit_code: 1,
    }),
  ]);
  expect(await errorOf('scale', 'none', '1')).toEqual([
    1,
    { status: 'NOT_FOUND', message: expect.stringContaining('got "none"'), exit_code: 1 },
  ]);
  expect(await errorOf('scale', 'p')).toEqual([2, { message: "missing required argument 'size'", exit_code: 2 }]);
  const nobody = await runToEnd(node, [join(root, 'bin/pitwarden'), 'status', '--json', '--socket', join(dir, 'no')]);
  expect(JSON.parse(nobody.stderr)).toMatchObject({ error: { exit_code: 3 } });
});

test('every command accepts the beginning of a worker’s id if it is unique', async () => {
  const [first] = await untilReady(agent, 'q', 2);
  const short = first?.worker_id.slice(0, -3) ?? '';
  const several = await agent.cli('stop', 'q-');
  expect(several).toMatchObject({ code: 2, stderr: expect.stringContaining('got 2 (q-0-') });
  expect((await agent.cli('stop', 'p')).stderr).toMatch(/^NOT_FOUND: .* got "p"/);
  expect((await agent.cli('explain', short)).stdout).toContain(first?.worker_id);
  const recycled = await agent.cli('recycle', short);
  expect(recycled.stdout).toContain(`worker ${first?.worker_id}: `);
  await until(
    async () => !(await agent.workers('q')).some(({ worker_id }) => worker_id === first?.worker_id),
    'it to go',
  );
  const [, second] = await untilReady(agent, 'q', 2);
  expect((await agent.cli('drain', second?.worker_id.slice(0, -1) ?? '')).stdout).toContain(second?.worker_id);
  const [last] = await untilReady(agent, 'q', 1);
  expect((await agent.cli('stop', last?.worker_id.slice(0, -1) ?? '')).stdout).toContain(last?.worker_id);
});

test('commands lists all commands with the first line of their docstrings', async () => {
  const { stdout } = await agent.cli('commands', 'p');
  expect(stdout).toMatch(/^POOL +COMMAND +RESULTS +SUMMARY\n/);
  expect(stdout).toMatch(/^p +count +stream +Yields the numbers below n: one response each\.$/m);
  expect(stdout).toMatch(/^p +row +one$/m);
  const listed = await agent.json<{ name: string; summary: string; streams: boolean }[]>('commands', 'p');
  expect(listed.find(({ name }) => name === 'long')?.summary).toBe(`${'x'.repeat(199)}…`);
  expect((await agent.cli('commands', 'none')).stderr).toContain("expected one of this node's pools (p, q)");
});

test('the command that the agent suggests can be pasted', async () => {
  await until(() => agent.output().includes('ready to serve'), 'the last line', agent.output);
  const command = /ready to serve; try: (.*)/.exec(agent.output())?.[1] ?? '';
  expect(command).toBe(`bin/pitwarden status --socket ${agent.socket}`);
  expect(await runToEnd('sh', ['-c', `cd ${root} && ${command}`])).toMatchObject({ code: 0, stderr: '' });
});

test('a worker’s log records keep their level in the agent’s log, and a traceback is one entry', async () => {
  await agent.cli('call', 'p', 'log', '--args', '["a\\nb"]');
  const entry = /^\S+ error: p-0-\w+ \| could not use it\n {4}Traceback .*\n( {4}.*\n)+ {4}ValueError: a\n {4}b$/m;
  await until(
    () => entry.test(agent.output()),
    'the traceback',
    () => agent.output(),
  );
  await untilLogged(agent, /^\S+ p-0-\w+ \| got a\n {4}b$/m);
});

interface Streamed {
  readonly progress?: { readonly message: string } | null;
}

interface Submitted {
  readonly results: readonly Streamed[];
}

function collect<Message>(stream: Readable) {
  const messages: Message[] = [];
  stream.on('data', (message: Message) => messages.push(message));
  return { messages, end: once(stream, 'end') };
}
