// `npm run lock`: pins the newest packages that the ranges allow, for every platform and Python, in package-lock.json,
// python/requirements.lock and test/requirements.lock. `npm test` says whether all still works with them.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { main, root, runStep, setUp } from './setup.mjs';

const venv = join(root, '.pitwarden/lock');
const uv = join(venv, 'bin/uv');

/** In a folder of its own: beside installed packages npm would leave out those of other platforms. */
function lockNpm(folder) {
  const apart = mkdtempSync(join(tmpdir(), 'pitwarden-lock-'));
  for (const name of ['package.json', '.npmrc']) copyFileSync(join(folder, name), join(apart, name));
  runStep('npm', 'npm', ['install', '--package-lock-only', '--no-audit', '--no-fund'], { cwd: apart });
  copyFileSync(join(apart, 'package-lock.json'), join(folder, 'package-lock.json'));
  rmSync(apart, { recursive: true });
}

function lockPython(lockFile, inputs, options = []) {
  // The packages that build the SDK are not its dependencies, but they are installed too, so they are pinned here.
  const build = 'hatchling>=1.21\neditables\n';
  const pins = ['--universal', '--python-version', '3.10', '--generate-hashes', '--upgrade'];
  const plain = ['--no-emit-index-url', '--no-emit-find-links', '--no-annotate', '--no-header'];
  const args = ['pip', 'compile', '--quiet', ...pins, ...plain, ...options, '--output-file', lockFile, ...inputs, '-'];
  const { status, stderr } = spawnSync(uv, args, {
    cwd: root,
    input: build,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`uv pip compile failed: ${stderr}`);
  writeFileSync(join(root, lockFile), `# Made by \`npm run lock\`.\n${readFileSync(join(root, lockFile), 'utf8')}`);
}

await main(() => {
  setUp();
  for (const folder of [root, join(root, '.ci')]) lockNpm(folder);
  if (!existsSync(uv)) {
    runStep('python -m venv', join(root, '.venv/bin/python'), ['-m', 'venv', venv]);
    runStep('pip install uv', join(venv, 'bin/pip'), ['install', '--quiet', 'uv']);
  }
  const sdk = ['python/pyproject.toml', 'examples/requirements.txt'];
  lockPython('python/requirements.lock', sdk);
  lockPython(
    'test/requirements.lock',
    [...sdk, 'test/requirements.txt'],
    ['--extra', 'dev', '--constraint', 'python/requirements.lock'],
  );
});
