import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../paths.ts';
import { runCommand } from '../processes.ts';

export interface PeerVenv {
  /** The path of a program of the venv. */
  bin(name: string): string;
  readonly versions: Readonly<Record<string, string>>;
  /** Why a package is not there. */
  readonly missing: ReadonlyMap<string, string>;
}

const folder = join(root, '.pitwarden/peers');
const requirements = join(root, 'bench/peers/requirements.txt');
const stamp = join(folder, '.pitwarden');

/** The peers in a venv of their own; what pip cannot install is left out. */
export async function installPeers(): Promise<PeerVenv> {
  const wanted = `${root}\n${readFileSync(requirements, 'utf8')}`;
  const isCurrent = existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted;
  const missing = isCurrent ? new Map<string, string>() : await install();
  if (missing.size === 0) writeFileSync(stamp, wanted);
  return { bin: (name) => join(folder, 'bin', name), versions: await versions(), missing };
}

async function install(): Promise<Map<string, string>> {
  process.stdout.write('installing the peers into .pitwarden/peers (pip; takes a minute or more)\n');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await runCommand(process.env['PITWARDEN_PYTHON'] ?? 'python3', ['-m', 'venv', folder]);
  if ((await pip(['-r', requirements])) === undefined) return new Map();
  // pip installs all or nothing: so that one peer does not cost the others, each by itself.
  const missing = new Map<string, string>();
  for (const requirement of readFileSync(requirements, 'utf8').trim().split('\n')) {
    const failure = await pip([requirement]);
    if (failure !== undefined) missing.set(nameOf(requirement), failure);
  }
  return missing;
}

/** What went wrong; undefined when nothing did. */
async function pip(what: readonly string[]): Promise<string | undefined> {
  try {
    await runCommand(join(folder, 'bin/python'), [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--disable-pip-version-check',
      ...what,
    ]);
    return undefined;
  } catch (error) {
    const lines = String(error).trimEnd().split('\n');
    return lines.find((line) => line.startsWith('ERROR: ')) ?? lines.at(-1);
  }
}

function nameOf(requirement: string): string {
  return /^[\w-]+/.exec(requirement)?.[0] ?? requirement;
}

async function versions(): Promise<Record<string, string>> {
  const names = readFileSync(requirements, 'utf8').trim().split('\n').map(nameOf);
  const code = `
import importlib.metadata, json, platform, sys
found = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))`;
  const { stdout } = spawnSync('redis-server', ['--version'], { encoding: 'utf8' });
  const redis = /v=(\S+)/.exec(stdout ?? '')?.[1];
  return {
    ...JSON.parse(await runCommand(join(folder, 'bin/python'), ['-c', code, ...names])),
    ...(redis === undefined ? {} : { 'redis-server': redis }),
  };
}
