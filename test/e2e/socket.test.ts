import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { python, root, runToEnd, spawnAgent, untilReady } from './agent.ts';

// A folder whose name has a meaning in a shell, in a URI and in gRPC.

let above: string;
let agent: TestAgent;

beforeAll(async () => {
  above = mkdtempSync(join(tmpdir(), 'pw-'));
  const dir = join(above, "C# a,b 50%25?'");
  mkdirSync(dir);
  writeFileSync(
    join(dir, 'own.py'),
    `import os, pitwarden
app = pitwarden.App()

@app.command
def slot():
    return os.environ["PITWARDEN_SLOT"]

@app.command
def ask():
    with pitwarden.Client() as client:
        return client.target, client.options(timeout_s=20).call("other", "slot")
`,
  );
  const pool = (name: string): string => `${name}: { app: own:app, python: ${python}, cwd: . }`;
  agent = await spawnAgent(`${pool('asking')}\n${pool('other')}`, '', dir);
  await untilReady(agent, 'asking', 1);
  await untilReady(agent, 'other', 1);
});

afterAll(async () => {
  await agent?.stop();
  rmSync(above, { recursive: true });
});

test('workers, the command line and the Python client find the agent at any socket path', async () => {
  expect(await agent.cli('call', 'other', 'slot')).toMatchObject({ code: 0, stdout: '0\n' });
  const script = 'import pitwarden, sys; print(pitwarden.Client(sys.argv[1]).call("other", "slot"))';
  expect(await runToEnd(python, ['-c', script, agent.socket])).toMatchObject({ code: 0, stdout: '0\n' });
});

test('the address that the agent prints is accepted by clients and the command line', async () => {
  const address = /gRPC at (unix:[^\s"]+)/.exec(agent.output())?.[1] ?? '';
  const script = 'import pitwarden, sys; print(pitwarden.Client(sys.argv[1]).call("other", "slot"))';
  expect(await runToEnd(python, ['-c', script, address])).toMatchObject({ code: 0, stdout: '0\n' });
  const bin = join(root, 'bin/pitwarden');
  const called = await runToEnd(process.execPath, [bin, 'call', 'other', 'slot', '--socket', address]);
  expect(called).toMatchObject({ code: 0, stdout: '0\n' });
});

test("a Client in a worker calls that worker's agent", async () => {
  const { stdout, stderr } = await agent.cli('call', 'asking', 'ask');
  expect({ stderr, answer: JSON.parse(stdout || 'null') }).toEqual({
    stderr: '',
    answer: [expect.stringMatching(/^unix:.*\/C%23%20a%2Cb%2050%2525%3F'\/run\/agent\.sock$/), '0'],
  });
});

test("only the agent's own user may call, and the command line dials no socket that others could have created", async () => {
  expect((statSync(agent.socket).mode & 0o777).toString(8)).toBe('600');
  const open = join(above, 'open');
  mkdirSync(open);
  const bin = join(root, 'bin/pitwarden');
  const status = (socket: string) => runToEnd(process.execPath, [bin, 'status', '--socket', socket]);
  chmodSync(open, 0o777);
  expect(await status(join(open, 'agent.sock'))).toMatchObject({
    code: 3,
    stderr: expect.stringContaining(`${open}: expected a folder that other users may not write to, got mode 0777`),
  });
  const long = `/${'x'.repeat(120)}/agent.sock`;
  expect(await status(long)).toMatchObject({ code: 2, stderr: expect.stringContaining('at most 107 bytes') });
});
