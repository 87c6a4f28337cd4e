import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const program = new URL('../../bin/pitwarden', import.meta.url).pathname;

test.each([
  ['a command that nobody knows', ['nonsense'], 2],
  ['a socket where nobody is', ['status', '--socket', '/nowhere'], 3],
  ['a configuration that is not there', ['agent', '--config', '/nowhere'], 2],
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

test('an output that takes nothing is an error, and not the end of a reader that has seen enough', () => {
  const full = openSync('/dev/full', 'w');
  const { status, stderr } = spawnSync(process.execPath, [program, 'version'], { stdio: ['ignore', full, 'pipe'] });
  closeSync(full);
  expect(stderr.toString()).toMatch(/^stdout: expected to write the whole output, got ENOSPC/);
  expect(status).toBe(1);
});
