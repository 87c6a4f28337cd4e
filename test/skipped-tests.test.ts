import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
// @ts-expect-error: scripts are plain JavaScript.
import { mustRun } from '../scripts/skipped.mjs';

const root = join(import.meta.dirname, '..');
const folder = mkdtempSync(join(root, 'test/skipped-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('a test that was skipped is excused by what this machine lacks, and by nothing else', () => {
  const skipped = ['needs root', 'needs systemd: it is not installed', 'needs systemctl', 'later', 'later'];
  expect(
    mustRun(
      skipped.map((why) => ({ name: 'a', why })),
      'gevent, root,systemd',
    ),
  ).toEqual(['needs systemctl', 'later']);
});

test('both runners list the tests that they skip, with the reason', { timeout: 60_000 }, () => {
  const list = join(folder, 'list');
  writeFileSync(
    join(folder, 'some.test.ts'),
    `import { describe, test } from 'vitest';
     import { needs } from '../needs.ts';
     test('runs', needs('root', true), () => undefined);
     test('alone', needs('root', false), () => undefined);
     describe('all', needs('systemd', false, 'none'), () => { test('one', () => undefined); });
     test.each([1])('each %i', needs('mounts', false), () => undefined);
     test.skip('bare', () => undefined);
     test('inside', ({ skip }) => skip('as it says'));`,
  );
  writeFileSync(
    join(folder, 'test_some.py'),
    'import pytest\n@pytest.mark.skipif(True, reason="needs Linux")\ndef test_it(): pass\n',
  );
  const env = { ...process.env, SKIPPED_TESTS_FILE: list };
  spawnSync('node_modules/.bin/vitest', ['run', '--project', 'unit', join(folder, 'some.test.ts')], { cwd: root, env });
  spawnSync(join(root, '.venv/bin/pytest'), ['-q', join(folder, 'test_some.py'), '--confcutdir=.'], {
    cwd: join(root, 'python'),
    env: { ...env, PYTEST_PLUGINS: 'conftest', PYTHONPATH: join(root, 'python/tests') },
  });
  const listed = readFileSync(list, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(listed.map(({ name, why }) => [name.replace(/^.*(>|::) ?/, ''), why])).toEqual([
    ['alone', 'needs root'],
    ['one', 'needs systemd: none'],
    ['each 1', 'needs mounts'],
    ['bare', 'no reason given'],
    ['inside', 'as it says'],
    ['test_it', 'needs Linux'],
  ]);
});
