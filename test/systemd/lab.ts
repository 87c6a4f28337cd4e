import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { node, python, root, runToEnd, until } from '../e2e/agent.ts';
import { connect } from '../e2e/grpc.ts';
import type { needs } from '../needs.ts';
import { isRoot } from '../needs.ts';

/** A real systemd in namespaces of its own, with pitwarden installed as systemd/README.md says. */
export interface Lab {
  /** The agent's socket, as seen from out here. */
  readonly socket: string;
  /** Runs a program inside, as root; what it said and how it ended. */
  run(...command: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }>;
  /** The same, for one that is to succeed; what it said. */
  ask(...command: readonly string[]): Promise<string>;
  systemctl(...args: readonly string[]): Promise<string>;
  /** `bin/pitwarden` inside, as root. */
  cli(...args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }>;
  /** One property of pitwarden.service. */
  property(name: string): Promise<string>;
  connect(): ReturnType<typeof connect>;
  /** Writes a file inside. */
  file(path: string, text: string): Promise<void>;
  /** What the unit wrote to the journal. */
  journal(): Promise<string>;
  end(): Promise<void>;
}

const installed = '/opt/pitwarden';
const units = '/etc/systemd/system';

/** What a lab needs first of all that is missing here, and why; or anything, which is there. */
export function whatLabNeeds(): Parameters<typeof needs> {
  if (!isRoot) return ['root', false];
  if (!existsSync('/lib/systemd/systemd') || spawnSync('systemctl', ['--version']).status !== 0) {
    return ['systemd', false, 'it is not installed'];
  }
  const namespaces = ['--pid', '--fork', '--mount', '--uts', '--ipc', '--cgroup'];
  const inside = (script: string) => spawnSync('unshare', [...namespaces, 'sh', '-c', script], { encoding: 'utf8' });
  const mounted = inside('mount --make-rprivate /');
  if (mounted.status !== 0) return ['namespaces', false, mounted.stderr.trim()];
  // The very mounts that the lab begins with.
  const dir = mkdtempSync(join(tmpdir(), 'pw-lab-'));
  const { status, stderr } = inside(`mount -t cgroup2 none ${dir} && mkdir ${dir}/pw-$$ && rmdir ${dir}/pw-$$`);
  rmSync(dir, { recursive: true });
  return ['cgroup mounts', status === 0, stderr.trim()];
}

/** Boots a lab and installs pitwarden with this configuration; starts nothing. */
export async function startLab(config: string): Promise<Lab> {
  const folder = mkdtempSync(join(tmpdir(), 'pw-lab-'));
  const prefix = (await runToEnd(python, ['-c', 'import sys; print(sys.base_prefix)'])).stdout.trim();
  const script = join(root, 'test/systemd/lab.sh');
  const child = spawn('bash', [script, folder, root, node, prefix], {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
  });
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  child.stderr.on('data', (data) => {
    output += data;
  });
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()));
  const end = async (): Promise<void> => {
    child.stdin.end();
    await ended;
    rmSync(folder, { recursive: true, force: true });
    if (/left behind/.test(output)) throw new Error(output);
  };
  try {
    const seen = (): string => output + readLog(folder);
    const init = await until(() => /^init (\d+)$/m.exec(output)?.[1], 'the lab to boot', seen);
    const lab = labOf(init, end);
    const isUp = async (): Promise<boolean> => (await lab.run('systemctl', 'is-active', 'lab.target')).code === 0;
    await until(isUp, 'systemd to be up', seen);
    await install(lab, config);
    return lab;
  } catch (error) {
    await end();
    throw error;
  }
}

/** `init`: the process id of its systemd, out here. */
function labOf(init: string, end: () => Promise<void>): Lab {
  const run: Lab['run'] = (...command) => runToEnd('nsenter', ['--target', init, '--all', ...command]);
  const ask: Lab['ask'] = async (...command) => {
    const { code, stdout, stderr } = await run(...command);
    if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}: ${stderr}${stdout}`);
    return stdout.trim();
  };
  const lab: Lab = {
    socket: `/proc/${init}/root/run/pitwarden/agent.sock`,
    run,
    ask,
    systemctl: (...args) => ask('systemctl', ...args),
    cli: (...args) => run('/opt/node/bin/node', `${installed}/bin/pitwarden`, ...args),
    property: (name) => ask('systemctl', 'show', '--property', name, '--value', 'pitwarden.service'),
    connect: () => connect(lab.socket),
    file: async (path, text) => {
      await ask('sh', '-c', 'mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"', 'sh', path, text);
    },
    journal: () => ask('journalctl', '--no-pager', '--output', 'short-precise', '--unit', 'pitwarden.service'),
    end,
  };
  return lab;
}

/** The steps of systemd/README.md. */
async function install(lab: Lab, config: string): Promise<void> {
  const from = `${installed}/systemd`;
  await lab.ask('install', '-D', '-m', '644', `${from}/pitwarden.sysusers.conf`, '/etc/sysusers.d/pitwarden.conf');
  await lab.ask('install', '-D', '-m', '644', `${from}/pitwarden.tmpfiles.conf`, '/etc/tmpfiles.d/pitwarden.conf');
  await lab.ask('systemd-sysusers', '/etc/sysusers.d/pitwarden.conf');
  await lab.ask('systemd-tmpfiles', '--create', '/etc/tmpfiles.d/pitwarden.conf');
  await lab.ask('install', '-m', '644', `${from}/pitwarden.service`, `${from}/pitwarden.socket`, units);
  // Where this machine has its Node; the unit looks for it on PATH.
  await lab.file(`${units}/pitwarden.service.d/node.conf`, '[Service]\nEnvironment=PATH=/opt/node/bin:/usr/bin:/bin\n');
  await lab.file('/etc/pitwarden/pitwarden.yaml', config);
  await lab.systemctl('daemon-reload');
}

function readLog(folder: string): string {
  const path = join(folder, 'systemd.log');
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}
