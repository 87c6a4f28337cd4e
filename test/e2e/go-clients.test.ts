import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import type { Certificate } from '../certificates.ts';
import { hasOpenssl, TestAuthority } from '../certificates.ts';
import { buildGoClients, goColdMs, goProblem, runIn } from '../go.ts';
import { needs } from '../needs.ts';
import { examples, python, spawnAgent, untilReady } from './agent.ts';

const folder = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(folder, { recursive: true }));

const goMissing = goProblem();

test('a reader and an operator in Go drive an agent over TLS with client certificates', {
  ...(goMissing === '' ? needs('openssl', hasOpenssl) : needs('go', false, goMissing)),
  timeout: goColdMs,
}, async () => {
  const programs = join(folder, 'go');
  const built = buildGoClients(programs);
  const authority = new TestAuthority(join(folder, 'ca'));
  const server = authority.issue('node', { names: ['IP:127.0.0.1'] });
  const [viewer, operator] = ['viewer', 'operator'].map((role) =>
    authority.issue(role, { names: [`URI:spiffe://test.example/role/${role}`] }),
  );
  const agent = await spawnAgent(
    `text: { app: text:app, python: ${python}, cwd: ${examples} }`,
    `listen: 127.0.0.1:0
tls: { cert: ${server.cert}, key: ${server.key}, client_ca: ${authority.cert}, domain: test.example }
`,
  );
  onTestFinished(() => agent.stop());
  await untilReady(agent, 'text', 1);
  const { node } = await agent.json<{ node: { listen_address: string } }>('status');
  await built;
  const runProgram = async (name: string, { cert, key }: Certificate = { cert: '', key: '' }) => {
    const printed = await runIn(programs, join(programs, 'bin', name), node.listen_address, authority.cert, cert, key);
    return printed.trim().split('\n');
  };
  const reader = runProgram('reader', viewer);
  expect(await runProgram('operator', operator)).toEqual([
    'scaled: POOL_STATE_RUNNING of 2',
    'drained: POOL_STATE_DRAINING of 2',
    'resumed: POOL_STATE_RUNNING of 2',
    'refused: InvalidArgument INVALID_REQUEST of pitwarden',
    'wrong: size: expected 0 to 1000, got none',
    'refused: NotFound POOL_NOT_FOUND of pitwarden',
  ]);
  expect(await reader).toEqual([
    expect.stringMatching(/^pool text of [12], [12] ready$/),
    'scale: PermissionDenied',
    expect.stringMatching(/^watch: snapshot of [12] workers$/),
    'watch: 2 ready',
  ]);
});
