// Sets the checkout up, only as far as something changed: npm packages, a Python venv in .venv, the build in dist.
// Needs nothing but Node and its own modules, for it runs before anything is installed.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));
const nodeLeast = [20, 19];
const pythonLeast = [3, 10];

/**
 * `dev`: also installs what the tests need. `locked`: installs the pinned packages or fails. Without it, if the index does not
 * serve a pinned package, packages are installed by their version ranges.
 */
export function setUp({ dev = false, locked = false } = {}) {
  checkNode();
  installNpmPackages(root, locked);
  installPython(dev, locked);
  build();
}

/** Runs a program in the checkout with its output on the terminal; throws when it fails. */
export function runStep(what, file, args, options = {}) {
  const { status, error, signal } = spawnSync(file, args, { cwd: root, stdio: 'inherit', ...options });
  if (error !== undefined) fail(`${what}: could not run ${file}: ${error.message}`);
  if (status !== 0) fail(`${what} failed: ${file} ${args.join(' ')} ended with ${signal ?? status}`);
}

/** Builds a TypeScript project of the checkout into .pitwarden and runs its main file with this process's arguments. */
export async function buildAndRun(project, mainFile) {
  runStep('tsc', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', project]);
  const file = join(root, '.pitwarden', mainFile);
  // src/grpc/proto.ts reads them beside the folder of its code.
  cpSync(join(root, 'proto'), join(root, '.pitwarden', mainFile.split('/')[0], 'proto'), { recursive: true });
  process.argv = [process.argv[0], file, ...process.argv.slice(2)];
  await import(pathToFileURL(file).href);
}

/** Runs a program that may fail without anything on the terminal. Returns what a failed one wrote. */
function attempt(file, args, cwd) {
  const { status, error, signal, stdout, stderr } = spawnSync(file, args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 * 1024 * 1024,
  });
  if (error !== undefined) fail(`could not run ${file}: ${error.message}`);
  if (status === 0) return undefined;
  return stderr.trim() || stdout.trim() || `it ended with ${signal ?? status}`;
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

/** Installs what the folder's package-lock.json pins, without running any package's install script. */
export function installNpmPackages(folder, locked) {
  const stamp = join(folder, 'node_modules/.pitwarden');
  const wanted = hash(['package.json', 'package-lock.json'].map((name) => readFileSync(join(folder, name))));
  if (isCurrent(stamp, wanted, locked)) return;
  say(`installing npm packages${folder === root ? '' : ` in ${relative(root, folder)}`}`);
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const refusal = attempt('npm', ['ci', ...options], folder);
  mkdirSync(join(folder, 'node_modules'), { recursive: true });
  if (refusal === undefined) return writeFileSync(stamp, wanted);

  const fallback = locked ? undefined : npmFallback(refusal);
  if (fallback === undefined) fail(`npm ci failed:\n${refusal.trim()}`);
  say(`npm ci cannot install what package-lock.json pins: ${fallback.because}; ${fallback.instead}`);
  runStep('npm install', 'npm', ['install', '--no-save', ...fallback.options, ...options], { cwd: folder });
  writeFileSync(stamp, byRanges(wanted));
}

/** What to do after `npm ci` ended with these words; undefined where no other way of installing would end better. */
export function npmFallback(words) {
  const code = /^npm (?:error|ERR!) code (\w+)$/m.exec(words)?.[1];
  if (code === 'EUSAGE') {
    return { because: 'package.json has changed since', instead: 'installing what both allow', options: [] };
  }
  if (!['E403', 'E404', 'ETARGET'].includes(code)) return undefined;
  const [, version, found] = /No matching version found for (\S+)\.$|requested resource '(\S+)'/m.exec(words) ?? [];
  const named = version ?? found;
  return {
    because: `the registry does not serve ${named ?? `one of its packages (${code})`}`,
    instead: 'installing by the ranges of package.json',
    options: ['--no-package-lock'],
  };
}

function installPython(dev, locked) {
  const venv = join(root, '.venv');
  const python = join(venv, 'bin/python');
  // What the tests need holds what the agent needs: one stamp for each.
  const sdk = hash([
    root,
    ...['python/pyproject.toml', 'examples/requirements.txt', 'python/requirements.lock'].map(content),
  ]);
  const tests = hash([sdk, content('test/requirements.txt'), content('test/requirements.lock')]);
  const stamps = { '.pitwarden': sdk, ...(dev ? { '.pitwarden-dev': tests } : {}) };
  const current = Object.entries(stamps).every(([name, wanted]) => isCurrent(join(venv, name), wanted, locked));
  if (existsSync(python) && current) return;
  // A venv holds absolute paths, so one that came along with a moved checkout is of no use.
  if (!existsSync(python) || !isCurrent(join(venv, '.pitwarden-root'), root)) {
    const base = findPython();
    say(`making a Python virtual environment in .venv (${base.name} ${base.version})`);
    rmSync(venv, { recursive: true, force: true });
    runStep('python -m venv', base.name, ['-m', 'venv', venv]);
    writeFileSync(join(venv, '.pitwarden-root'), root);
  }
  say(`installing Python packages into .venv${dev ? ', those for the tests too' : ''} (pip)`);
  const pinned = installPythonPackages(python, dev, locked);
  for (const [name, wanted] of Object.entries(stamps)) {
    writeFileSync(join(venv, name), pinned ? wanted : byRanges(wanted));
  }
}

/** Returns whether the packages are those that the lock file pins. */
export function installPythonPackages(python, dev, locked) {
  const lockFile = dev ? 'test/requirements.lock' : 'python/requirements.lock';
  const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check'];
  // Wheels alone: to install a source package is to run its code.
  const refusal = attempt(python, [...pip, '--require-hashes', '--only-binary', ':all:', '-r', lockFile], root);
  if (refusal === undefined) {
    // hatchling, which builds the SDK, is among the pinned packages.
    runStep('pip install', python, [...pip, '--no-index', '--no-deps', '--no-build-isolation', '-e', './python']);
    return true;
  }
  if (locked) fail(`pip cannot install what ${lockFile} pins:\n${refusal.trim()}`);
  say(
    `pip cannot install what ${lockFile} pins: ${pipReason(refusal)}; installing by ranges of versions, without hashes`,
  );
  const needed = ['-e', './python', '-r', 'examples/requirements.txt'];
  if (dev) needed.push('-e', './python[dev]', '-r', 'test/requirements.txt');
  runStep('pip install', python, [...pip, ...needed]);
  return false;
}

/** Why pip could not install the pinned packages, from what it wrote. */
export function pipReason(words) {
  const missing = /No matching distribution found for (\S+)/.exec(words)?.[1];
  if (missing !== undefined) return `the index has no wheel of ${missing} for this Python and machine`;
  const differs = /DO NOT MATCH THE HASHES[^\n]*\n\s+(\S+)/.exec(words)?.[1];
  if (differs !== undefined) return `the index serves another file as ${differs}`;
  return words.trim().split('\n').at(-1) ?? 'it gave no reason';
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
  runStep('tsc', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', '.']);
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

/** The stamp of packages that are not the pinned ones. */
function byRanges(wanted) {
  return `${wanted} by ranges`;
}

function isCurrent(stamp, wanted, locked = true) {
  if (!existsSync(stamp)) return false;
  const found = readFileSync(stamp, 'utf8');
  return found === wanted || (!locked && found === byRanges(wanted));
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
    const flag = (name) => process.argv.includes(name);
    const locked = flag('--locked');
    if (flag('--checks')) return installNpmPackages(join(root, '.ci'), locked);
    if (!flag('--build')) return setUp({ dev: flag('--dev'), locked });
    installNpmPackages(root, locked);
    build();
  });
}
