import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, constants, existsSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { connect as dial } from 'node:net';
import { join, parse } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, onTestFinished, test } from 'vitest';
import { needs } from '../needs.ts';
import type { ListedWorker, TestAgent } from './agent.ts';
import {
  examples,
  followAgent,
  node,
  processesOf,
  python,
  root,
  runToEnd,
  spawnAgent,
  until,
  untilLogged,
  untilReady,
} from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect } from './grpc.ts';
import { get } from './http.ts';

// Influences of the host on an agent: limits, signals, output that nobody reads, a disk that hangs.

let agent: TestAgent;
let client: TestClient;

afterEach(async () => {
  client?.close();
  await agent?.stop();
});

const faults = (extra = '') => `
faults: { app: faults:app, python: ${python}, cwd: ${examples}, restart: { backoff: { min: 100ms } }, ${extra} }`;

/** Connections that are opened and never used, as any user of the host can do. */
function strangers(count: number, where: string | { host: string; port: number }): void {
  const open: Socket[] = [];
  onTestFinished(() => {
    for (const socket of open) socket.destroy();
  });
  for (let made = 0; made < count; made += 1) {
    const socket = typeof where === 'string' ? dial(where) : dial(where);
    socket.on('error', () => undefined).resume();
    open.push(socket);
  }
}

const openFiles = (): number => readdirSync(`/proc/${agent.pid}/fd`).length;

test('an agent with few descriptors keeps its workers despite many connections, and ignores unrelated signals', async () => {
  agent = await spawnAgent(faults('size: 2'), '', undefined, ['sh', '-c', 'ulimit -n 300; exec "$@"', 'sh', node]);
  client = connect(agent.socket);
  const [first] = await untilReady(agent, 'faults', 2);
  const [host = '', port] = agent.http.split(':');
  strangers(280, { host, port: Number(port) });
  strangers(280, agent.socket);
  await until(() => openFiles() > 150, 'the strangers to be connected', openFiles);
  for (let count = 0; count < 3; count += 1) {
    const pid = (await untilReady(agent, 'faults', 2))[0]?.pid ?? 0;
    process.kill(pid, 'SIGKILL');
    await until(async () => (await agent.workers('faults')).every((worker) => worker.pid !== pid), 'it to be gone');
  }
  await untilReady(agent, 'faults', 2);
  expect((await client.execute('faults', 'leak', [1])).workerId).not.toBe(first?.worker_id);
  expect(openFiles()).toBeLessThan(300);
  expect((await get(agent.http, '/readyz')).status).toBe(200);

  await agent.cli('drain', '--node');
  await agent.cli('scale', 'faults', '70');
  await until(() => /may open 300 files, and 71 workers need \d+/.test(agent.output()), 'the warning', agent.output);
  await agent.cli('scale', 'faults', '1');
  await agent.cli('resume');

  for (const signal of ['SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGVTALRM', 'SIGPROF', 'SIGIO', 'SIGPWR', 'SIGPIPE'] as const)
    agent.signal(signal);
  await untilReady(agent, 'faults', 1);
  expect(agent.output()).not.toContain('Debugger');

  const running = client.execute('faults', 'sleep', [1.5]);
  // Checked by a call, because starting a command may take longer than the request.
  const runs = async () => {
    const { workers } = await client.control<{ workers: ListedWorker[] }>('ListWorkers');
    return workers[0]?.in_flight === 1;
  };
  await until(runs, 'the request to run');
  // One Ctrl-C under a runner: SIGINT from the terminal, and SIGTERM from the runner.
  agent.signal('SIGINT');
  await delay(20);
  agent.signal('SIGTERM');
  expect((await running).value).toBe(1.5);
  expect(await agent.exited).toEqual({ code: 0, signal: null });
});

describe('a signal that arrives while the agent starts takes effect after the start:', () => {
  /** The agent sends the signal to itself when it begins to listen. */
  const signalled = (signal: string): readonly [string, ...string[]] => {
    const sender = `import { Server } from 'node:net';
      const { listen } = Server.prototype;
      Server.prototype.listen = function (...args) {
        Server.prototype.listen = listen;
        process.kill(process.pid, '${signal}');
        return listen.apply(this, args);
      };`;
    return ['env', `NODE_OPTIONS=--import=data:text/javascript,${encodeURIComponent(sender)}`, node];
  };

  test('SIGHUP reloads the configuration', async () => {
    agent = await spawnAgent(faults(), '', undefined, signalled('SIGHUP'));
    await untilReady(agent, 'faults', 1);
  });

  test('SIGTERM stops the agent and the workers that it has taken over', async () => {
    const dead = await spawnAgent(faults());
    const [worker] = await untilReady(dead, 'faults', 1);
    dead.signal('SIGKILL');
    await dead.exited;
    const folders = ['--runtime-dir', join(dead.dir, 'run'), '--state-dir', join(dead.dir, 'state'), '--http', 'off'];
    const args = [join(root, 'bin/pitwarden'), 'agent', '--config', join(dead.dir, 'pitwarden.yaml'), ...folders];
    const [program, ...before] = signalled('SIGTERM');
    const { code, stdout } = await runToEnd(program, [...before, ...args]);
    expect(stdout).toContain('all workers are gone; the agent exits');
    expect([code, processesOf(dead.dir)]).toEqual([0, []]);
    expect(worker?.state).toBe('WORKER_STATE_READY');
    rmSync(dead.dir, { recursive: true });
  });
});

test('an uncaught error is logged and ends the agent like a crash, and its worker lives on for the next agent', async () => {
  const thrower = "process.on('SIGWINCH', () => { throw new Error('a fault of ours'); });";
  const program = ['env', `NODE_OPTIONS=--import=data:text/javascript,${encodeURIComponent(thrower)}`, node] as const;
  agent = await spawnAgent(faults(), '', undefined, program);
  const [worker] = await untilReady(agent, 'faults', 1);
  agent.signal('SIGWINCH');
  expect(await agent.exited).toEqual({ code: 70, signal: null });
  expect(agent.output()).toMatch(/"level":"error".*the agent crashes.*uncaughtException: Error: a fault of ours/);
  expect(processesOf(agent.dir)).toContain(worker?.pid);
  agent = await spawnAgent(faults(), '', agent.dir);
  const [adopted] = await untilReady(agent, 'faults', 1);
  expect(adopted?.pid).toBe(worker?.pid);
});

test('if the state disk hangs, a ready worker is still admitted, the log says why, and the agent can exit', async () => {
  const warm = 'start: { warm_up: sleep, warm_up_args: [1.5] }';
  // Opening a pipe without a reader blocks like a disk that does not respond. If a pipe PATH.hangs exists, it is opened
  // instead of PATH.
  const hangs = `import fs from 'node:fs'; import { syncBuiltinESMExports } from 'node:module';
    const { open } = fs.promises;
    fs.promises.open = (path, ...rest) => fs.existsSync(path + '.hangs') ? open(path + '.hangs', 'w') : open(path, ...rest);
    syncBuiltinESMExports();`;
  const program = ['env', `NODE_OPTIONS=--import=data:text/javascript,${encodeURIComponent(hangs)}`, node] as const;
  agent = await spawnAgent(faults(warm), '', undefined, program);
  client = connect(agent.socket);
  const ledger = join(agent.dir, 'state/ledger');
  const name = await until(
    () => readdirSync(ledger).find((file) => file.endsWith('.json') && isStarting(join(ledger, file))),
    'the worker to be entered as starting',
  );
  const hanging = [join(ledger, `${name}.new.hangs`), join(agent.dir, 'state/orders.json.new.hangs')];
  execFileSync('mkfifo', hanging);
  try {
    await untilReady(agent, 'faults', 1);
    expect((await client.execute('faults', 'leak', [1])).workerId).toBe(parse(name).name);
    const said = /the ledger's entry of \S+ could not be renewed: expected the write to finish within 5 s/;
    await untilLogged(agent, said);
    // An order is answered when it is on disk, or when the disk does not respond in time.
    expect(await agent.cli('drain', 'faults')).toMatchObject({ code: 0, stdout: 'pool faults: draining\n' });
    await untilLogged(agent, /that were ordered will not outlive this agent: expected the write to finish within 5 s/);
    agent.signal('SIGTERM');
    // The agent signals itself, because process.exit would wait for the blocked threads.
    expect(await agent.exited).toEqual({ code: null, signal: 'SIGTERM' });
    await untilLogged(agent, 'the disk of the state directory does not respond');
  } finally {
    for (const fifo of hanging) closeSync(openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK));
  }
});

test('a removed runtime directory is created again, and /readyz reports it if that fails', async () => {
  agent = await spawnAgent(faults());
  client = connect(agent.socket);
  const [first] = await untilReady(agent, 'faults', 1);
  await client.execute('faults', 'leak', [1]);
  const directory = join(agent.dir, 'run');
  const readyz = async () => {
    const response = await get(agent.http, '/readyz');
    return `${response.status} ${await response.text()}`;
  };

  rmSync(directory, { recursive: true });
  writeFileSync(directory, 'in the way');
  await until(
    async () => /^503 the runtime directory cannot be used: .*run/.test(await readyz()),
    'it to be said',
    readyz,
  );
  // Open connections continue.
  expect((await client.execute('faults', 'leak', [1])).workerId).toBe(first?.worker_id);
  rmSync(directory);
  await until(async () => (await readyz()) === '200 ready\n', 'it to be made again', readyz);
  await untilLogged(
    agent,
    /files that the agent needs were removed; created again: .*agent.sock, .*link.sock, the lock/,
  );

  process.kill(first?.pid ?? 0, 'SIGKILL');
  const [second] = await until(async () => {
    const ready = await untilReady(agent, 'faults', 1);
    return ready[0]?.worker_id === first?.worker_id ? undefined : ready;
  }, 'the next worker');
  expect((await client.execute('faults', 'leak', [1])).workerId).toBe(second?.worker_id);
  const rival = [join(root, 'bin/pitwarden'), 'agent', '--config', join(agent.dir, 'pitwarden.yaml'), '--http', 'off'];
  const refused = await runToEnd(node, [...rival, '--runtime-dir', directory, '--state-dir', join(agent.dir, 'other')]);
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining(`got one with pid ${agent.pid}`) });
});

test("an agent whose runtime directory now belongs to another agent leaves that agent's files alone", async () => {
  const old = await spawnAgent(faults());
  const directory = join(old.dir, 'run');
  // Otherwise it would create the directory again within two seconds.
  old.signal('SIGSTOP');
  rmSync(directory, { recursive: true });
  const flags = ['--runtime-dir', directory, '--state-dir', join(old.dir, 'other'), '--http', '127.0.0.1:0'];
  const config = join(old.dir, 'pitwarden.yaml');
  agent = await followAgent(node, [join(root, 'bin/pitwarden'), 'agent', '--config', config, ...flags], old.dir);
  const [worker] = await untilReady(agent, 'faults', 1);
  const files = () => ['link', 'output'].flatMap((folder) => readdirSync(join(directory, folder))).sort();
  const before = files().filter((name) => name !== 'link.sock');

  old.signal('SIGCONT');
  await untilLogged(old, `got one with pid ${agent.pid}`);
  old.signal('SIGTERM');
  expect(await old.exited).toEqual({ code: 0, signal: null });
  expect(before).toContain(`${worker?.worker_id}.begun`);
  expect(files()).toEqual(expect.arrayContaining(before));
  expect(JSON.parse(readFileSync(join(directory, 'agent.lock'), 'utf8'))).toMatchObject({ pid: agent.pid });
  // Node unlinks the path of a socket that it closes, even if another process's socket is there by now.
  await until(() => existsSync(agent.socket), 'the socket to be made again');
  expect(await agent.workers()).toMatchObject([{ worker_id: worker?.worker_id }]);
  expect(agent.output()).not.toContain('the lock');
});

const asFirst = ['--pid', '--fork', '--mount-proc', '--kill-child'];
const canBeFirst = spawnSync('unshare', [...asFirst, 'true']).status === 0;

test(
  'as process 1 of a container an agent serves, stops, and warns that it cannot reap foreign children',
  needs('namespaces', canBeFirst),
  async () => {
    agent = await spawnAgent(faults(), '', undefined, ['unshare', ...asFirst, node]);
    client = connect(agent.socket);
    await untilReady(agent, 'faults', 1);
    expect((await client.execute('faults', 'leak', [1])).workerId).toMatch(/^faults-0-/);
    await untilLogged(agent, /"level":"warn".*this agent is process 1 of its container.*docker run --init/);
    const inside = readFileSync(`/proc/${agent.pid}/task/${agent.pid}/children`, 'utf8').trim();
    process.kill(Number(inside), 'SIGTERM');
    expect(await agent.exited).toEqual({ code: 0, signal: null });
  },
);

function isStarting(path: string): boolean {
  return readFileSync(path, 'utf8').includes('"state":"starting"');
}
