import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { runProcess, startProcess } from '../../src/os/process/child-process.ts';

const dist = (name: string): string => JSON.stringify(new URL(`../../dist/os/${name}.js`, import.meta.url).pathname);
const env = { PATH: '/usr/bin:/bin' };

/** Runs a script in a process that has used up all its descriptors. */
function withoutDescriptors(script: string): unknown {
  const code = `
import { openSync } from 'node:fs';
import { holdSpares } from ${dist('spare-descriptors')};
import { startProcess } from ${dist('process/child-process')};
const useUp = () => { try { for (;;) openSync('/dev/null'); } catch (error) { return error.code; } };
const start = (options) => startProcess('/bin/sh', ['-c', 'exit 3'], { env: {}, ...options }).ended;
${script}`;
  const args = ['-c', 'ulimit -n 60; exec "$@"', 'sh', process.execPath, '--input-type=module', '-e', code];
  const { stdout, stderr } = spawnSync('sh', args, { encoding: 'utf8' });
  expect(stderr).toBe('');
  return JSON.parse(stdout);
}

test('a start that finds no free descriptor returns an error and does not throw', () => {
  const ended = withoutDescriptors(`
useUp();
const ended = [];
for (const stdin of ['ignore', 'pipe']) ended.push(await start({ stdin, stdout: 'pipe' }));
console.log(JSON.stringify(ended));`);
  const message = 'all file descriptors that this process may open are in use (EMFILE)';
  expect(ended).toEqual(Array(2).fill({ started: false, error: { code: 'EMFILE', message } }));
});

test('the reserve lets a process start although all other descriptors are in use', () => {
  const ended = withoutDescriptors(`
holdSpares();
useUp();
const ended = [];
for (let count = 0; count < 3; count += 1) ended.push(await start({ stdin: 'pipe', stdout: 'pipe', stderr: 'pipe' }));
console.log(JSON.stringify(ended));`);
  expect(ended).toEqual(Array(3).fill({ started: true, code: 3, signal: null }));
});

test('starting a missing program, or in a missing folder, returns an error that says so', async () => {
  const missing = await startProcess('/no/such/program', [], { env }).ended;
  expect(missing).toEqual({ started: false, error: { code: 'ENOENT', message: 'no such file or folder' } });
  const folder = await startProcess('/', [], { env }).ended;
  expect(folder).toMatchObject({ started: false, error: { code: 'EACCES' } });
});

test('an environment that is too large returns an error, although Node throws', async () => {
  const ended = await startProcess('/bin/true', [], { env: { ...env, LARGE: 'x'.repeat(4 * 1024 * 1024) } }).ended;
  expect(ended).toMatchObject({ started: false, error: { code: 'E2BIG' } });
});

test('a run returns the output, and the reason if it failed', async () => {
  expect(await runProcess('sh', ['-c', 'echo out; echo err >&2'], { timeoutMs: 5_000 })).toMatchObject({
    ok: true,
    stdout: 'out\n',
    stderr: 'err\n',
  });
  expect(await runProcess('sh', ['-c', 'exit 4'], { timeoutMs: 5_000 })).toMatchObject({
    ok: false,
    why: 'exited with code 4',
  });
  expect(await runProcess('sh', ['-c', 'kill -9 $$'], { timeoutMs: 5_000 })).toMatchObject({
    why: 'ended by SIGKILL',
  });
});

test('a run settles within its timeout even if a descendant keeps its output open', async () => {
  const result = await runProcess('sh', ['-c', 'sleep 20 & echo $!'], { timeoutMs: 300 });
  expect(result).toMatchObject({ ok: false, why: 'expected it to exit within 300 ms' });
  process.kill(Number(result.stdout), 'SIGKILL');
});
