import { execFile, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ServerDuplexStream, sendUnaryData } from '@grpc/grpc-js';
import { afterAll, expect, test } from 'vitest';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import { createServer } from '../../src/grpc/server.ts';
import { needs } from '../needs.ts';

const root = join(import.meta.dirname, '../..');
const fixture = join(root, 'test/fixtures/go-caller');
const env = {
  ...process.env,
  // Where Go's own archives are unpacked.
  PATH: `${process.env['PATH']}:/usr/local/go/bin`,
  // Go fetches the modules that go.sum pins, and neither other ones nor another Go. It compiles on one core: other tests run too.
  GOFLAGS: '-mod=readonly -trimpath -p=1',
  GOTOOLCHAIN: 'local',
  GOWORK: 'off',
};
// The first run fetches and compiles gRPC for Go; later ones find it in Go's caches.
const coldMs = 300_000;

const folder = mkdtempSync(join(tmpdir(), 'pitwarden-go-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Why Go or its modules cannot be had; empty: they can. A module that is not the pinned one is no excuse. */
function goProblem(): string {
  const args = ['list', '-deps', 'tool', 'google.golang.org/grpc', 'google.golang.org/grpc/credentials/insecure'];
  const { error, status, stderr } = spawnSync('go', args, { cwd: fixture, env, encoding: 'utf8', timeout: 60_000 });
  if (error !== undefined) return error.message;
  if (status === 0 || /checksum mismatch|missing go\.sum/.test(stderr)) return '';
  return stderr.trim().split('\n').at(-1) ?? `go list ended with ${status}`;
}

async function run(file: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)(file, args, { cwd: folder, env })).stdout;
}

interface Request {
  readonly request_id: string;
  readonly payload: Buffer;
}

/** Answers with the arguments. An item of Submit gets a value and two errors, of which one says that nothing has begun. */
async function serve(target: string): Promise<() => Promise<void>> {
  const api = createServer({ messageMaxBytes: 1024 * 1024, budget: createMemoryBudget(2 ** 24) });
  const unused = () => undefined;
  api.server.addService(services.Execution, {
    Execute: ({ request }: { request: Request }, callback: sendUnaryData<object>) =>
      callback(null, { payload: request.payload, request_id: request.request_id }),
    ExecuteStream: unused,
    Submit: (call: ServerDuplexStream<{ items: { request: Request }[] }, object>) => {
      call.on('data', ({ items }: { items: { request: Request }[] }) => {
        for (const { request } of items) {
          const { request_id, payload } = request;
          call.write({ results: [{ request_id, response: { payload }, more: true }] });
          call.write({ results: [{ request_id, error: { code: 14, message: 'gone', may_have_begun: false } }] });
          call.write({ results: [{ request_id, error: { code: 14, message: 'gone' } }] });
        }
      });
      call.on('end', () => call.end());
    },
  });
  const control = Object.keys(services.Control).map((name) => [name, unused]);
  api.server.addService(services.Control, {
    ...Object.fromEntries(control),
    // Without `_size`, a size of 0 could not be told from none.
    ScalePool: ({ request }: { request: { size: number; _size?: string } }, callback: sendUnaryData<object>) =>
      callback(null, { size: request._size === undefined ? 99 : request.size, state: 'POOL_STATE_DRAINING' }),
  });
  await api.bind(target);
  return () => api.stop(0);
}

const goMissing = goProblem();

test('Go code that README.md has you generate compiles, and calls an agent', {
  ...needs('go', goMissing === '', goMissing),
  timeout: coldMs,
}, async () => {
  cpSync(fixture, folder, { recursive: true });
  const plugins: string[] = [];
  for (const name of ['protoc-gen-go', 'protoc-gen-go-grpc']) {
    plugins.push(`--plugin=${name}=${(await run('go', 'tool', '-n', name)).trim()}`);
  }
  const [, shown = ''] = /```protoc\nprotoc (.*)\n```/.exec(readFileSync(join(root, 'README.md'), 'utf8')) ?? [];
  const args = shown.split(' ').map((arg) => arg.replace('PITWARDEN', root));
  const protoc = ['-m', 'grpc_tools.protoc', ...plugins, ...args, 'pitwarden/v1/link.proto'];
  await run(join(root, '.venv/bin/python'), ...protoc);
  await run('go', 'build', '-o', 'caller', '.');

  const target = `unix:${join(folder, 'sock')}`;
  const stop = await serve(target);
  const printed = await run(join(folder, 'caller'), target).finally(stop);
  expect(printed.trim().split('\n')).toEqual([
    'execute 1 ["a b"]',
    'submit 1 ["a b"]',
    'submit 1 gone, known true, begun false',
    'submit 1 gone, known false, begun false',
    'scale 0 POOL_STATE_DRAINING',
  ]);
});
