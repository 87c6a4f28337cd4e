// `npm test`: sets up what is missing, then every check; a failing one does not hide what the later ones find. At the end
// stand the tests that were skipped. With `--may-skip 'prometheus, root'` a test that was skipped for want of anything else fails the run.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { main, root, setUp } from './setup.mjs';
import { mustRun } from './skipped.mjs';

const bin = (name) => join(root, 'node_modules/.bin', name);
const venv = (name) => join(root, '.venv/bin', name);
const python = ['python', 'examples', 'test'];

const checks = [
  ['format and lint', bin('biome'), ['ci', '--error-on-warnings', '.']],
  ['types', bin('tsc'), ['--noEmit', '-p', 'test']],
  ['Python format', venv('ruff'), ['format', '--check', '--config', 'python/pyproject.toml', ...python]],
  ['Python lint', venv('ruff'), ['check', '--config', 'python/pyproject.toml', ...python]],
  ['Python types', venv('mypy'), ['--config-file', 'pyproject.toml'], 'python'],
  ['vitest', bin('vitest'), ['run']],
  ['pytest', venv('pytest'), ['-q'], 'python'],
];

const { values } = parseArgs({ options: { 'may-skip': { type: 'string' } } });

await main(async () => {
  setUp({ dev: true });
  const failed = [];
  const skippedFile = join(root, '.pitwarden/skipped-tests');
  mkdirSync(join(root, '.pitwarden'), { recursive: true });
  writeFileSync(skippedFile, '');
  const env = { ...process.env, SKIPPED_TESTS_FILE: skippedFile };
  for (const [what, file, args, folder = '.'] of checks) {
    process.stdout.write(`\n== ${what}\n`);
    const { status } = spawnSync(file, args, { cwd: join(root, folder), env, stdio: 'inherit' });
    if (status !== 0) failed.push(what);
  }
  const skipped = readFileSync(skippedFile, 'utf8')
    .trim()
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  if (skipped.length > 0) process.stdout.write('\n');
  for (const { name, why } of skipped) process.stdout.write(`skipped here: ${name} - ${why}\n`);
  const missed = values['may-skip'] === undefined ? [] : mustRun(skipped, values['may-skip']);
  if (missed.length > 0) failed.push(`${missed.length} of the skipped tests must run here (${missed.join(', ')})`);
  if (failed.length === 0) return;
  process.stderr.write(`\nfailed: ${failed.join(', ')}\n`);
  process.exitCode = 1;
});
