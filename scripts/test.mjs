// `npm test`: sets up what is missing, then runs every check, even after one has failed. At the end it lists the skipped tests.
// With `--may-skip 'prometheus, root'` the run fails if a test was skipped because it needs anything else.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { main, root, setUp } from './setup.mjs';
import { mustRun } from './skipped.mjs';

const bin = (name) => join(root, 'node_modules/.bin', name);
const venv = (name) => join(root, '.venv/bin', name);
const python = ['python', 'examples', 'test'];

/** The groups run one after another. The checks of one group run at once. */
const groups = [
  ['format and lint', [[bin('biome'), ['ci', '--error-on-warnings', '.']]]],
  ['types', ['test', 'bench'].map((project) => [bin('tsc'), ['--noEmit', '-p', project]])],
  ['Python format', [[venv('ruff'), ['format', '--check', '--config', 'python/pyproject.toml', ...python]]]],
  ['Python lint', [[venv('ruff'), ['check', '--config', 'python/pyproject.toml', ...python]]]],
  ['Python types', [[venv('mypy'), ['--config-file', 'pyproject.toml'], 'python']]],
  ['vitest', [[bin('vitest'), ['run']]]],
  // Its tests wait more than they compute.
  ['pytest', ['public', 'not public'].map((half) => [venv('pytest'), ['-q', '-k', half], 'python'])],
];

/** True: the check passed. What several checks print at once is printed when each has ended. */
async function passes(what, [file, args, folder = '.'], env, isAlone) {
  const stdio = isAlone ? 'inherit' : ['ignore', 'pipe', 'pipe'];
  if (isAlone) process.stdout.write(`\n== ${what}\n`);
  const child = spawn(file, args, { cwd: join(root, folder), env, stdio });
  const printed = [];
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (bytes) => printed.push(bytes));
  const [status] = await once(child, 'close');
  if (!isAlone) process.stdout.write(Buffer.concat([Buffer.from(`\n== ${what} ${args.join(' ')}\n`), ...printed]));
  return status === 0;
}

const { values } = parseArgs({ options: { 'may-skip': { type: 'string' } } });

await main(async () => {
  setUp({ dev: true });
  const failed = [];
  const skippedFile = join(root, '.pitwarden/skipped-tests');
  mkdirSync(join(root, '.pitwarden'), { recursive: true });
  writeFileSync(skippedFile, '');
  const env = { ...process.env, SKIPPED_TESTS_FILE: skippedFile };
  for (const [what, checks] of groups) {
    const passed = await Promise.all(checks.map((check) => passes(what, check, env, checks.length === 1)));
    if (passed.includes(false)) failed.push(what);
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
