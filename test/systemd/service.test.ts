import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { ListedWorker } from '../e2e/agent.ts';
import { until } from '../e2e/agent.ts';
import type { TestClient } from '../e2e/grpc.ts';
import { needs } from '../needs.ts';
import type { Lab } from './lab.ts';
import { startLab, whatLabNeeds } from './lab.ts';

/** The lab has its Python and the SDK in other places than they were installed to. */
const config = (size = 2, orphanTimeout = '60s') => `
http: 127.0.0.1:0
pools:
  faults:
    app: faults:app
    python: /opt/pitwarden/.venv/bin/python
    cwd: /opt/pitwarden/examples
    env: { LD_LIBRARY_PATH: /opt/python/lib, PYTHONPATH: /opt/pitwarden/python/src }
    size: ${size}
    drain: { timeout: 20s }
    orphan_timeout: ${orphanTimeout}
`;

const service = 'pitwarden.service';
let lab: Lab;
let client: TestClient;

describe('the unit under a real systemd', needs(...whatLabNeeds()), () => {
  beforeAll(async () => {
    lab = await startLab(config());
  });

  afterAll(() => lab?.end());

  afterEach(async () => {
    client?.close();
    await lab.run('systemctl', 'stop', 'pitwarden.socket', service);
    await lab.run('systemctl', 'reset-failed', service);
    await lab.file('/etc/pitwarden/pitwarden.yaml', config());
    await lab.file('/opt/pitwarden/package.json', packageJson('0.1.0'));
  });

  test('systemd-analyze: the units verify, and the exposure is 3.0 at most', async () => {
    const units = ['/etc/systemd/system/pitwarden.service', '/etc/systemd/system/pitwarden.socket'];
    const verified = await lab.run('systemd-analyze', 'verify', '--man=no', ...units);
    expect(verified).toEqual({ code: 0, stdout: '', stderr: '' });
    const told = await lab.ask('systemd-analyze', 'security', '--offline=true', '--threshold=30', service);
    expect(Number(/exposure level for pitwarden.service: ([\d.]+)/.exec(told)?.[1])).toBeLessThanOrEqual(3);
  });

  test('start: it is started when it listens, and its status tells of its workers', async () => {
    await lab.systemctl('start', service);
    // The last socket that it opens.
    await lab.ask('test', '-S', '/run/pitwarden/link/link.sock');
    await ready(2);
    await untilProperty('StatusText', '2 of 2 workers ready');
    expect(await lab.ask('ps', '-o', 'user=', '-p', await lab.property('MainPID'))).toBe('pitwarden');
    expect(await lab.ask('stat', '-c', '%U:%G %a', '/run/pitwarden/agent.sock')).toBe('pitwarden:pitwarden 660');
    expect(await lab.ask('stat', '-c', '%U:%G %a', '/run/pitwarden/control.sock')).toBe('pitwarden:pitwarden 600');
  });

  test('control.sock: root commands, and a member of the group calls and reads, and commands nothing', async () => {
    await lab.systemctl('start', service);
    await ready(2);
    const asMember = (...args: string[]) => {
      const user = ['--reuid', '4242', '--regid', '4242', '--groups', 'pitwarden'];
      const cli = ['/opt/node/bin/node', '/opt/pitwarden/bin/pitwarden', ...args];
      return lab.run('setpriv', ...user, ...cli, '--socket', '/run/pitwarden/agent.sock');
    };
    expect(await asMember('call', 'faults', 'sleep', '--args', '[0.001]')).toMatchObject({ code: 0 });
    expect(await asMember('drain', 'faults')).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/control\.sock: this user may not connect to it .* mode 0600; .*control_group/),
    });
    expect(await lab.cli('drain', 'faults')).toMatchObject({ code: 0 });
    expect(await lab.cli('resume', 'faults')).toMatchObject({ code: 0 });
  });

  test('what systemd gives to the agent is not passed on to its workers', async () => {
    await lab.systemctl('start', service);
    const [worker] = await ready(2);
    const socket = await lab.ask('readlink', `/proc/${await lab.property('MainPID')}/fd/3`);
    expect(socket).toMatch(/^socket:/);
    expect(await lab.ask('ls', '-l', `/proc/${worker?.pid}/fd`)).not.toContain(socket);
    const variables = await lab.ask('cat', `/proc/${worker?.pid}/environ`);
    expect(variables).toContain('PITWARDEN_LINK=');
    expect(variables).not.toMatch(/LISTEN_|NOTIFY_|WATCHDOG_/);
  });

  test('stop: drained and gone', async () => {
    await lab.systemctl('start', service);
    await ready(2);
    client = lab.connect();
    const running = client.execute('faults', 'sleep', [6]);
    await busy();
    const stopped = lab.systemctl('stop', service);
    await untilProperty('ActiveState', 'deactivating');
    expect((await running).value).toBe(6);
    await stopped;
    expect(await lab.property('ActiveState')).toBe('inactive');
    expect(await lab.property('Result')).toBe('success');
    expect(await processes()).toBe('');
    expect(await lab.ask('systemctl', 'is-active', 'pitwarden.socket')).toBe('active');
  });

  test('stop of the socket stops both, and callers are told at once that nobody is there', async () => {
    await lab.systemctl('start', service);
    await lab.systemctl('stop', 'pitwarden.socket');
    expect(await lab.property('ActiveState')).toBe('inactive');
    expect(await processes()).toBe('');
    expect((await lab.cli('status')).code).toBe(3);
  });

  test('stop that needs longer than TimeoutStopSec asks for the time', async () => {
    // A drain of 20 s at most: with the unit's own 90 s nothing would have to be asked for.
    await dropIn('stop', '[Service]\nTimeoutStopSec=2s\n');
    await lab.systemctl('start', service);
    await ready(2);
    client = lab.connect();
    const running = client.execute('faults', 'sleep', [8]);
    await busy();
    await lab.systemctl('stop', service);
    expect((await running).value).toBe(8);
    expect(await lab.property('Result')).toBe('success');
    await dropIn('stop', '');
  });

  test('reload: the new configuration is taken; one with problems fails the reload and changes nothing', async () => {
    await lab.systemctl('start', service);
    await ready(2);
    await lab.file('/etc/pitwarden/pitwarden.yaml', config(3));
    await lab.systemctl('reload', service);
    await ready(3);
    await untilProperty('StatusText', '3 of 3 workers ready');
    await lab.file('/etc/pitwarden/pitwarden.yaml', 'pools: { faults: { ap: faults:app } }');
    const { code } = await lab.run('systemctl', 'reload', service);
    expect(code).toBe(1);
    expect(await lab.journal()).toContain('unknown key; did you mean app?');
    // Each line has its own priority in the journal, and no trace of how it came there.
    const filter = ['--no-pager', '--output', 'cat', '--priority', 'warning', '--unit', service];
    const warnings = await lab.ask('journalctl', ...filter);
    expect(warnings).toMatch(/^\/etc\/pitwarden\/pitwarden\.yaml:.*unknown key/m);
    expect(warnings).not.toContain('"level":"info"');
    expect(await lab.property('ActiveState')).toBe('active');
    await ready(3);
  });

  test('a configuration with problems is not tried again and again', async () => {
    await lab.file('/etc/pitwarden/pitwarden.yaml', 'pools: { faults: { ap: faults:app } }');
    expect((await lab.run('systemctl', 'start', service)).code).toBe(1);
    await untilProperty('ActiveState', 'failed');
    expect(await lab.property('NRestarts')).toBe('0');
    expect(await lab.property('ExecMainStatus')).toBe('2');
  });

  test('a call made while no agent runs is answered by the one that it starts', async () => {
    await lab.systemctl('start', 'pitwarden.socket');
    expect(await lab.property('ActiveState')).toBe('inactive');
    client = lab.connect();
    expect((await client.execute('faults', 'sleep', [0])).value).toBe(0);
    expect(await lab.property('ActiveState')).toBe('active');
  });

  test('crash: started again at once, callers wait meanwhile, and the workers are the same', async () => {
    await lab.systemctl('start', service);
    const before = await ready(2);
    const agent = await lab.property('MainPID');
    await lab.ask('kill', '-KILL', agent);
    client = lab.connect();
    expect((await client.execute('faults', 'sleep', [0])).value).toBe(0);
    expect(await lab.property('MainPID')).not.toBe(agent);
    expect(await lab.property('NRestarts')).toBe('1');
    await sameWorkers(before);
  });

  test('an agent that is killed and does not come back: its workers leave by themselves', async () => {
    await dropIn('restart', '[Service]\nRestart=no\n');
    await lab.file('/etc/pitwarden/pitwarden.yaml', config(2, '2s'));
    await lab.systemctl('start', service);
    await ready(2);
    await lab.ask('kill', '-KILL', await lab.property('MainPID'));
    await untilProperty('ActiveState', 'failed');
    expect(await processes()).toContain('-m pitwarden.worker');
    // Asked of the system alone: a call would start an agent.
    await until(async () => (await processes()) === '', 'the workers to leave', processes);
    await dropIn('restart', '');
  });

  test('watchdog: a stopped agent is killed and started again, and the workers are the same', async () => {
    // The unit's own 30 s only make the test longer.
    await dropIn('watchdog', '[Service]\nWatchdogSec=3s\n');
    await lab.systemctl('start', service);
    const before = await ready(2);
    const agent = await lab.property('MainPID');
    await lab.ask('kill', '-STOP', agent);
    await untilProperty('NRestarts', '1');
    expect(await lab.journal()).toContain('Watchdog timeout (limit 3s)!');
    await sameWorkers(before);
    expect(await lab.property('MainPID')).not.toBe(agent);
    await dropIn('watchdog', '');
  });

  test('watchdog: an agent that works is left alone', async () => {
    await dropIn('watchdog', '[Service]\nWatchdogSec=4s\n');
    await lab.systemctl('start', service);
    await ready(2);
    client = lab.connect();
    await client.execute('faults', 'sleep', [10]);
    expect(await lab.property('NRestarts')).toBe('0');
    await dropIn('watchdog', '');
  });

  test('handover to a new version: no call fails, and the workers are the same', async () => {
    await lab.systemctl('start', service);
    const before = await ready(2);
    const agent = await lab.property('MainPID');
    const load = startLoad();
    const long = load.client.execute('faults', 'sleep', [2]);
    await until(() => load.answered() >= 10, 'calls to be answered');
    await lab.file('/opt/pitwarden/package.json', packageJson('0.2.0'));
    const { code, stdout, stderr } = await lab.cli('handover', '--json');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const answered = load.answered();
    await until(() => load.answered() >= answered + 10, 'calls to be answered again', load.failed);
    expect((await long).value).toBe(2);
    expect(await load.end()).toEqual([]);
    const told = { from: { version: '0.1.0' }, to: { version: '0.2.0' }, taken_over: 2, started: 0 };
    expect(JSON.parse(stdout)).toMatchObject(told);
    expect(await lab.property('MainPID')).not.toBe(agent);
    expect(await lab.property('ActiveState')).toBe('active');
    await sameWorkers(before);
  });

  test('restart after an upgrade: drained and replaced, and no call fails', async () => {
    await lab.systemctl('start', service);
    const before = await ready(2);
    const load = startLoad();
    await until(() => load.answered() >= 10, 'calls to be answered');
    await lab.file('/opt/pitwarden/package.json', packageJson('0.2.0'));
    await lab.systemctl('restart', service);
    const answered = load.answered();
    await until(() => load.answered() >= answered + 10, 'calls to be answered again', load.failed);
    expect(await load.end()).toEqual([]);
    expect((await lab.cli('status')).stdout).toContain('pitwarden 0.2.0');
    const after = await ready(2);
    expect(after.filter(({ pid }) => before.some((old) => old.pid === pid))).toEqual([]);
  });
});

function packageJson(version: string): string {
  return JSON.stringify({ name: 'pitwarden', type: 'module', version });
}

async function dropIn(name: string, text: string): Promise<void> {
  await lab.file(`/etc/systemd/system/pitwarden.service.d/${name}.conf`, text);
  await lab.systemctl('daemon-reload');
}

async function workers(): Promise<ListedWorker[]> {
  const { code, stdout } = await lab.cli('workers', '--json');
  return code === 0 ? (JSON.parse(stdout) as ListedWorker[]) : [];
}

async function ready(count: number): Promise<ListedWorker[]> {
  const found = async (): Promise<ListedWorker[] | undefined> => {
    const all = (await workers()).filter(({ state }) => state === 'WORKER_STATE_READY');
    return all.length === count ? all : undefined;
  };
  return until(found, `${count} ready workers`, () => lab.journal());
}

function busy(): Promise<boolean> {
  return until(async () => (await workers()).some((worker) => worker.in_flight > 0), 'a worker to have a request');
}

/** Those of the agent before have been taken over. */
async function sameWorkers(before: readonly ListedWorker[]): Promise<void> {
  const after = await ready(before.length);
  const pids = (views: readonly ListedWorker[]): number[] => views.map(({ pid }) => pid).sort();
  expect(pids(after)).toEqual(pids(before));
}

function untilProperty(name: string, value: string): Promise<boolean> {
  return until(
    async () => (await lab.property(name)) === value,
    `${name} to be ${value}`,
    () => lab.property(name),
  );
}

/** What still runs as the unit's user. */
async function processes(): Promise<string> {
  return (await lab.run('ps', '-o', 'pid,args', '--no-headers', '-u', 'pitwarden')).stdout;
}

/** Calls one after the other, until it is ended. */
function startLoad() {
  const caller = lab.connect();
  const failures: unknown[] = [];
  let answered = 0;
  let goesOn = true;
  const calls = (async () => {
    while (goesOn) {
      await caller.execute('faults', 'sleep', [0.005]).then(
        () => {
          answered += 1;
        },
        (error: unknown) => failures.push(error),
      );
    }
  })();
  return {
    client: caller,
    answered: () => answered,
    failed: () => failures,
    end: async () => {
      goesOn = false;
      await calls;
      caller.close();
      return failures;
    },
  };
}
