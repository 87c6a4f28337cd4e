import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { markOf } from '../../src/os/process/tree-mark.ts';
import type { TestAgent } from './agent.ts';
import {
  examples,
  interruptUntilGone,
  processesOf,
  python,
  root,
  spawnAgent,
  until,
  untilLogged,
  untilReady,
} from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect, retrying } from './grpc.ts';
import { scrape } from './http.ts';

let agent: TestAgent;
let client: TestClient;

afterEach(async () => {
  client?.close();
  await agent?.stop();
});

async function start(pools: string): Promise<void> {
  agent = await spawnAgent(pools);
  client = connect(agent.socket);
}

const faults = (extra = '') => `
faults:
  app: faults:app
  python: ${python}
  cwd: ${examples}
  restart: { backoff: { min: 100ms } }
  heartbeat: { interval: 200ms, timeout: 600ms, max_missed: 2, busy_limit: 20s }
  ${extra}
`;

test('kill -9 of a worker fails its request at once with the reason, and the worker is replaced', async () => {
  await start(faults('size: 2'));
  const [first] = await untilReady(agent, 'faults', 2);
  const running = Promise.allSettled([
    client.execute('faults', 'sleep', [30]),
    client.execute('faults', 'sleep', [30], { idempotent: true }, 8_000),
  ]);
  await until(async () => (await agent.workers('faults')).every((worker) => worker.in_flight === 1), 'both to be busy');
  process.kill(first?.pid ?? 0, 'SIGKILL');
  await until(async () => {
    const ready = await untilReady(agent, 'faults', 2);
    return ready.some((worker) => worker.slot === first?.slot && worker.generation === 2);
  }, 'the replacement');
  for (const worker of await agent.workers('faults')) if (worker.generation === 1) process.kill(worker.pid, 'SIGKILL');
  const [plain] = await running;
  expect(plain).toMatchObject({ status: 'rejected', reason: { code: 14, told: { exit_reason: 'signal' } } });
  await client.execute('faults', 'leak', [1]);
});

test('the limits of a pool apply in its workers, and a worker marks the requests that it begins', async () => {
  await start(faults('limits: { open_files: 200, memory: 1GiB, pids: 500 }'));
  const [worker] = await untilReady(agent, 'faults', 1);
  const limits = readFileSync(`/proc/${worker?.pid}/limits`, 'latin1');
  expect(limits).toMatch(/^Max open files +200 +200 /m);
  expect(limits).toMatch(new RegExp(`^Max realtime timeout +${markOf(worker?.worker_id ?? '')} `, 'm'));
  // Enforced by the cgroup, if it has a memory controller.
  const [, cgroup] = /^0::(.*)$/m.exec(readFileSync(`/proc/${worker?.pid}/cgroup`, 'latin1')) ?? [];
  const held = existsSync(join('/sys/fs/cgroup', cgroup ?? '', 'memory.max'));
  expect(limits).toMatch(held ? /^Max data size +unlimited/m : /^Max data size +1073741824 +1073741824 /m);
  if (existsSync(join('/sys/fs/cgroup', cgroup ?? '', 'pids.max'))) return;

  // The kernel counts processes per user, so each of several workers may see more of them.
  const processes = () =>
    Number(/^Max processes +(\d+)/m.exec(readFileSync(`/proc/${worker?.pid}/limits`, 'latin1'))?.[1]);
  const before = processes();
  await agent.cli('scale', 'faults', '3');
  await until(() => processes() === before + 2 * 500, 'the limit of the first worker to be raised');
});

test('a worker stopped by SIGSTOP is found by its missed pings, killed as hung and replaced', async () => {
  await start(faults());
  const [first] = await untilReady(agent, 'faults', 1);
  process.kill(first?.pid ?? 0, 'SIGSTOP');
  await until(
    async () =>
      (await agent.workers('faults')).some(
        (worker) => worker.generation === 2 && worker.state === 'WORKER_STATE_READY',
      ),
    'the replacement',
    () => agent.output().slice(-3000),
  );
  await untilLogged(agent, /reason":"hung"/);
  await client.execute('faults', 'leak', [1]);
});

test('a worker that holds the GIL beyond the ping limit is busy, is not killed, and returns its result', async () => {
  await start(faults());
  const [first] = await untilReady(agent, 'faults', 1);
  const held = client.execute('faults', 'hold_gil', [4]);
  const busy = /slow → busy: \d+ of 2 pings missed, but its cpu time advances/;
  await until(() => busy.test(agent.output()), 'the worker to be seen busy', agent.output);
  expect((await held).workerId).toBe(first?.worker_id);
  await until(async () => (await agent.workers('faults'))[0]?.health === 'WORKER_HEALTH_WELL', 'it to be well again');
  expect((await agent.workers('faults'))[0]?.worker_id).toBe(first?.worker_id);
});

test('pings are answered while Python code runs', async () => {
  await start(faults());
  await untilReady(agent, 'faults', 1);
  await client.execute('faults', 'spin', [2]);
  expect(await agent.workers('faults')).toMatchObject([{ health: 'WORKER_HEALTH_WELL', missed_pings: 0 }]);
  expect(agent.output()).not.toContain('worker_health');
});

test('a crash, an exit and an exception have different errors', async () => {
  await start(faults());
  await untilReady(agent, 'faults', 1);
  await expect(client.execute('faults', 'raise_error', ['alas'])).rejects.toMatchObject({
    code: 2,
    told: { type: 'builtins.RuntimeError', message: 'alas', traceback: expect.stringContaining('in raise_error') },
  });
  await expect(client.execute('faults', 'crash', ['SIGSEGV'])).rejects.toMatchObject({
    code: 14,
    told: { exit_reason: 'signal', message: expect.stringContaining('SIGSEGV') },
  });
  await untilReady(agent, 'faults', 1);
  await expect(client.execute('faults', 'exit', [7])).rejects.toMatchObject({
    code: 14,
    told: { exit_reason: 'exit_code', message: expect.stringContaining('code 7') },
  });
  await untilReady(agent, 'faults', 1);
  const metrics = await scrape(agent.http);
  expect(metrics).toContain('pitwarden_worker_exits_total{pool="faults",reason="signal"} 1');
  expect(metrics).toContain('pitwarden_worker_exits_total{pool="faults",reason="exit_code"} 1');
});

test('the reason of an end is the same word in log, event, metric and answer', async () => {
  await start(faults());
  const events = spawn(process.execPath, [join(root, 'bin/pitwarden'), 'events', '--json', '--socket', agent.socket]);
  let seen = '';
  events.stdout.on('data', (data) => {
    seen += data;
  });
  await untilReady(agent, 'faults', 1);
  await until(async () => {
    await agent.cli('start', 'faults');
    return seen.includes('pool_scaled');
  }, 'the watcher to see changes');
  const lost = client.execute('faults', 'crash', ['SIGABRT']).catch((error: unknown) => error);
  const { told } = (await lost) as { told: { exit_reason: string; worker_id: string } };
  expect(told.exit_reason).toBe('signal');
  const line = (text: string, mark: string) =>
    text.split('\n').find((each) => each.includes(mark) && each.includes(told.worker_id));
  const logged = await until(() => line(agent.output(), '"worker_exited"'), 'the log line');
  expect(JSON.parse(logged)).toMatchObject({ reason: 'signal', signal: 'SIGABRT', worker_id: told.worker_id });
  const event = await until(
    () => line(seen, '"worker_exited"'),
    'the event',
    () => seen,
  );
  expect(JSON.parse(event)).toMatchObject({ kind: 'worker_exited', reason: 'signal', signal: 'SIGABRT' });
  const metrics = await scrape(agent.http);
  expect(metrics).toContain('pitwarden_worker_exits_total{pool="faults",reason="signal"} 1');
  events.kill();
});

test('a daemon that left its group and session is killed with its worker without delay', async () => {
  await start(faults());
  const [first] = await untilReady(agent, 'faults', 1);
  const { value: daemon } = await client.execute('faults', 'fork_daemon');
  expect(isRunning(Number(daemon))).toBe(true);
  process.kill(first?.pid ?? 0, 'SIGKILL');
  await until(() => !isRunning(Number(daemon)), 'the daemon to die');
  await untilReady(agent, 'faults', 1);
});

test('a flood of output is cut and counted, and the worker continues', async () => {
  await start(faults());
  await untilReady(agent, 'faults', 1);
  await client.execute('faults', 'shout', [200_000]);
  await client.execute('faults', 'shout', [1]);
  await until(() => /\d+ lines of output were dropped/.test(agent.output()), 'the flood to be reported');
  expect(agent.output().match(/xxxxxxxx/g)?.length).toBeLessThan(200_000);
});

test('an application that cannot be imported backs off with the reason, without affecting other pools', async () => {
  await start(`
broken: { app: nothing_here:app, python: ${python}, cwd: ${examples}, restart: { backoff: { min: 100ms, max: 200ms } } }
text: { app: text:app, python: ${python}, cwd: ${examples} }
`);
  await untilReady(agent, 'text', 1);
  await until(() => (agent.output().match(/slot_backing_off/g)?.length ?? 0) >= 3, 'three failures', agent.output);
  const { pools } = await agent.json<{ pools: { pool: string; last_failure: string }[] }>('status');
  expect(pools.find((pool) => pool.pool === 'broken')?.last_failure).toContain("No module named 'nothing_here'");
  expect(await agent.workers('text')).toMatchObject([{ generation: 1, state: 'WORKER_STATE_READY' }]);
  await expect(client.execute('broken', 'anything', [], {}, 500)).rejects.toMatchObject({
    ...{ code: 14, message: expect.stringContaining("No module named 'nothing_here'") },
  });
});

test('crashes at import back off: the wait doubles and limits the number of starts', async () => {
  await start(`
broken: { app: nothing_here:app, python: ${python}, cwd: ${examples}, restart: { backoff: { min: 200ms, max: 60s } } }
`);
  const waits = () =>
    [...agent.output().matchAll(/slot 0 waits (\d+) ms after (\d+) failures in a row \(start\)/g)].map((match) =>
      Number(match[1]),
    );
  await until(() => waits().length >= 4, 'four failures', agent.output);
  // Half of each wait is random: 100 to 200 ms first, then 200 to 400 ms, and so on.
  for (const [index, ms] of waits().entries()) {
    expect(ms).toBeGreaterThanOrEqual(100 * 2 ** index);
    expect(ms).toBeLessThanOrEqual(200 * 2 ** index);
  }
  const metrics = await scrape(agent.http);
  const starts = Number(/pitwarden_worker_starts_total\{pool="broken"\} (\d+)/.exec(metrics)?.[1]);
  expect(starts).toBeLessThanOrEqual(waits().length + 1);
});

test('a worker that never attaches counts as a failed start', async () => {
  // Long enough for Python to start and print on a busy host.
  await start(`
slow: { app: slow_start:app, python: ${python}, cwd: ${new URL('../fixtures', import.meta.url).pathname}, start: { timeout: 3s } }
`);
  await until(() => agent.output().includes('start_timeout'), 'the start timeout', agent.output);
  await until(async () => {
    const { pools } = await agent.json<{ pools: { last_failure: string }[] }>('status');
    return pools[0]?.last_failure.includes('loading something large');
  }, 'its last lines in the failure');
});

test('a second Ctrl-C kills at once, and no process is left', async () => {
  await start(faults('drain: { timeout: 60s }'));
  await untilReady(agent, 'faults', 1);
  const lost = expect(client.execute('faults', 'spin', [50])).rejects.toMatchObject({ code: 14 });
  await until(async () => (await agent.workers('faults'))[0]?.in_flight === 1, 'the request to run');
  agent.signal('SIGINT');
  await until(() => agent.output().includes('SIGINT: no new requests'), 'the first to be heard');
  await expect(client.execute('faults', 'leak', [1])).rejects.toMatchObject({ code: 14 });
  await interruptUntilGone(agent);
  expect(await agent.exited).toEqual({ code: 0, signal: null });
  await lost;
  expect(processesOf(agent.dir)).toEqual([]);
});

test('SIGTERM lets the running request finish, refuses new ones, and exits with 0', async () => {
  await start(faults());
  await untilReady(agent, 'faults', 1);
  const running = client.execute('faults', 'sleep', [1.5]);
  // Not by the command line, which on a busy machine takes longer to start than the request takes to run.
  const inFlight = async () =>
    (await client.control<{ workers: { in_flight: number }[] }>('ListWorkers', { pool: 'faults' })).workers[0]
      ?.in_flight;
  await until(async () => (await inFlight()) === 1, 'the request to run', inFlight);
  agent.signal('SIGTERM');
  expect((await running).value).toBe(1.5);
  expect(await agent.exited).toEqual({ code: 0, signal: null });
  expect(processesOf(agent.dir)).toEqual([]);
});

function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

test('a command that continues past its deadline is cancelled, and after kill_after its worker is replaced', async () => {
  await start(faults('request: { kill_after: 500ms }'));
  const [worker] = await untilReady(agent, 'faults', 1);
  await expect(client.execute('faults', 'spin', [60], {}, 300)).rejects.toMatchObject({ code: 4 });
  const next = await client.execute('faults', 'leak', [1]);
  expect(next.workerId).not.toBe(worker?.worker_id);
  const overdue = /\(overdue\): request \S+ \(spin\) still runs \d+ ms after its deadline/;
  await until(() => overdue.test(agent.output()), 'the log to say why', agent.output);
});

test('a request that crashes every worker is refused after poison.after crashes, and the error names it', async () => {
  await start(
    faults(`size: 2
  poison: { after: 2 }`),
  );
  await untilReady(agent, 'faults', 2);
  const crash = () => client.execute('faults', 'crash', ['SIGSEGV'], { idempotent: true });
  await expect(crash()).rejects.toMatchObject({
    code: 9,
    message: 'this request to crash was running in 2 workers when they crashed; it is refused for now (poison.for)',
  });
  await expect(crash()).rejects.toMatchObject({ code: 9 });
  const poisoned = /faults request poisoned: request \S+ \(crash, \d+ bytes\) was running in 2 workers/;
  await until(() => poisoned.test(agent.output()), 'the event to be logged', agent.output);
  expect((await client.execute('faults', 'leak', [1])).value).toEqual({ leaked_mb: 1 });
});

test('exits lists how workers ended, newest first, with their last lines', async () => {
  await start(faults());
  const [first] = await untilReady(agent, 'faults', 1);
  await expect(client.execute('faults', 'exit', [7])).rejects.toMatchObject({ code: 14 });
  const [second] = await untilReady(agent, 'faults', 1);
  await agent.cli('recycle', second?.worker_id ?? '');
  const ended = await until(
    async () => {
      const exits = await agent.json<Record<string, unknown>[]>('exits');
      return exits.length === 2 ? exits : undefined;
    },
    'two exits',
    () => agent.json('exits'),
  );
  expect(ended[0]).toMatchObject({ worker_id: second?.worker_id, reason: 'operator', unplanned: false, exit_code: 0 });
  expect(ended[1]).toMatchObject({
    worker_id: first?.worker_id,
    pid: first?.pid,
    reason: 'exit_code',
    unplanned: true,
    exit_code: 7,
    has_exit_code: true,
    in_flight: 1,
    message: expect.stringContaining('exiting with code 7 as asked'),
  });
  const { stdout } = await agent.cli('exits', '--pool', 'faults');
  expect(stdout).toMatch(/^EXITED +WORKER +GEN +PID +REASON +LIVED +DONE +FAILED +MEMORY +HOW\n/);
  expect(stdout).toContain('exited with code 7');
});

test("gRPC's own retry policy repeats only what certainly has not begun", async () => {
  await start(faults('size: 2'));
  await untilReady(agent, 'faults', 2);
  const policy = retrying(agent.socket);
  try {
    // The command kills its worker: a second run would kill another one.
    await expect(policy.execute('faults', 'crash', ['SIGKILL'])).rejects.toMatchObject({ code: 14 });
    await expect(policy.execute('faults', 'raise_error', [])).rejects.toMatchObject({ code: 2 });
    await untilReady(agent, 'faults', 2);
    const exits = await agent.json<unknown[]>('exits');
    expect(exits).toHaveLength(1);
    const failed = (await agent.workers('faults')).map(({ requests_failed: count }) => count);
    expect(failed.sort()).toEqual([0, 1]);
    await client.control('DrainPool', { pool: 'faults' });
    const told = policy.execute('faults', 'sleep', [0]);
    const metrics = async () => scrape(agent.http);
    await until(
      async () => /pitwarden_requests_total\{pool="faults",outcome="unavailable"\} [2-9]/.test(await metrics()),
      'the refusal',
      metrics,
    );
    await client.control('ResumePool', { pool: 'faults' });
    expect((await told).value).toBeTypeOf('number');
  } finally {
    policy.close();
  }
});
