// Sets the checkout up, only as far as something changed: npm packages, a Python venv in .venv, the build in dist.
// Needs nothing but Node and its own modules, for it runs before anything is installed.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));
const nodeLeast = [20, 19];
const pythonLeast = [3, 10];

/** `dev`: with what the tests need. */
export function setUp({ dev = false } = {}) {
  checkNode();
  installNpmPackages();
  installPython(dev);
  build();
}

/** Runs a program in the checkout with its output on the terminal; throws when it fails. */
export function run(what, file, args, options = {}) {
  const { status, error, signal } = spawnSync(file, args, { cwd: root, stdio: 'inherit', ...options });
  if (error !== undefined) fail(`${what}: could not run ${file}: ${error.message}`);
  if (status !== 0) fail(`${what} failed: ${file} ${args.join(' ')} ended with ${signal ?? status}`);
}

/** Builds a TypeScript project of the checkout into .pitwarden and runs its main file with this process's arguments. */
export async function buildAndRun(project, mainFile) {
  run('tsc', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', project]);
  const file = join(root, '.pitwarden', mainFile);
  process.argv = [process.argv[0], file, ...process.argv.slice(2)];
  await import(pathToFileURL(file).href);
}

export class SetupError extends Error {}

function fail(message) {
  throw new SetupError(message);
}

function say(message) {
  process.stdout.write(`pitwarden set-up: ${message}\n`);
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > nodeLeast[0] || (major === nodeLeast[0] && minor >= nodeLeast[1])) return;
  fail(`expected Node ${nodeLeast.join('.')} or newer, got ${process.versions.node}`);
}

function installNpmPackages() {
  const stamp = join(root, 'node_modules/.pitwarden');
  const wanted = hash(['package.json', 'package-lock.json'].map(content));
  if (isCurrent(stamp, wanted)) return;
  say('installing npm packages');
  // Not `npm ci`: it refuses a lock file that lacks another platform's optional packages, as mirrors' registries make.
  run('npm install', 'npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error']);
  writeFileSync(stamp, wanted);
}

function installPython(dev) {
  const venv = join(root, '.venv');
  const python = join(venv, 'bin/python');
  // What the tests need holds what the agent needs: one stamp for each.
  const sdk = hash([root, content('python/pyproject.toml'), content('examples/requirements.txt')]);
  const tests = hash([sdk, content('test/requirements.txt')]);
  const stamps = { '.pitwarden': sdk, ...(dev ? { '.pitwarden-dev': tests } : {}) };
  const current = Object.entries(stamps).every(([name, wanted]) => isCurrent(join(venv, name), wanted));
  if (existsSync(python) && current) return;
  // A venv holds absolute paths, so one that came along with a moved checkout is of no use.
  if (!existsSync(python) || !isCurrent(join(venv, '.pitwarden-root'), root)) {
    const base = findPython();
    say(`making a Python virtual environment in .venv (${base.name} ${base.version})`);
    rmSync(venv, { recursive: true, force: true });
    run('python -m venv', base.name, ['-m', 'venv', venv]);
    writeFileSync(join(venv, '.pitwarden-root'), root);
  }
  say(`installing Python packages into .venv${dev ? ', those for the tests too' : ''} (pip)`);
  const needed = ['-e', './python', '-r', 'examples/requirements.txt'];
  if (dev) needed.push('-e', './python[dev]', '-r', 'test/requirements.txt');
  run('pip install', python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...needed]);
  for (const [name, wanted] of Object.entries(stamps)) writeFileSync(join(venv, name), wanted);
}

function findPython() {
  const names = process.env.PITWARDEN_PYTHON ? [process.env.PITWARDEN_PYTHON] : ['python3', 'python'];
  const seen = [];
  for (const name of names) {
    const code = 'import sys, venv, ensurepip; print("%d.%d.%d" % sys.version_info[:3])';
    const { status, stdout, stderr, error } = spawnSync(name, ['-c', code], { encoding: 'utf8' });
    if (error !== undefined) {
      seen.push(`${name}: not found`);
      continue;
    }
    const version = stdout.trim();
    const [major, minor] = version.split('.').map(Number);
    if (status === 0 && (major > pythonLeast[0] || minor >= pythonLeast[1])) return { name, version };
    seen.push(`${name}: ${status === 0 ? version : stderr.trim().split('\n').at(-1)}`);
  }
  return fail(
    `expected Python ${pythonLeast.join('.')} or newer with venv and pip, got ${seen.join('; ')}. ` +
      'On Debian: apt install python3 python3-venv. Another interpreter: PITWARDEN_PYTHON=/path/to/python3',
  );
}

export function build() {
  const stamp = join(root, 'dist/.pitwarden');
  const wanted = hash([content('tsconfig.json'), content('package-lock.json'), ...listing('src')]);
  if (isCurrent(stamp, wanted)) return;
  say('building (tsc)');
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  run('tsc', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', '.']);
  mkdirSync(join(root, 'dist'), { recursive: true });
  writeFileSync(stamp, wanted);
}

function content(path) {
  return existsSync(join(root, path)) ? readFileSync(join(root, path)) : '';
}

/** Names, sizes and times of all files below a folder. */
function listing(folder) {
  const names = readdirSync(join(root, folder), { recursive: true }).map(String).sort();
  return names.map((name) => {
    const stat = statSync(join(root, folder, name));
    return stat.isDirectory() ? '' : `${name} ${stat.size} ${stat.mtimeMs}`;
  });
}

function hash(parts) {
  const digest = createHash('sha256');
  for (const part of parts) digest.update(part).update('\0');
  return digest.digest('hex');
}

function isCurrent(stamp, wanted) {
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted;
}

/** A set-up that fails is told in a sentence, not in a stack. */
export async function main(work) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`pitwarden set-up: ${error.message}\n`);
    process.exitCode = 2;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(() => {
    if (!process.argv.includes('--build')) return setUp({ dev: process.argv.includes('--dev') });
    installNpmPackages();
    build();
  });
}
