import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, Metadata } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { clients } from '../../src/grpc/proto.ts';
import type { TestAgent } from './agent.ts';
import { followAgent, python, root, runToEnd, until, untilReady } from './agent.ts';

// Runs what README.md shows, and compares the output with what README.md shows.

const readme = readFileSync(join(root, 'README.md'), 'utf8');
const dir = mkdtempSync(join(tmpdir(), 'pw-'));
let agent: TestAgent;

beforeAll(async () => {
  const flags = ['--runtime-dir', join(dir, 'run'), '--state-dir', join(dir, 'state'), '--http', '127.0.0.1:0'];
  agent = await followAgent('npm', ['start', '--silent', '--', ...flags], dir, { cwd: root });
  for (const [pool, count] of [
    ['text', 2],
    ['matrix', 1],
    ['faults', 1],
  ] as const)
    await untilReady(agent, pool, count);
});

afterAll(() => agent.stop());

test('npm start prints what README.md shows', () => {
  const shown = block('', '$ npm start')
    .split('\n')
    .filter((line) => /^\d/.test(line));
  const printed = agent.output().trimEnd().split('\n');
  expect(printed.map(withoutParticulars).sort()).toEqual(shown.map(withoutParticulars).sort());
});

test('each command of the shell session in README.md prints what it shows', async () => {
  const session = block('sh', '$ bin/pitwarden').split(/^\$ /m).slice(1);
  expect(session.length).toBeGreaterThan(5);
  for (const shown of session) {
    const [command = '', ...output] = shown.trimEnd().split('\n');
    const { code, stdout, stderr } = await shell(command);
    expect(stderr).toBe('');
    expect(code).toBe(0);
    expect(withoutParticulars(stdout.trimEnd()), command).toBe(withoutParticulars(output.join('\n')));
  }
});

test('the summary shown in README.md is the one of README.md', async () => {
  const command = /`(bin\/pitwarden call text summarize [^`]*)`/.exec(readme)?.[1] ?? '';
  const { stdout } = await shell(command);
  expect(stdout.length).toBeGreaterThan(80);
  expect(readme.replaceAll(/\s+/g, ' ')).toContain(stdout.trim().split(' ').slice(0, 4).join(' '));
});

test('the ten-line worker of README.md works in the pool that it shows', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pw-'));
  symlinkSync(join(root, '.venv'), join(folder, '.venv'));
  writeFileSync(join(folder, 'words.py'), block('python', '@app.command'));
  writeFileSync(join(folder, 'words.yaml'), block('yaml', 'words:app'));
  const flags = ['--runtime-dir', join(folder, 'run'), '--state-dir', join(folder, 'state'), '--http', '127.0.0.1:0'];
  const args = [join(root, 'bin/pitwarden'), 'agent', '--config', join(folder, 'words.yaml'), ...flags];
  const words = await followAgent(process.execPath, args, folder);
  await untilReady(words, 'words', 4);
  expect((await words.cli('call', 'words', 'longest', '--args', '["a bcd e"]')).stdout).toBe('bcd\n');
  expect((await words.cli('call', 'words', 'tokens', '--stream', '--args', '["a b"]')).stdout).toBe('a\nb\n');
  await words.stop();
});

test('the Node client of README.md prints the answer', async () => {
  const script = join(root, `.readme-${process.pid}.mjs`);
  writeFileSync(script, withSocket(block('js', 'proto-loader')));
  const { code, stdout, stderr } = await runToEnd(process.execPath, [script]).finally(() => rmSync(script));
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: '{ a: 2, b: 1 }\n', stderr: '' });
});

test('the Python client of README.md prints the answers', async () => {
  const { code, stdout, stderr } = await runToEnd(python, ['-c', withSocket(block('python', 'pitwarden.Client'))]);
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "{'a': 2, 'b': 1}\none\nby\none\n", stderr: '' });
});

test('the grpcurl command of README.md sends a valid request', async () => {
  const lines = block('grpcurl', 'grpcurl').trimEnd().split('\n');
  expect(lines).toHaveLength(2);
  for (const line of lines) {
    const match = /^grpcurl -plaintext (?:-d '(.*)' )?unix:\S+ pitwarden\.v1\.(Execution|Control)\/(\w+)$/.exec(line);
    const [, data = '{}', service, method = ''] = match ?? [];
    const sent = JSON.parse(data) as { payload?: string };
    const request = { ...sent, payload: Buffer.from(sent.payload ?? '', 'base64') };
    const client = new clients[service as 'Execution' | 'Control'](
      `unix:${agent.socket}`,
      credentials.createInsecure(),
    );
    const answer = await new Promise<{ payload?: Buffer; workers?: unknown[] }>((resolve, reject) => {
      const call = (client as unknown as Record<string, (...args: unknown[]) => void>)[method];
      call?.call(client, request, new Metadata(), (error: Error | null, value: object) =>
        error ? reject(error) : resolve(value),
      );
    });
    client.close();
    expect(answer.payload?.toString() ?? answer.workers?.length).toEqual(
      answer.payload ? '{"a":2,"b":1}' : expect.any(Number),
    );
  }
});

test('every file that README.md links to exists', async () => {
  const links = [...readme.matchAll(/\]\(([^)#:]+)\)/g)].map((match) => match[1] ?? '');
  expect(links.length).toBeGreaterThan(5);
  for (const link of links)
    await until(
      () => readable(join(root, link)),
      `${link} to be there`,
      () => '',
      0,
    );
});

/** The first fenced code block of a language that contains these words. */
function block(language: string, words: string): string {
  const blocks = [...readme.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)];
  const found = blocks.find((match) => match[1] === language && match[2]?.includes(words));
  if (found?.[2] === undefined) throw new Error(`README.md: expected a block of "${language}" with ${words}, got none`);
  return found[2];
}

/** Clock times, ids, pids, ports, host names and column widths differ from run to run. */
function withoutParticulars(text: string): string {
  return (
    text
      // Whether cgroups are available depends on the machine.
      .replaceAll(/(?:each worker runs in its own cgroup below|worker trees are killed by) .*/g, 'HOW TREES ARE KILLED')
      // Before replacing the host's name, which may be as short as `vm` and occur in an id by chance.
      .replaceAll(/(\w+)-\d-\w{8}/g, '$1-ID')
      .replaceAll(hostname(), 'my-host')
      .replaceAll(/\d\d:\d\d:\d\d /g, '')
      .replaceAll(/unix:\S+/g, 'unix:SOCKET')
      .replaceAll(/ --socket \S+/g, '')
      .replaceAll(/127\.0\.0\.1:\d+/g, 'ADDRESS')
      .replaceAll(/in [\d.]+ s/g, 'in TIME')
      .replaceAll(/pid \d+ {2}up \S+/g, 'pid PID  up TIME')
  );
}

function withSocket(text: string): string {
  return text.replaceAll('/run/pitwarden/agent.sock', agent.socket);
}

function shell(command: string): Promise<{ code: number; stdout: string; stderr: string }> {
  return runToEnd('sh', ['-c', `cd '${root}' && PITWARDEN_SOCKET='${agent.socket}' ${command}`]);
}

function readable(path: string): boolean {
  try {
    readFileSync(path);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EISDIR';
  }
}
