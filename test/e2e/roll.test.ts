import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { ListedWorker, TestAgent } from './agent.ts';
import {
  examples,
  followAgent,
  interruptUntilGone,
  node,
  python,
  root,
  spawnAgent,
  until,
  untilReady,
} from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect } from './grpc.ts';

let agent: TestAgent;
let client: TestClient;

afterEach(async () => {
  client?.close();
  await agent?.stop();
});

const text = (keys: string, app = 'text:app') => `
text:
  app: ${app}
  python: ${python}
  cwd: ${examples}
  restart: { backoff: { min: 50ms, max: 100ms } }
  ${keys}
`;

async function start(pools: string): Promise<void> {
  agent = await spawnAgent(pools);
  client = connect(agent.socket);
}

test('a roll replaces every worker under load without losing a request, and shows its progress', async () => {
  await start(text('size: 3'));
  const before = await untilReady(agent, 'text', 3);
  let rolling = true;
  let answered = 0;
  const caller = async (): Promise<void> => {
    while (rolling) {
      await client.execute('text', 'count_words', ['a b']);
      answered += 1;
    }
  };
  const callers = Array.from({ length: 4 }, caller);
  const rolled = await agent.cli('roll', 'text');
  rolling = false;
  await Promise.all(callers);
  expect(rolled).toMatchObject({ code: 0, stderr: '' });
  const lines = rolled.stdout.trim().split('\n');
  expect(lines[0]).toMatch(/^text \[\.{30}\] 0 of 3 replaced, 1 in progress \(running\)$/);
  expect(lines.at(-1)).toMatch(/^text \[#{30}\] 3 of 3 replaced, 0 in progress \(done: 3 workers replaced\)$/);
  const after = await untilReady(agent, 'text', 3);
  const old = new Set(before.map((worker) => worker.worker_id));
  expect(after.filter((worker) => old.has(worker.worker_id))).toEqual([]);
  expect(answered).toBeGreaterThan(0);
  const exits = await agent.json<{ reason: string }[]>('exits');
  expect(exits.map((exit) => exit.reason)).toEqual(['roll', 'roll', 'roll']);
});

// Each worker is ready a second after its start, so a roll of three leaves enough time to kill the agent during it.
const slow = `
slow:
  app: slow_start:app
  python: ${python}
  cwd: ${root}test/fixtures
  env: { SECONDS: '1' }
  size: 3
`;

/** Waits until the first worker of this generation is ready. */
async function untilBegun(generation: number): Promise<void> {
  const list = () => client.control<{ workers: ListedWorker[] }>('ListWorkers', { pool: 'slow' });
  await until(
    async () =>
      (await list()).workers.some((each) => each.generation === generation && each.state === 'WORKER_STATE_READY'),
    `a ready worker of generation ${generation}`,
    async () => [await list(), agent.output().slice(-3000)],
  );
}

async function killAndStartNext(between = (): void => undefined): Promise<void> {
  agent.signal('SIGKILL');
  await agent.exited;
  between();
  agent = await spawnAgent(slow, '', agent.dir);
  client.close();
  client = connect(agent.socket);
}

/** Every worker was replaced exactly once: the old ones are gone, and each slot is in its second generation. */
async function expectReplacedOnce(before: readonly { readonly worker_id: string }[]): Promise<void> {
  const after = await untilReady(agent, 'slow', 3);
  const old = new Set(before.map(({ worker_id }) => worker_id));
  expect(after.filter(({ worker_id }) => old.has(worker_id))).toEqual([]);
  expect(after.map(({ generation }) => generation)).toEqual([2, 2, 2]);
}

test('if the agent is killed during a roll, the next agent continues it, and its watcher sees it done', async () => {
  await start(slow);
  const before = await untilReady(agent, 'slow', 3);
  const rolled = agent.cli('roll', 'slow');
  await untilBegun(2);
  await killAndStartNext();
  const { code, stdout, stderr } = await rolled;
  const lines = stdout.trim().split('\n');
  expect([code, lines.at(-1)]).toEqual([
    0,
    expect.stringMatching(/ 3 of 3 replaced, 0 in progress \(done: 3 workers replaced\)$/),
  ]);
  const [, rollId = 'none'] = /^the agent has ended; (roll-[a-z0-9]{8}) goes on with the next one/.exec(stderr) ?? [];
  expect(agent.output()).not.toContain('"roll_started"');
  await expectReplacedOnce(before);

  // Its result is kept and can be queried by its id.
  const watched = await agent.json<{ roll_id: string; state: string; started_at_ms: number }>(
    'roll',
    'slow',
    '--watch',
  );
  expect(watched).toMatchObject({ roll_id: rollId, state: 'ROLL_STATE_DONE', total: 3, replaced: 3 });
  expect(Math.abs(Date.now() - watched.started_at_ms)).toBeLessThan(120_000);

  // Another roll, which the next agent will not know.
  const lost = agent.cli('roll', 'slow');
  await untilBegun(3);
  await killAndStartNext(() => rmSync(join(agent.dir, 'state/orders.json')));
  expect(await lost).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(
      /pool slow: the agent that answers now does not know roll-\w{8}, .*NOT_FOUND: roll_id: .*the pool has had none/,
    ),
  });
});

test('a roll continues over a handover while its caller waits in the systemd socket for the next agent', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  writeFileSync(join(dir, 'pitwarden.yaml'), `pools:\n${slow.replace(/^(?=.)/gm, '  ')}`);
  const flags = ['--runtime-dir', join(dir, 'run'), '--state-dir', join(dir, 'state'), '--http', '127.0.0.1:0'];
  const holder = [join(root, 'test/fixtures/holds_socket.py'), join(dir, 'run/agent.sock'), node];
  const run = [join(root, 'bin/pitwarden'), 'agent', '--config', join(dir, 'pitwarden.yaml'), ...flags];
  agent = await followAgent(python, [...holder, ...run], dir);
  const before = await untilReady(agent, 'slow', 3);
  const rolled = agent.cli('roll', 'slow');
  client = connect(agent.socket);
  await untilBegun(2);
  await client.control('Handover');
  const { code, stdout, stderr } = await rolled;
  expect(stderr).toMatch(/^the agent has ended; roll-/);
  expect([code, stdout.trim().split('\n').at(-1)]).toEqual([
    0,
    expect.stringMatching(/ 3 of 3 replaced, 0 in progress \(done: 3 workers replaced\)$/),
  ]);
  await expectReplacedOnce(before);
});

test('a changed config that does not start is abandoned for the last good one, which keeps serving', async () => {
  await start(text('size: 2'));
  await untilReady(agent, 'text', 2);
  agent.config(text('size: 2', 'nothing_here:app'));
  agent.signal('SIGHUP');
  await until(() => agent.output().includes('"pool_quarantined"'), 'the quarantine', agent.output);
  const status = await agent.cli('status');
  expect(status.stdout).toMatch(/text: its last good config is kept: 3 starts failed with the new config/);
  const [first] = await untilReady(agent, 'text', 2);
  process.kill(first?.pid ?? 0, 'SIGKILL');
  await until(
    async () => (await untilReady(agent, 'text', 2)).every((worker) => worker.worker_id !== first?.worker_id),
    'its slot to be filled',
  );
  await client.execute('text', 'count_words', ['a b']);
  // A new roll tries the config again, and fails.
  const rolled = await agent.cli('roll', 'text', '--max-failures', '2');
  expect(rolled.code).toBe(1);
  expect(rolled.stderr).toMatch(
    /^pool text: the roll failed: 2 replacements failed; the last one: [\s\S]*nothing_here/,
  );
  await untilReady(agent, 'text', 2);
  await client.execute('text', 'count_words', ['a b']);
});

test('a roll can be paused, resumed and aborted, and an impossible change is refused with the reason', async () => {
  await start(text('size: 2', 'faults:app'));
  await untilReady(agent, 'text', 2);
  // While an old worker serves, the roll cannot end before it is aborted.
  const served = Promise.allSettled([1, 2].map(() => client.execute('text', 'sleep', [100])));
  await until(async () => (await agent.workers('text')).every((worker) => worker.in_flight === 1), 'both to be busy');
  expect(await agent.cli('roll', 'text', '--pause')).toMatchObject({
    code: 1,
    stderr: 'FAILED_PRECONDITION: pool text: expected a roll that is running, got none\n',
  });
  expect((await agent.cli('roll', 'nowhere')).stderr).toMatch(/^NOT_FOUND: pool: expected one of this node's pools/);
  for (const wrong of ['x', '0'])
    expect(await agent.cli('roll', 'text', '--max-failures', wrong)).toMatchObject({ code: 2 });
  const rolling = agent.cli('roll', 'text');
  await until(() => agent.output().includes('"roll_started"'), 'the roll to begin');
  for (const [change, state] of [
    ['--pause', 'paused'],
    ['--resume', 'running'],
  ] as const)
    expect((await agent.cli('roll', 'text', change)).stdout).toContain(`(${state})`);
  const aborted = await agent.cli('roll', 'text', '--abort');
  expect(aborted.stdout).toContain('(aborted: requested by an operator)');
  expect(await rolling).toMatchObject({ code: 1, stderr: 'pool text: the roll aborted: requested by an operator\n' });
  // A second Ctrl-C waits for nothing.
  agent.signal('SIGINT');
  await until(() => agent.output().includes('SIGINT: no new requests'), 'the first to be heard');
  await interruptUntilGone(agent);
  await served;
});

test('a worker is ready only after its warm-up, and not if the warm-up fails', async () => {
  const pool = (warmUp: string) => `
slow:
  app: faults:app
  python: ${python}
  cwd: ${examples}
  start: { ${warmUp} }
  restart: { backoff: { min: 50ms, max: 100ms } }
`;
  await start(pool('warm_up: leak, warm_up_args: [7]'));
  await untilReady(agent, 'slow', 1);
  expect((await client.execute('slow', 'leak', [1])).value).toEqual({ leaked_mb: 8 });
  expect((await agent.workers('slow'))[0]).toMatchObject({ requests_completed: 1, requests_failed: 0 });
  agent.config(`${pool('warm_up: raise_error, warm_up_args: [cold]')}  env: { CHANGED: 1 }`);
  agent.signal('SIGHUP');
  await until(
    () => agent.output().includes('its warm-up failed: builtins.RuntimeError: cold'),
    'the failure',
    agent.output,
  );
  await until(() => agent.output().includes('"pool_quarantined"'), 'the quarantine', agent.output);
  expect((await client.execute('slow', 'leak', [1])).value).toEqual({ leaked_mb: 9 });
  agent.config(`${pool('warm_up: nothing')}  env: { CHANGED: 2 }`);
  agent.signal('SIGHUP');
  await until(
    () => /start.warm_up: expected a command of the app \([^)]*\), got ..nothing../.test(agent.output()),
    'it to be told',
  );
});

test('on a terminal a progress bar is one line that is overwritten', async () => {
  await start(text('size: 1'));
  await untilReady(agent, 'text', 1);
  const { spawnSync } = await import('node:child_process');
  const command = `${process.execPath} ${root}bin/pitwarden roll text --socket ${agent.socket}`;
  const { stdout, status } = spawnSync('script', ['-qec', command, '/dev/null'], { encoding: 'utf8' });
  expect(status).toBe(0);
  expect(stdout).toContain('\r\x1b[Ktext [');
  expect(stdout.trim().split('\n')).toHaveLength(1);
});
