import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, python, spawnAgent, untilReady } from './agent.ts';
import type { Failure, TestClient } from './grpc.ts';
import { connect } from './grpc.ts';

// Applications that cannot start: their callers learn the cause long before the deadline of the call.

let dir: string;
let agent: TestAgent;
let client: TestClient;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pw-broken-'));
});

afterEach(async () => {
  client?.close();
  await agent?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const app = 'import pitwarden\napp = pitwarden.App()\n';

/** By name: the module, the error that callers get, and further config of the pool. */
const broken: Record<string, { module: string; error: RegExp; more?: string }> = {
  no_module: { module: 'import nope_nope', error: /ModuleNotFoundError: No module named 'nope_nope' \(FILE, line 1\)/ },
  syntax: { module: `${app}def f(:\n`, error: /SyntaxError: .* \(FILE, line 3\)/ },
  raises: { module: `${app}x = {}['key']\n`, error: /KeyError: 'key' \(FILE, line 3\)/ },
  chained: {
    module: `${app}try:\n    open("/nope")\nexcept OSError as e:\n    raise RuntimeError("no model") from e\n`,
    error: /RuntimeError: no model \(FILE, line 6\)/,
  },
  leaves: { module: 'import sys\nsys.exit("no licence")\n', error: /no licence/ },
  no_attribute: { module: 'import pitwarden\n', error: /app/ },
  no_app: { module: 'app = 3\n', error: /App/ },
  hook: {
    module: `${app}@app.on_start\ndef load():\n    raise ValueError("weights are torn")\n`,
    error: /ValueError: weights are torn \(FILE, line 5\)/,
  },
  twice: {
    module: `${app}@app.command\ndef f(): ...\n@app.command(name="f")\ndef g(): ...\n`,
    error: /f.*\(FILE, line 5\)/,
  },
  killed: { module: 'import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n', error: /ended by SIGKILL/ },
  slow: {
    module: `import time\ntime.sleep(60)\n${app}`,
    error: /start\.timeout/,
    more: 'start: { timeout: 1s }, drain: { kill_after: 200ms }',
  },
  no_python: { module: app, error: /No module named 'pitwarden'/, more: 'python: PYTHON' },
};

test('each caller of twelve broken applications learns the cause with file and line within 2 s of the second failed start', async () => {
  const bare = join(dir, 'python');
  writeFileSync(bare, '#!/bin/sh\nexec python3 -S -I "$@"\n', { mode: 0o755 });
  const pools = Object.entries(broken).map(([name, { module, more = '' }]) => {
    mkdirSync(join(dir, name));
    writeFileSync(join(dir, name, 'broken.py'), module);
    const interpreter = more.includes('PYTHON') ? '' : `python: ${python}, `;
    return `${name}: { app: broken:app, ${interpreter}cwd: ${join(dir, name)}, ${more.replace('PYTHON', bare)} }`;
  });
  agent = await spawnAgent([...pools, `text: { app: text:app, python: ${python}, cwd: ${examples} }`].join('\n'));
  client = connect(agent.socket);
  const asked = Object.keys(broken).map(async (name) => {
    const failure = await client.execute(name, 'f').catch((error: Failure) => error);
    return { name, failure: failure as Failure, atMs: Date.now() };
  });
  const exits = async (pool: string) =>
    (await client.control<{ exits: { exited_at_ms: number }[] }>('ListExits', { pool })).exits;
  for (const { name, failure, atMs } of await Promise.all(asked)) {
    const error = String(broken[name]?.error.source).replace('FILE', join(dir, name, 'broken.py'));
    expect(failure, name).toMatchObject({ code: 14, told: { may_have_begun: false } });
    expect(failure.message).toMatch(new RegExp(error));
    // Newest first.
    const secondAtMs = (await exits(name)).at(-2)?.exited_at_ms ?? 0;
    expect(atMs - secondAtMs, `${name} after its second failed start`).toBeLessThan(2_000);
    // Later callers are refused at once.
    await expect(client.execute(name, 'f', [], {}, 2_000)).rejects.toMatchObject({ code: 14 });
  }
  // Once the application is fixed, the pool serves.
  writeFileSync(join(dir, 'no_app', 'broken.py'), `${app}@app.command\ndef f():\n    return 1\n`);
  await untilReady(agent, 'no_app', 1);
  expect((await client.execute('no_app', 'f')).value).toBe(1);
});
