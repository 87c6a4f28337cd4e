import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const program = new URL('../../bin/pitwarden', import.meta.url).pathname;

test.each([
  ['an unknown command', ['nonsense'], 2],
  ['a socket without an agent', ['status', '--socket', '/nowhere'], 3],
  ['a missing configuration', ['agent', '--config', '/nowhere'], 2],
])('%s has its exit code although nobody reads stderr', (_, args, code) => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  const path = join(dir, 'pipe');
  execFileSync('mkfifo', [path]);
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const broken = openSync(path, 'w');
  closeSync(reader);
  const { status } = spawnSync(process.execPath, [program, ...args], { stdio: ['ignore', 'ignore', broken] });
  closeSync(broken);
  rmSync(dir, { recursive: true });
  expect(status).toBe(code);
});

test('a full output is an error, unlike a reader that has closed the pipe', () => {
  const full = openSync('/dev/full', 'w');
  const { status, stderr } = spawnSync(process.execPath, [program, 'version'], { stdio: ['ignore', full, 'pipe'] });
  closeSync(full);
  expect(stderr.toString()).toMatch(/^stdout: expected to write the whole output, got ENOSPC/);
  expect(status).toBe(1);
});
