import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { identify } from '../../src/os/process/identity.ts';
import type { LedgerEntry } from '../../src/os/storage/ledger.ts';
import { seal, unseal } from '../../src/os/storage/sealed-file.ts';
import type { ListedWorker, TestAgent } from './agent.ts';
import { processesOf, python, root, runToEnd, spawnAgent, until, untilLogged, untilReady } from './agent.ts';
import { connectDeaf } from './deaf-caller.ts';
import type { Answer, TestClient } from './grpc.ts';
import { connect, Failure } from './grpc.ts';
import { scrape } from './http.ts';

// The agent is killed, and the next one is started in the same folder and adopts the survivors.

let agent: TestAgent;
let client: TestClient;

afterEach(async () => {
  client?.close();
  await agent?.stop();
});

const survivor = (extra = '', name = 'p') => `
${name}:
  app: survivor:app
  python: ${python}
  cwd: ${root}test/fixtures
  ${extra}
`;

const faultsPool = (extra = '') => `
faults:
  app: faults:app
  python: ${python}
  cwd: ${root}examples
  ${extra}
`;

async function start(pools: string): Promise<void> {
  agent = await spawnAgent(pools);
  client = connect(agent.socket);
}

async function kill(): Promise<void> {
  agent.signal('SIGKILL');
  await agent.exited;
}

/** Starts the next agent in the same folder. */
async function startNext(pools: string): Promise<void> {
  agent = await spawnAgent(pools, '', agent.dir);
  client.close();
  client = connect(agent.socket);
}

async function killAndStartNext(pools: string): Promise<void> {
  await kill();
  await startNext(pools);
}

const pidsOf = (workers: readonly ListedWorker[]): number[] => workers.map(({ pid }) => pid).sort();

interface RegistryView {
  readonly workers: readonly { readonly worker_id: string; readonly attached: boolean; readonly adopted: boolean }[];
}

async function untilAttached(count: number): Promise<void> {
  const registry = () => client.control<RegistryView>('GetRegistry');
  await until(
    async () => (await registry()).workers.filter(({ attached }) => attached).length === count,
    `${count} attached workers`,
    async () => [await registry(), agent.output().slice(-3000)],
  );
}

/** Repeats a call until an agent answers, as a client should. */
async function again(ask: () => Promise<Answer>): Promise<Answer> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Failure) || error.code !== 14 || error.told !== undefined) throw error;
      await delay(20);
    }
  }
}

const runsIn = (path: string): number => (existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n').length : 0);
const stateDir = (): string => join(agent.dir, 'state');

test('after kill -9 of the agent the next one has the same workers, and they work', async () => {
  const pools = survivor('size: 3\n  recycle: { max_requests: 6, jitter: 0, min_lifetime: off }');
  await start(pools);
  const before = await untilReady(agent, 'p', 3);
  const file = join(agent.dir, 'runs');
  for (let i = 0; i < 3; i += 1) await client.execute('p', 'once', [file]);
  const counted = (workers: readonly ListedWorker[]) =>
    workers.map(({ worker_id, requests_completed, generation }) => [worker_id, requests_completed, generation]).sort();
  const counts = counted(await agent.workers('p'));
  await killAndStartNext(pools);
  await untilAttached(3);
  const after = await agent.workers('p');
  expect(pidsOf(after)).toEqual(pidsOf(before));
  // Counts and ages continue.
  expect(counted(after)).toEqual(counts);
  const startedAtMs = new Map(before.map((worker) => [worker.worker_id, worker.started_at_ms]));
  for (const { worker_id, started_at_ms } of after) {
    // Each agent reads by itself how far unix time is from monotonic time.
    expect(Math.abs(started_at_ms - (startedAtMs.get(worker_id) ?? 0))).toBeLessThan(100);
  }
  await untilLogged(agent, /workers of an earlier agent: 3 adopted, 0 ended/);
  const metrics = await scrape(agent.http);
  expect(metrics).toContain('pitwarden_adoptions{outcome="adopted"} 3');
  // Pings and memory samples arrive.
  await until(
    async () => (await agent.workers('p')).every(({ last_pong_at_ms: at }) => at > Date.now() - 30_000),
    'pongs',
  );
  await until(async () => (await agent.workers('p')).every(({ rss_bytes: bytes }) => bytes > 0), 'samples');
  // An ordered drain stays in force.
  const [drained] = after;
  await agent.cli('recycle', drained?.worker_id ?? '');
  await until(
    async () => !(await agent.workers('p')).some(({ worker_id: id }) => id === drained?.worker_id),
    'an adopted worker to be replaced',
    () => agent.workers('p'),
  );
  // The half-used request budget continues to count.
  for (let i = 0; i < 15; i += 1) await client.execute('p', 'once', [file]);
  await until(
    async () =>
      (await agent.workers('p')).filter(({ generation, state }) => generation > 1 && state.endsWith('READY')).length >
      1,
    'a replacement for a spent budget',
    () => agent.workers('p'),
  );
});

test('an answer that the agent sent but its caller had not read when the agent died does not run again', async () => {
  const pools = survivor('size: 1');
  await start(pools);
  await untilReady(agent, 'p', 1);
  const file = join(agent.dir, 'runs');
  const asked = (command: string, args: unknown[], id: string) => ({
    ...{ pool: 'p', command, payload: Buffer.from(JSON.stringify(args)), request_id: id },
  });
  const callers = [connectDeaf(agent.socket), connectDeaf(agent.socket), connectDeaf(agent.socket)] as const;
  callers[0].send('Execute', asked('once', [file], 'unary'));
  callers[1].send('ExecuteStream', asked('count', [file, 2], 'stream'));
  callers[2].send('Submit', { items: [{ request: asked('once', [file], 'submit') }] });
  await until(async () => (await agent.workers('p'))[0]?.requests_completed === 3, 'three answers');
  // The acknowledgement of the three answers reaches the worker with the next requests.
  for (let i = 0; i < 3; i += 1) await client.execute('p', 'ignore', [0]);
  await kill();
  for (const caller of callers) caller.close();
  await startNext(pools);
  expect((await client.execute('p', 'once', [file], { request_id: 'unary' })).value).toBe('unary');
  const values: unknown[] = [];
  for await (const { payload } of client.stream('p', 'count', [file, 2], { request_id: 'stream' })) {
    values.push(JSON.parse(String(payload)));
  }
  expect(values).toEqual([0, 1]);
  expect((await client.execute('p', 'once', [file], { request_id: 'submit' })).value).toBe('submit');
  expect(runsIn(file)).toBe(3);
});

test('the exit of an adopted worker is noticed at once, and its slot filled', async () => {
  const pools = survivor('restart: { backoff: { min: 50ms } }');
  await start(pools);
  const [first] = await untilReady(agent, 'p', 1);
  await killAndStartNext(pools);
  await untilAttached(1);
  process.kill(first?.pid ?? 0, 'SIGKILL');
  const seen = until(() => agent.output().includes('exit_unknown'), 'its exit', agent.output, 2_000);
  await seen;
  await until(async () => (await agent.workers('p')).some(({ generation }) => generation === 2), 'another one');
});

test('a worker that was starting when its agent died becomes ready under the next', async () => {
  const pools = `
slow: { app: slow_start:app, python: ${python}, cwd: ${root}test/fixtures, env: { SECONDS: '4' } }
`;
  await start(pools);
  await until(() => agent.output().includes('loading something large'), 'it to be starting', agent.output);
  const [before] = await agent.workers('slow');
  await killAndStartNext(pools);
  const [after] = await untilReady(agent, 'slow', 1);
  expect([after?.pid, after?.generation]).toEqual([before?.pid, 1]);
});

test('a replacement that was starting when its agent died takes over under the next', async () => {
  const pools = `
slow: { app: slow_start:app, python: ${python}, cwd: ${root}test/fixtures, env: { SECONDS: '3' }, start: { timeout: 30s } }
`;
  await start(pools);
  const [old] = await untilReady(agent, 'slow', 1);
  await agent.cli('recycle', old?.worker_id ?? '');
  const next = await until(
    async () => (await agent.workers('slow')).find(({ generation, pid }) => generation === 2 && pid > 0),
    'its replacement',
  );
  await killAndStartNext(pools);
  await until(
    async () => {
      const workers = await agent.workers('slow');
      return workers.length === 1 && workers[0]?.pid === next.pid && workers[0].state === 'WORKER_STATE_READY';
    },
    'the replacement alone',
    () => agent.workers('slow'),
  );
});

test('a worker that died while no agent ran is forgotten after a sweep, and then its slot is filled', async () => {
  const pools = survivor('size: 2\n  recycle: {max_surge: 0, max_unavailable: 1}');
  await start(pools);
  const [first, second] = await untilReady(agent, 'p', 2);
  await kill();
  process.kill(first?.pid ?? 0, 'SIGKILL');
  await startNext(pools);
  const ready = await untilReady(agent, 'p', 2);
  expect(ready.map(({ pid }) => pid)).toContain(second?.pid);
  await untilLogged(agent, /1 adopted, 0 ended, because their pool was removed, 1 had exited/);
});

test('a worker whose pool was removed from the config is ended', async () => {
  await start(survivor() + survivor('', 'q'));
  const [mine] = await untilReady(agent, 'p', 1);
  const [other] = await untilReady(agent, 'q', 1);
  await killAndStartNext(survivor());
  await until(() => !processesOf(agent.dir).includes(other?.pid ?? 0), 'the unwanted one to go', agent.output);
  expect(processesOf(agent.dir)).toContain(mine?.pid);
});

test('an ordered size outlives the agent, until the config asks for another one', async () => {
  await start(survivor('size: 1'));
  await agent.cli('scale', 'p', '3');
  const before = await untilReady(agent, 'p', 3);
  await killAndStartNext(survivor('size: 1'));
  await untilAttached(3);
  expect(pidsOf(await untilReady(agent, 'p', 3))).toEqual(pidsOf(before));
  await killAndStartNext(survivor('size: 2'));
  await untilReady(agent, 'p', 2);
});

test('a second agent on the same state directory refuses to start, with the pid that holds it', async () => {
  await start(survivor());
  const flags = ['--runtime-dir', join(agent.dir, 'other'), '--state-dir', stateDir(), '--http', '127.0.0.1:0'];
  const config = join(agent.dir, 'pitwarden.yaml');
  const { code, stderr } = await runToEnd(process.execPath, [
    join(root, 'bin/pitwarden'),
    'agent',
    '--config',
    config,
    ...flags,
  ]);
  expect(code).toBe(1);
  expect(stderr).toContain(`pid ${agent.pid}`);
});

describe("when the agent dies, a request with a caller's id", () => {
  test('keeps running, and its single result goes to the caller that asks again', async () => {
    await start(survivor());
    await untilReady(agent, 'p', 1);
    const file = join(agent.dir, 'runs');
    const ask = () => client.execute('p', 'once', [file, 2], { request_id: 'mine' });
    const broken = ask().catch((error: Failure) => error.code);
    await until(() => runsIn(file) === 1, 'it to begin');
    await killAndStartNext(survivor());
    expect(await broken).toBe(14);
    expect((await again(ask)).value).toBe('mine');
    expect(runsIn(file)).toBe(1);
  });

  test('may end while no agent runs, and its result is kept', async () => {
    await start(survivor());
    await untilReady(agent, 'p', 1);
    const file = join(agent.dir, 'runs');
    const ask = () => client.execute('p', 'once', [file, 3], { request_id: 'mine' });
    void ask().catch(() => undefined);
    await until(() => runsIn(file) === 1, 'it to begin');
    await kill();
    expect(runsIn(`${file}.ended`)).toBe(0);
    await until(() => runsIn(`${file}.ended`) === 1, 'it to end');
    await startNext(survivor());
    expect((await again(ask)).value).toBe('mine');
    expect(runsIn(file)).toBe(1);
    // The same holds after another agent's death, as long as nobody has read the answer.
    const other = () => client.execute('p', 'once', [file, 0.2], { request_id: 'other' });
    void other().catch(() => undefined);
    await until(() => runsIn(file) === 2, 'the other to begin');
    await killAndStartNext(survivor());
    await untilAttached(1);
    await killAndStartNext(survivor());
    expect((await again(other)).value).toBe('other');
    expect(runsIn(file)).toBe(2);
  });

  test('streams again from its first value', async () => {
    await start(survivor());
    await untilReady(agent, 'p', 1);
    const file = join(agent.dir, 'runs');
    let values: unknown[] = [];
    const read = async (): Promise<unknown[]> => {
      values = [];
      const call = client.stream('p', 'count', [file, 20, 0.05], { request_id: 'mine' });
      for await (const { payload } of call) values.push(JSON.parse(payload.toString()));
      return values;
    };
    const broken = read().catch((error: { code: number }) => error.code);
    await until(() => values.length > 1, 'its first values');
    await killAndStartNext(survivor());
    expect(await broken).toBe(14);
    const whole = Array.from({ length: 20 }, (_, value) => value);
    expect(await until(() => read().catch(() => undefined), 'the whole stream')).toEqual(whole);
    expect(runsIn(file)).toBe(1);
  });

  test('is repeated by the Python client and the command line on their own', async () => {
    await start(survivor('size: 3'));
    await untilReady(agent, 'p', 3);
    const files = ['python', 'cli', 'stream'].map((name) => join(agent.dir, name));
    const script = `
import sys, pitwarden
with pitwarden.Client(sys.argv[1]) as client:
    print(client.options(request_id="from-python").call("p", "once", path=sys.argv[2], seconds=1.5))
    print(list(client.stream("p", "count", path=sys.argv[3], items=5, seconds=0.01)))`;
    const asked = [
      runToEnd(python, ['-c', script, agent.socket, files[0] ?? '', join(agent.dir, 'later')]),
      agent.cli('call', 'p', 'once', '--args', JSON.stringify([files[1], 1.5]), '--request-id', 'from-cli'),
      agent.cli('call', 'p', 'count', '--stream', '--args', JSON.stringify([files[2], 10, 0.1])),
    ];
    await until(() => files.every((file) => runsIn(file) === 1), 'all to begin');
    await killAndStartNext(survivor('size: 3'));
    const [fromPython, fromCli, stream] = await Promise.all(asked);
    expect(fromPython).toMatchObject({ code: 0, stdout: 'from-python\n[0, 1, 2, 3, 4]\n' });
    expect(fromCli).toMatchObject({ code: 0, stdout: 'from-cli\n' });
    expect(stream?.stdout.trim().split('\n').map(Number)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(files.map(runsIn)).toEqual([1, 1, 1]);
  });
});

test('if only the connection breaks, a request continues for a caller that asks again', async () => {
  await start(survivor());
  await untilReady(agent, 'p', 1);
  const file = join(agent.dir, 'runs');
  const script = `
import sys, pitwarden
pitwarden.Client(sys.argv[1]).options(request_id="mine").call("p", "once", path=sys.argv[2], seconds=1)`;
  const { spawn } = await import('node:child_process');
  const caller = spawn(python, ['-c', script, agent.socket, file], { stdio: 'ignore' });
  await until(() => runsIn(file) === 1, 'it to begin');
  caller.kill('SIGKILL');
  const args = { path: file, seconds: 1 };
  expect((await client.execute('p', 'once', args, { request_id: 'mine' })).value).toBe('mine');
  expect(runsIn(file)).toBe(1);
  // A cancellation is not a broken connection.
  const given = client
    .execute('p', 'ignore', [1], { request_id: 'given up' }, 300)
    .catch((error: Failure) => error.code);
  expect(await given).toBe(4);
});

test('Ctrl-C on a call cancels the request', async () => {
  await start(faultsPool());
  await untilReady(agent, 'faults', 1);
  const { spawn } = await import('node:child_process');
  const args = ['call', 'faults', 'sleep', '--args', '[50]', '--socket', agent.socket];
  const call = spawn(process.execPath, [join(root, 'bin/pitwarden'), ...args], { stdio: 'ignore' });
  const inFlight = async () => (await agent.workers('faults'))[0]?.in_flight;
  await until(async () => (await inFlight()) === 1, 'it to run');
  const exited = new Promise((resolve) => {
    call.once('exit', resolve);
  });
  call.kill('SIGINT');
  expect(await exited).toBe(130);
  await until(async () => (await inFlight()) === 0, 'it to be cancelled', undefined, 5_000);
});

test('output that a worker writes while no agent runs is logged by the next agent', async () => {
  await start(survivor());
  await untilReady(agent, 'p', 1);
  void client.execute('p', 'speak', ['hear me', 0.05, 30], { request_id: 'mine' }).catch(() => undefined);
  await until(() => agent.output().includes('hear me 3'), 'its words', agent.output);
  const before = agent;
  await kill();
  const output = join(agent.dir, 'run/output');
  const written = () => readdirSync(output).map((name) => readFileSync(join(output, name), 'latin1'));
  await until(() => written().some((text) => text.includes('hear me 12')), 'words that no agent hears');
  await startNext(survivor());
  await until(() => agent.output().includes('hear me 29'), 'the last of its words', agent.output);
  const heard = [...`${before.output()}${agent.output()}`.matchAll(/hear me (\d+)/g)].map(([, turn]) => Number(turn));
  expect([...new Set(heard)]).toEqual(Array.from({ length: 30 }, (_, turn) => turn));
});

test('an agent that was stopped for long and continued blames no worker for it', async () => {
  const pools = survivor('size: 2\n  heartbeat: { interval: 200ms, timeout: 400ms, max_missed: 2, busy_limit: 1s }');
  await start(pools);
  const before = await untilReady(agent, 'p', 2);
  agent.signal('SIGSTOP');
  await delay(8_000);
  agent.signal('SIGCONT');
  const pongs = async () => (await agent.workers('p')).map(({ last_pong_at_ms: at }) => at);
  const seen = Math.max(...(await pongs()));
  await until(async () => (await pongs()).every((at) => at > seen), 'new pongs of all', agent.output);
  expect(pidsOf(await untilReady(agent, 'p', 2))).toEqual(pidsOf(before));
});

describe('if no other agent comes, workers', () => {
  const orphans = (extra = '') => survivor(`orphan_timeout: 2s\n  drain: { timeout: 2s, kill_after: 1s }\n  ${extra}`);
  const untilNoneIsLeft = async (withinMs: number): Promise<void> => {
    await until(
      () => processesOf(agent.dir).length === 0,
      'no process to be left',
      () => processesOf(agent.dir),
      withinMs,
    );
    rmSync(agent.dir, { recursive: true, force: true });
  };

  test('wait for a while, finish their requests, and exit', async () => {
    await start(orphans('size: 3'));
    await untilReady(agent, 'p', 3);
    const file = join(agent.dir, 'runs');
    void client.execute('p', 'once', [file, 3], { request_id: 'mine' }).catch(() => undefined);
    await until(() => runsIn(file) === 1, 'it to begin');
    await kill();
    await delay(1_000);
    expect(processesOf(agent.dir)).toHaveLength(3);
    await untilNoneIsLeft(8_000);
  });

  test('exit even if they are stuck in Python or C, or stopped by a signal', async () => {
    const faults = faultsPool('size: 4\n  orphan_timeout: 2s\n  drain: { timeout: 2s, kill_after: 1s }');
    await start(faults);
    const workers = await untilReady(agent, 'faults', 4);
    for (const command of ['hold_gil', 'sleep']) {
      void client.execute('faults', command, [60], { request_id: command }).catch(() => undefined);
    }
    void client.execute('faults', 'fork_daemon', [], { request_id: 'daemon' }).catch(() => undefined);
    await until(
      async () => (await agent.workers('faults')).filter(({ in_flight: count }) => count > 0).length === 2,
      'two to be stuck',
    );
    const idle = (await agent.workers('faults')).find(({ in_flight: count }) => count === 0);
    process.kill(idle?.pid ?? 0, 'SIGSTOP');
    expect(workers).toHaveLength(4);
    await kill();
    await untilNoneIsLeft(15_000);
  });
});

test('if the ledger cannot be written, no worker is started and the reason is shown, but running ones continue', async () => {
  await start(survivor('size: 1'));
  const [first] = await untilReady(agent, 'p', 1);
  renameSync(join(stateDir(), 'ledger'), join(stateDir(), 'elsewhere'));
  writeFileSync(join(stateDir(), 'ledger'), 'in the way');
  await agent.cli('scale', 'p', '2');
  await until(
    async () => /the ledger cannot be written/.test((await agent.cli('status')).stdout),
    'it to be told',
    agent.output,
  );
  expect(pidsOf(await untilReady(agent, 'p', 1))).toEqual([first?.pid]);
  expect((await client.execute('p', 'once', [join(agent.dir, 'runs')])).value).toBeTypeOf('string');
  const metrics = await scrape(agent.http);
  expect(metrics).toContain('pitwarden_starts_blocked 1');
  rmSync(join(stateDir(), 'ledger'));
  renameSync(join(stateDir(), 'elsewhere'), join(stateDir(), 'ledger'));
  await untilReady(agent, 'p', 2);
  expect((await agent.cli('status')).stdout).not.toContain('the ledger cannot be written');
});

test('a worker whose agent gave it one token for life in its environment can be adopted repeatedly', async () => {
  const pools = survivor();
  await start(pools);
  const [{ pid, worker_id }] = (await untilReady(agent, 'p', 1)) as [ListedWorker];
  await kill();
  process.kill(pid, 'SIGKILL');
  // What such an agent left: an entry of version 1, and a worker that was started with PITWARDEN_TOKEN. It has a new
  // id, because the guardian kills every process that carries the id of the killed worker.
  const workerId = worker_id.replace(/.{8}$/, 'otherone');
  const token = 'ab'.repeat(32);
  const env = {
    PITWARDEN_LINK: join(agent.dir, 'run/link/link.sock'),
    PITWARDEN_WORKER_ID: workerId,
    PITWARDEN_POOL: 'p',
    PITWARDEN_APP: 'survivor:app',
    PITWARDEN_TOKEN: token,
  };
  const cwd = join(root, 'test/fixtures');
  const worker = spawn(python, ['-m', 'pitwarden.worker'], { cwd, env, detached: true, stdio: 'ignore' });
  const identity = identify(worker.pid ?? 0);
  const path = (id: string) => join(stateDir(), 'ledger', `${id}.json`);
  const written = unseal(readFileSync(path(worker_id), 'utf8'), 'pitwarden-ledger', [2]);
  if (!written.ok || identity === undefined) throw new Error('no entry, or no process');
  const { verifier: _, repeats_token: __, ...fields } = written.value as LedgerEntry;
  const { pid: workerPid, startTime } = identity;
  rmSync(path(worker_id));
  const entry = { ...fields, worker_id: workerId, pid: workerPid, start_time: startTime, token };
  writeFileSync(path(workerId), seal('pitwarden-ledger', 1, entry));
  for (let turn = 0; turn < 2; turn += 1) {
    await startNext(pools);
    expect((await untilReady(agent, 'p', 1)).map((ready) => ready.pid)).toEqual([workerPid]);
    await client.execute('p', 'once', [join(agent.dir, `run-${turn}`)]);
    expect(runsIn(join(agent.dir, `run-${turn}`))).toBe(1);
    if (turn === 0) await kill();
  }
});

test('invalid files in the ledger are set aside, and their worker is ended', async () => {
  await start(survivor());
  const [first] = await untilReady(agent, 'p', 1);
  await kill();
  writeFileSync(join(stateDir(), 'ledger', `${first?.worker_id}.json`), 'garbage');
  mkdirSync(join(stateDir(), 'ledger', 'a folder'));
  await startNext(survivor());
  await until(() => !processesOf(agent.dir).includes(first?.pid ?? 0), 'the unknown worker to leave', agent.output);
  await untilReady(agent, 'p', 1);
  await untilLogged(agent, /1 files set aside/);
  await untilLogged(agent, /unknown files are left alone: \S*\/ledger\/a folder/);
});
