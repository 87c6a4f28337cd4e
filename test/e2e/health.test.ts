import { spawn } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, python, root, spawnAgent, until, untilReady } from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect } from './grpc.ts';

let agent: TestAgent;
let client: TestClient;

afterEach(async () => {
  client?.close();
  await agent?.stop();
});

const pings = 'heartbeat: { interval: 200ms, timeout: 600ms, max_missed: 2, busy_limit: 20s }';

/** How late the last ping and the verdict may each be before the agent counts the delay as its own lag (step.ts). */
const slackMs = 2 * 200;

async function start(app: 'stuck' | 'faults', keys = pings): Promise<void> {
  const folder = app === 'stuck' ? `${root}test/fixtures` : examples;
  agent = await spawnAgent(`
stuck:
  app: ${app}:app
  python: ${python}
  cwd: ${folder}
  restart: { backoff: { min: 100ms } }
  ${keys}
`);
  client = connect(agent.socket);
}

interface Explained {
  health: string;
  because: string;
  observations: { name: string; value: string }[];
  requests: { command: string }[];
  exit: null | {
    reason: string;
    evidence: null | {
      taken_at_ms: number;
      because: string;
      state: string;
      threads: string[];
      stacks: string;
      stacks_missing: string;
      requests: { command: string; request_id: string; cancelled: boolean }[];
      last_lines: string[];
    };
  };
}

/** How a worker ended, once it has. */
async function ended(workerId: string) {
  const explained = await until(
    async () => {
      const found = await agent.json<Explained>('explain', workerId);
      return found.exit === null ? undefined : found.exit;
    },
    'the worker to end',
    () => agent.output().slice(-3000),
  );
  return explained;
}

test('a deadlock that holds the GIL counts as hung, and the stacks show where', async () => {
  await start('stuck');
  const [worker] = await untilReady(agent, 'stuck', 1);
  await client.execute('stuck', 'say_much', [20, 4_000]);
  await client.execute('stuck', 'say', ['a last word']);
  await expect(client.execute('stuck', 'deadlock_in_c')).rejects.toMatchObject({
    code: 14,
    told: { exit_reason: 'hung' },
  });
  const exit = await ended(worker?.worker_id ?? '');
  expect(exit.reason).toBe('hung');
  expect(exit.evidence?.because).toMatch(
    /^\d+ of 2 pings missed, and no sign of activity: state S, last result \d+ ms ago/,
  );
  expect(exit.evidence?.stacks).toContain('in deadlock_in_c');
  expect(exit.evidence?.threads.some((thread) => / S futex/.test(thread) || / S 0$/.test(thread))).toBe(true);
  expect(exit.evidence?.requests).toMatchObject([{ command: 'deadlock_in_c', cancelled: false }]);
  // The newest lines, within 8 Ki characters.
  expect(exit.evidence?.last_lines.map((line) => line.slice(0, 11))).toEqual([
    '17 xxxxxxxx',
    '18 xxxxxxxx',
    '19 xxxxxxxx',
    'a last word',
  ]);
  expect(exit.evidence?.last_lines.join('').length).toBe(8 * 1024);
  const { stdout } = await agent.cli('explain', worker?.worker_id.slice(0, -2) ?? '');
  expect(stdout).toContain('in deadlock_in_c');
  expect(stdout).toMatch(/request \S+ \(deadlock_in_c\) for \d+ ms/);
});

test('a deadlock that holds the GIL counts as hung, however many threads wait for the GIL', async () => {
  await start('stuck');
  const [worker] = await untilReady(agent, 'stuck', 1);
  await expect(client.execute('stuck', 'deadlock_in_c_with_threads', [40])).rejects.toMatchObject({
    told: { exit_reason: 'hung' },
  });
  const exit = await ended(worker?.worker_id ?? '');
  expect(exit.evidence?.because).toMatch(/^\d+ of 2 pings missed, and no sign of activity: state S/);
});

test.each(['deadlock_in_python', 'open_fifo'])(
  'a worker stuck in %s, which releases the GIL, is well until its deadline has passed',
  async (command) => {
    await start('stuck', `${pings}\n  request: { kill_after: 300ms }`);
    const [worker] = await untilReady(agent, 'stuck', 1);
    await expect(client.execute('stuck', command, [], {}, 1_500)).rejects.toMatchObject({ code: 4 });
    const exit = await ended(worker?.worker_id ?? '');
    expect(exit.reason).toBe('overdue');
    expect(exit.evidence?.stacks).toContain(`in ${command}`);
    expect(exit.evidence?.requests).toMatchObject([{ command, cancelled: true }]);
    expect(agent.output()).not.toContain('"worker_health"');
  },
);

test('an asyncio loop that is blocked while pings are answered counts as hung, and the stacks show where', async () => {
  await start('stuck');
  const [worker] = await untilReady(agent, 'stuck', 1);
  await client.execute('stuck', 'block_loop');
  const exit = await ended(worker?.worker_id ?? '');
  expect(exit.reason).toBe('hung');
  expect(exit.evidence?.because).toMatch(/^its pings are answered, but its asyncio loop has been blocked for \d+ ms/);
  expect(exit.evidence?.stacks).toContain('run_forever');
});

test('a worker stopped by SIGSTOP counts as hung, and its evidence says why it has no stacks', async () => {
  await start('stuck');
  const [worker] = await untilReady(agent, 'stuck', 1);
  process.kill(worker?.pid ?? 0, 'SIGSTOP');
  const exit = await ended(worker?.worker_id ?? '');
  expect(exit.reason).toBe('hung');
  expect(exit.evidence).toMatchObject({ state: 'T', stacks: '', stacks_missing: 'the process is stopped (state T)' });
});

test('a hung worker is found within interval × max_missed + timeout, whenever it hangs between two pings', async () => {
  await start('stuck', 'size: 4\n  heartbeat: { interval: 800ms, timeout: 1s, max_missed: 3 }');
  const stopped: { id: string; atMs: number }[] = [];
  for (const worker of await untilReady(agent, 'stuck', 4)) {
    // At a different moment of the interval each time.
    await delay(210);
    process.kill(worker.pid, 'SIGSTOP');
    stopped.push({ id: worker.worker_id, atMs: Date.now() });
  }
  for (const { id, atMs } of stopped) {
    const foundMs = ((await ended(id)).evidence?.taken_at_ms ?? Number.POSITIVE_INFINITY) - atMs;
    expect(foundMs).toBeLessThanOrEqual(3 * 800 + 1_000 + slackMs);
    // Not before a ping that it could not answer was overdue.
    expect(foundMs).toBeGreaterThan(1_000);
  }
});

test('a worker that holds the GIL in C for longer than busy_limit is killed, with the stacks of the holder', async () => {
  await start('faults', pings.replace('20s', '8s'));
  const [worker] = await untilReady(agent, 'stuck', 1);
  const held = expect(client.execute('stuck', 'hold_gil', [60])).rejects.toMatchObject({
    told: { exit_reason: 'hung' },
  });
  const busy = await until(
    async () => {
      const found = await agent.json<Explained>('explain', worker?.worker_id ?? '');
      return found.health === 'WORKER_HEALTH_BUSY' ? found : undefined;
    },
    'it to be seen busy',
    () => agent.output().slice(-3000),
  );
  expect(busy.because).toMatch(/^\d+ of 2 pings missed, but its (cpu time advances|last result)/);
  expect(busy.requests).toMatchObject([{ command: 'hold_gil' }]);
  expect(busy.observations.map(({ name }) => name)).toContain('cpu');
  await held;
  const exit = await ended(worker?.worker_id ?? '');
  expect(exit.evidence?.because).toContain('busy for longer than busy_limit (8000 ms)');
  expect(exit.evidence?.stacks).toContain('in hold_gil');
});

test('workers that are busy in Python, asleep, or in C within busy_limit are not killed, even on a loaded host', async () => {
  await start('faults', `${pings}\n  size: 3`);
  await untilReady(agent, 'stuck', 3);
  const hogs = Array.from({ length: 8 }, () =>
    spawn(python, ['-c', 'import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass']),
  );
  try {
    await Promise.all([
      client.execute('stuck', 'spin', [4]),
      client.execute('stuck', 'sleep', [4]),
      client.execute('stuck', 'hold_gil', [4]),
    ]);
  } finally {
    for (const hog of hogs) hog.kill('SIGKILL');
  }
  expect((await untilReady(agent, 'stuck', 3)).map((worker) => worker.generation)).toEqual([1, 1, 1]);
  expect(agent.output()).not.toContain('"worker_killed"');
});

test('explain shows the signals of a live worker, and says what it expected for an unknown one', async () => {
  await start('stuck');
  const [worker] = await untilReady(agent, 'stuck', 1);
  const { stdout } = await agent.cli('explain', worker?.worker_id ?? '');
  expect(stdout).toMatch(/ready {2}well: no ping is overdue/);
  for (const signal of ['process ', 'pings missed', 'last pong', 'last result', 'process state', 'cpu ', 'busy '])
    expect(stdout).toContain(signal);
  expect(await agent.cli('explain', 'nobody')).toMatchObject({
    code: 1,
    stderr:
      'NOT_FOUND: worker_id: expected a live worker (ListWorkers) or one that ended lately (ListExits), got "nobody"\n',
  });
});

describe('evidence of starts, stops and crashes:', () => {
  const pool = (name: string, hangs: string, keys: string): string =>
    `${name}: { app: hanging:app, python: ${python}, cwd: ${root}test/fixtures, env: { HANGS: ${hangs} }, ${keys} }`;

  /** How the first worker of a pool that ended has ended. */
  const firstExit = (name: string) =>
    until(
      async () => {
        const { exits } = await client.control<{
          exits: (Explained['exit'] & { worker_id: string; message: string })[];
        }>('ListExits', { pool: name });
        return exits.at(-1);
      },
      `a worker of ${name} to end`,
      () => agent.output().slice(-3000),
    );

  test('a start or a stop that hangs shows where before it is killed', async () => {
    agent = await spawnAgent(
      [
        ...['import', 'hook', 'deaf'].map((at) => pool(`at_${at}`, at, 'start: { timeout: 2s }')),
        pool('stops', 'thread', 'drain: { kill_after: 2s }'),
      ].join('\n'),
    );
    client = connect(agent.socket);
    const [leaving] = await untilReady(agent, 'stops', 1);
    await agent.cli('stop', leaving?.worker_id ?? '');
    for (const name of ['at_import', 'at_hook']) {
      const exit = await firstExit(name);
      expect(exit.reason).toBe('start_timeout');
      expect(exit.message).toMatch(
        /not ready within 2 s \(start\.timeout\).*, in connect_to_database \(.*hanging\.py, line \d+\)/,
      );
      expect(exit.evidence?.stacks).toContain('in connect_to_database');
      const { stdout } = await agent.cli('explain', exit.worker_id);
      expect(stdout).toContain('in connect_to_database');
      expect(stdout).toMatch(/its state at \S+: not ready within 2 s/);
    }
    // Without a handler the signal would have killed it.
    expect(await firstExit('at_deaf')).toMatchObject({
      message: expect.stringContaining('ended by SIGKILL'),
      evidence: { stacks: '', stacks_missing: 'the worker does not write stacks, or not yet' },
    });
    const stopped = await firstExit('stops');
    expect(stopped).toMatchObject({ reason: 'operator', message: expect.stringMatching(/SIGKILL, in housekeeping/) });
    expect(stopped.evidence).toMatchObject({ because: 'did not exit when asked' });
    expect(stopped.evidence?.stacks).toContain('in housekeeping');
  });

  test('a crash shows its Python stack and request, and the crash of a forked child is not mistaken for it', async () => {
    agent = await spawnAgent([pool('crashes', 'no', ''), pool('forks', 'no', '')].join('\n'));
    client = connect(agent.socket);
    await untilReady(agent, 'crashes', 1);
    await expect(client.execute('crashes', 'crash')).rejects.toMatchObject({
      told: {
        exit_reason: 'signal',
        message: expect.stringMatching(/ended by SIGSEGV, in crash \(.*hanging\.py, line \d+\)/),
      },
    });
    const crashed = await firstExit('crashes');
    expect(crashed.evidence).toMatchObject({ because: 'it crashed with SIGSEGV', requests: [{ command: 'crash' }] });
    expect(crashed.evidence?.stacks).toMatch(/^Fatal Python error: Segmentation fault\n[\s\S]*in crash\n/);
    const { stdout } = await agent.cli('explain', crashed.worker_id);
    expect(stdout).toMatch(/it crashed with SIGSEGV\nrequest \S+ \(crash\)[\s\S]*in crash\n/);
    await untilReady(agent, 'forks', 1);
    await expect(client.execute('forks', 'crash_in_child_then_die')).rejects.toMatchObject({ code: 14 });
    expect(await firstExit('forks')).toMatchObject({ message: expect.stringContaining('SIGKILL'), evidence: null });
  });
});
