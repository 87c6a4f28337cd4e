import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { goColdMs, goEnv } from '../go.ts';
import { needs } from '../needs.ts';
import { examples, python, root, spawnAgent, untilReady } from './agent.ts';

// docs/control-plane.md shows lines with grpcurl. They run here, in order, by a real grpcurl against a real agent.

const run = promisify(execFile);
const fixture = join(root, 'test/fixtures/grpcurl');
const folder = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Why grpcurl cannot be built here; empty: it can. */
function goProblem(): string {
  const args = ['list', '-deps', 'tool'];
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

const goMissing = goProblem();

test('each line with grpcurl in docs/control-plane.md works as it is', {
  ...needs('go', goMissing === '', goMissing),
  timeout: goColdMs,
}, async () => {
  const page = readFileSync(join(root, 'docs/control-plane.md'), 'utf8');
  const blocks = [...page.matchAll(/```sh\n(.*?)```/gs)].map(([, block = '']) => block.trim());
  const lines = blocks.flatMap((block) => block.split('\n'));
  expect(lines.length).toBeGreaterThan(5);
  for (const line of lines) expect(line).toMatch(/^grpcurl .*\$NODE/);

  const building = run('go', ['tool', '-n', 'grpcurl'], { cwd: fixture, env: goEnv });
  const issue = (...args: string[]) =>
    run(process.execPath, [join(root, 'bin/pitwarden'), 'ca', ...args], { cwd: folder });
  await issue('init', '--dir', 'ca');
  await issue('issue', '--dir', 'ca', '--out', 'node', '--node', 'node', '--host', '127.0.0.1');
  await issue('issue', '--dir', 'ca', '--out', 'alice', '--role', 'operator');
  await issue('issue', '--dir', 'ca', '--out', 'controller', '--controller', 'eu-1');
  const files = { cert: join(folder, 'node.crt'), key: join(folder, 'node.key'), ca: join(folder, 'ca/ca.crt') };
  const agent = await spawnAgent(
    `text: { app: text:app, python: ${python}, cwd: ${examples} }`,
    `listen: 127.0.0.1:0\ntls: { cert: ${files.cert}, key: ${files.key}, client_ca: ${files.ca} }\n`,
  );
  onTestFinished(() => agent.stop());
  await untilReady(agent, 'text', 1);
  const { node } = await agent.json<{ node: { listen_address: string } }>('status');
  const grpcurl = (await building).stdout.trim();
  for (const line of lines) {
    const words = line.replace(/^grpcurl/, '"$GRPCURL"').replace('$NODE', '"$NODE"');
    const env = { ...process.env, GRPCURL: grpcurl, NODE: node.listen_address };
    // A stream that goes on is left by grpcurl's own time limit.
    const ended = await run('sh', ['-c', words], { cwd: folder, env }).catch(
      (error: { stdout: string; stderr: string }) => error,
    );
    const isCut = line.includes('-max-time') && /DeadlineExceeded/.test(ended.stderr);
    expect([line, isCut ? '' : ended.stderr]).toEqual([line, '']);
    expect(ended.stdout).not.toBe('');
  }
  const refused =
    '"$GRPCURL" -cacert ca/ca.crt -cert alice.crt -key alice.key -d \'{"pool": "none"}\' "$NODE" pitwarden.v1.Control/DrainPool';
  const { stderr } = await run('sh', ['-c', refused], {
    cwd: folder,
    env: { ...process.env, GRPCURL: (await building).stdout.trim(), NODE: node.listen_address },
  }).catch((error: { stderr: string }) => error);
  expect(stderr).toContain('"@type": "type.googleapis.com/google.rpc.ErrorInfo"');
  // It knows no google.rpc.ErrorInfo, and shows the bytes.
  const [, value = ''] = /"@value": "([^"]+)"/.exec(stderr) ?? [];
  expect(Buffer.from(value, 'base64').toString()).toContain('POOL_NOT_FOUND');
});
