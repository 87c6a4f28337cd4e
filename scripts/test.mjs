// `npm test`: sets up what is missing, then every check; a failing one does not hide what the later ones find.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { main, root, setUp } from './setup.mjs';

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

await main(async () => {
  setUp({ dev: true });
  const failed = [];
  for (const [what, file, args, folder = '.'] of checks) {
    process.stdout.write(`\n== ${what}\n`);
    const { status } = spawnSync(file, args, { cwd: join(root, folder), stdio: 'inherit' });
    if (status !== 0) failed.push(what);
  }
  if (failed.length === 0) return;
  process.stderr.write(`\nfailed: ${failed.join(', ')}\n`);
  process.exitCode = 1;
});
