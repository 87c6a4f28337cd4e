import { spawn } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { node, python, root, spawnAgent, until, untilReady } from './agent.ts';

let agent: TestAgent | undefined;
afterEach(async () => {
  await agent?.stop();
  agent = undefined;
});

const pool = `p: { app: awkward:app, python: ${python}, cwd: ${root}test/fixtures }`;

interface Listed {
  readonly kind: string;
  readonly pool: string;
  readonly worker_id: string;
  readonly at_ms: number;
  readonly message: string;
}

async function eventsOf(from: TestAgent, ...args: string[]): Promise<Listed[]> {
  const { code, stdout, stderr } = await from.cli('events', '--json', ...args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Listed);
}

test('`events --since` lists what happened under an agent that was killed, and `--follow` goes on under the next one', async () => {
  const killed = await spawnAgent(pool);
  agent = killed;
  const [worker] = await untilReady(agent, 'p', 1);
  const id = worker?.worker_id ?? '';
  const follower = spawn(node, [
    ...[join(root, 'bin/pitwarden'), 'events', '--since', '1h', '--follow'],
    ...['--kind', 'pool_scaled', '--socket', agent.socket],
  ]);
  let followed = '';
  follower.stdout.on('data', (data) => {
    followed += data;
  });
  try {
    await agent.cli('scale', 'p', '2');
    await until(
      () => /pool_scaled p: .*2/.test(followed),
      'the first event to be followed',
      () => followed,
    );
    agent.signal('SIGKILL');
    await agent.exited;
    agent = await spawnAgent(pool, '', killed.dir);
    await untilReady(agent, 'p', 2);

    const all = await eventsOf(agent, '--since', '1h');
    const times = all.map(({ at_ms }) => at_ms);
    expect(times).toEqual([...times].sort((a, b) => a - b));
    const ofWorker = await eventsOf(agent, '--since', '1h', '--worker', id);
    // The first agent started it, the second one adopted it.
    expect(ofWorker.map(({ kind }) => kind)).toEqual(
      expect.arrayContaining(['worker_started', 'worker_ready', 'worker_adopted']),
    );
    expect(ofWorker).toEqual(all.filter(({ worker_id }) => worker_id === id));
    expect(await eventsOf(agent, '--since', '2999-01-01T00:00:00Z')).toEqual([]);
    expect(await eventsOf(agent, '--since', '1h', '--pool', 'other')).toEqual([]);

    await agent.cli('scale', 'p', '1');
    const lines = (): string[] => followed.trim().split('\n');
    await until(
      () => lines().length > 1,
      'the event of the next agent',
      () => followed,
    );
    expect(lines()).toHaveLength(2);
    expect(followed).toMatch(/^\d{4}-\d\d-\d\dT\S+ pool_scaled p/);
  } finally {
    follower.kill();
  }
  const folder = join(agent.dir, 'state/events');
  for (const name of readdirSync(folder)) expect(statSync(join(folder, name)).mode & 0o777).toBe(0o600);
});

test('`events` refuses a time or a kind that it does not understand', async () => {
  agent = await spawnAgent(pool);
  for (const since of ['yesterday', '1', '-1h']) {
    const { code, stderr } = await agent.cli('events', `--since=${since}`);
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: `--since: expected a duration such as 30m or 24h, or a time such as 2026-05-01T12:00:00Z, got "${since}"\n`,
    });
  }
  const { code, stderr } = await agent.cli('events', '--since', '1h', '--kind', 'worker_exploded');
  expect(code).toBe(1);
  expect(stderr).toContain('kinds: expected kinds of events');
});
