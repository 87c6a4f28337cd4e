import { execFile, spawnSync } from 'node:child_process';
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

// Clients in Go, whose code is generated from proto/ as README.md shows.

const root = join(import.meta.dirname, '..');
const fixture = join(root, 'test/fixtures/go-caller');
export const goEnv = {
  ...process.env,
  // Where Go's own archives are unpacked.
  PATH: `${process.env['PATH']}:/usr/local/go/bin`,
  // Go fetches the modules that go.sum pins, and neither other ones nor another Go. It compiles on one core: other tests run too.
  GOFLAGS: '-mod=readonly -trimpath -p=1',
  GOTOOLCHAIN: 'local',
  GOWORK: 'off',
};

/** The first run fetches and compiles gRPC for Go; later ones find it in Go's caches. */
export const goColdMs = 300_000;

/** Why Go or its modules cannot be had; empty: they can. A module that is not the pinned one is no excuse. */
export function goProblem(): string {
  const args = ['list', '-deps', 'tool', 'google.golang.org/grpc', 'google.golang.org/grpc/credentials/insecure'];
  const { error, status, stderr } = spawnSync('go', args, {
    cwd: fixture,
    env: goEnv,
    encoding: 'utf8',
    timeout: 60_000,
  });
  if (error !== undefined) return error.message;
  if (status === 0 || /checksum mismatch|missing go\.sum/.test(stderr)) return '';
  return stderr.trim().split('\n').at(-1) ?? `go list ended with ${status}`;
}

/** Builds the fixture's programs in `folder`, which is empty before: `caller`, `reader` and `operator`. */
export async function buildGoClients(folder: string): Promise<void> {
  cpSync(fixture, folder, { recursive: true });
  const plugins: string[] = [];
  for (const name of ['protoc-gen-go', 'protoc-gen-go-grpc']) {
    plugins.push(`--plugin=${name}=${(await runIn(folder, 'go', 'tool', '-n', name)).trim()}`);
  }
  const [, shown = ''] = /```protoc\nprotoc (.*)\n```/.exec(readFileSync(join(root, 'README.md'), 'utf8')) ?? [];
  const args = shown.split(' ').map((arg) => arg.replace('PITWARDEN', root));
  const protoc = ['-m', 'grpc_tools.protoc', ...plugins, ...args, 'pitwarden/v1/link.proto'];
  await runIn(folder, join(root, '.venv/bin/python'), ...protoc);
  await runIn(folder, 'go', 'build', '-o', 'bin/', './...');
}

export async function runIn(folder: string, file: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)(file, args, { cwd: folder, env: goEnv })).stdout;
}
