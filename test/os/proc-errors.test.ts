import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { needs } from '../needs.ts';

/** The error with which reads of matching files fail, and how many succeed before. */
const failing = vi.hoisted(() => ({ path: null as RegExp | null, code: '', after: 0 }));

vi.mock('node:fs', async (original) => {
  const real = await original<typeof import('node:fs')>();
  const failIfSet = (path: unknown): void => {
    if (failing.path === null || typeof path !== 'string' || !failing.path.test(path)) return;
    failing.after -= 1;
    if (failing.after >= 0) return;
    throw Object.assign(new Error(`${failing.code}: as asked for, '${path}'`), { code: failing.code });
  };
  const wrap =
    <Args extends [unknown, ...unknown[]], Result>(work: (...args: Args) => Result) =>
    (...args: Args): Result => {
      failIfSet(args[0]);
      return work(...args);
    };
  return {
    ...real,
    openSync: wrap(real.openSync),
    readFileSync: wrap(real.readFileSync as never),
    readdirSync: wrap(real.readdirSync as never),
    readlinkSync: wrap(real.readlinkSync as never),
  };
});

const { identify, isAlive, isGone, readStat, ticksSinceBoot, hasProc } = await import(
  '../../src/os/process/identity.ts'
);
const { readProcessTable } = await import('../../src/os/process/process-table.ts');
const { isPopulated, openCgroups } = await import('../../src/os/cgroup/cgroup.ts');
const { carriesWorkerId } = await import('../../src/os/process/own-process.ts');
const { openLedger } = await import('../../src/os/storage/ledger.ts');
const { lockDirectory, lockHolder } = await import('../../src/os/storage/agent-lock.ts');
const { watchProcess } = await import('../../src/os/process/adopted-process.ts');
const { signalGroup, signalProcess } = await import('../../src/os/process/send-signal.ts');
const { sweepTree } = await import('../../src/os/process/tree.ts');
const { spawnWorker } = await import('../../src/os/process/spawn-worker.ts');
const { testOutput } = await import('./shell-worker.ts');

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
const sleeper = spawn('sleep', ['1000'], { stdio: 'ignore', detached: true });
afterAll(() => {
  sleeper.kill('SIGKILL');
  rmSync(dir, { recursive: true, force: true });
});
afterEach(() => {
  failing.path = null;
});

function living() {
  const identity = identify(sleeper.pid ?? 0);
  if (identity === undefined) throw new Error('sleep did not start');
  return identity;
}

function fail(path: RegExp, code: string, after = 0): void {
  Object.assign(failing, { path, code, after });
}

const onProc = needs('/proc', hasProc);
const saysGone = ['ENOENT', 'ESRCH', 'ENODEV'];
const forbids = ['EACCES', 'EPERM'];
const others = Object.keys(constants.errno).filter((code) => !saysGone.includes(code));

describe('when a read of /proc fails with', onProc, () => {
  test.each(saysGone)('%s, the process counts as gone', (code) => {
    const identity = living();
    fail(/^\/proc\/\d+\/stat$/, code);
    expect([isGone(identity), isAlive(identity), readStat(identity.pid)]).toEqual([true, false, undefined]);
  });

  test.each(others)('%s, the process counts neither as gone nor as alive', (code) => {
    const identity = living();
    fail(/^\/proc\/\d+\/stat$/, code);
    expect([isGone(identity), isAlive(identity)]).toEqual([false, false]);
    expect(() => readStat(identity.pid)).toThrow(code);
    expect([signalProcess(identity, 'SIGKILL'), signalGroup(identity, 'SIGKILL')]).toEqual([false, false]);
    failing.path = null;
    expect(isAlive(identity)).toBe(true);
  });

  test.each(others.filter((code) => !forbids.includes(code)))(
    '%s, the process table is rejected instead of leaving out the process',
    async (code) => {
      for (const path of [/^\/proc$/, /^\/proc\/\d+\/stat$/, /^\/proc\/\d+\/environ$/]) {
        fail(path, code);
        // An environment is read only once per process, so this needs a new one.
        const unread = spawn('sleep', ['1000'], { stdio: 'ignore' });
        await expect(readProcessTable(), `${path}`).rejects.toThrow(code);
        unread.kill('SIGKILL');
      }
    },
  );

  test.each(others.filter((code) => !forbids.includes(code)))(
    '%s, the check whether a process is a worker throws instead of denying it',
    (code) => {
      fail(/^\/proc\/\d+\//, code);
      expect(() => carriesWorkerId(living().pid, 'p-0-abcdefgh')).toThrow(code);
    },
  );

  test.each(Object.keys(constants.errno))('%s, the clock still works', (code) => {
    const before = ticksSinceBoot() ?? Number.NaN;
    fail(/^\/proc\/uptime$/, code);
    const now = ticksSinceBoot() ?? Number.NaN;
    // The fallback has whole seconds, rounded down.
    expect(now).toBeGreaterThan(before - 101);
    failing.path = null;
    expect(now).toBeLessThanOrEqual(ticksSinceBoot() ?? Number.NaN);
  });

  test.each(others)('%s, no cgroup counts as empty', (code) => {
    const cgroup = mkdtempSync(join(dir, 'cgroup-'));
    writeFileSync(join(cgroup, 'cgroup.events'), 'populated 0\nfrozen 0\n');
    expect(isPopulated(cgroup)).toBe(false);
    fail(/cgroup\.events$/, code);
    expect(isPopulated(cgroup)).toBe(true);
  });
});

describe('while no descriptors are left,', onProc, () => {
  test('an adopted worker is not declared dead, and its end is noticed once descriptors are free again', async () => {
    const child = spawn('sleep', ['1000'], { stdio: 'ignore', detached: true });
    const identity = identify(child.pid ?? 0);
    if (identity === undefined) expect.fail('sleep did not start');
    const watched = watchProcess(identity);
    let exited = false;
    void watched.exited.then(() => {
      exited = true;
    });
    fail(/^\/proc\//, 'EMFILE');
    watched.look();
    await new Promise((resolve) => setImmediate(resolve));
    expect(exited).toBe(false);
    child.kill('SIGKILL');
    failing.path = null;
    watched.look();
    await watched.exited;
  });

  test('a signal is sent to fewer processes instead of throwing', () => {
    const identity = living();
    for (const after of [1, 2, 3]) {
      fail(/^\/proc\//, 'ENFILE', after);
      expect(() => signalGroup(identity, 'SIGCONT'), `after ${after} reads`).not.toThrow();
    }
  });

  test('a lock that cannot be read does not count as lost', () => {
    const path = mkdtempSync(join(dir, 'lock-'));
    const lock = lockDirectory(path);
    expect(lockHolder(path)).toBe('us');
    fail(/agent\.lock$/, 'ENFILE');
    expect(lockHolder(path)).toBe('unknown');
    failing.path = null;
    writeFileSync(join(path, 'agent.lock'), JSON.stringify(living()));
    expect(lockHolder(path)).toBe('nobody or another');
    lock.release();
    expect(readFileSync(join(path, 'agent.lock'), 'utf8')).toBe(JSON.stringify(living()));
    rmSync(join(path, 'agent.lock'));
    expect(lockHolder(path)).toBe('nobody or another');
  });

  test('the lock of a live agent is not taken over', () => {
    const path = mkdtempSync(join(dir, 'lock-'));
    writeFileSync(join(path, 'agent.lock'), JSON.stringify(living()));
    fail(new RegExp(`^/proc/${sleeper.pid}/`), 'EMFILE');
    expect(() => lockDirectory(path)).toThrow(`expected no other agent to use it, got one with pid ${sleeper.pid}`);
  });

  test('an agent that cannot read /proc takes over no lock', () => {
    const path = mkdtempSync(join(dir, 'lock-'));
    writeFileSync(join(path, 'agent.lock'), JSON.stringify(living()));
    fail(/^\/proc\//, 'EMFILE');
    expect(() => lockDirectory(path)).toThrow('EMFILE');
    failing.path = null;
    expect(() => lockDirectory(path)).toThrow(`got one with pid ${sleeper.pid}`);
  });

  test('the start fails instead of setting ledger entries aside, and the next start reads them', () => {
    const state = mkdtempSync(join(dir, 'state-'));
    const ledger = openLedger(state);
    const file = join(state, 'ledger/p-0-abcdefgh.json');
    writeFileSync(file, readFileSync(join(import.meta.dirname, '../fixtures/ledger/v1.ledger')));
    for (const path of [/ledger$/, /abcdefgh\.json$/]) {
      fail(path, 'EMFILE');
      expect(() => ledger.read(), `${path}`).toThrow('EMFILE');
    }
    failing.path = null;
    expect(ledger.read().entries).toHaveLength(1);
  });

  test('a sweep is repeated until it can read /proc, and then kills the tree', async () => {
    const child = spawn('sleep', ['1000'], { stdio: 'ignore', detached: true });
    const identity = identify(child.pid ?? 0);
    if (identity === undefined) expect.fail('sleep did not start');
    fail(/^\/proc\//, 'EMFILE');
    const swept = sweepTree({ identity, workerId: 'w' }, { timeoutMs: 10_000 });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(isGone(identity)).toBe(false);
    failing.path = null;
    expect(await swept).toMatchObject({ survivors: [] });
    expect(isGone(identity)).toBe(true);
  });

  test('a sweep that can never read /proc fails instead of reporting success', async () => {
    const identity = living();
    fail(/^\/proc\//, 'EMFILE');
    await expect(sweepTree({ identity, workerId: 'w' }, { timeoutMs: 20 })).rejects.toThrow('EMFILE');
  });

  test('a child that cannot be identified is killed, and its start returns the reason', async () => {
    fail(/^\/proc\/\d+\/stat$/, 'EMFILE');
    const pidFile = join(dir, 'unidentified');
    const spawned = spawnWorker({
      workerId: 'w-unidentified',
      outputDirectory: testOutput(dir),
      command: 'sh',
      args: ['-c', `echo $$ > ${pidFile}; sleep 1000`],
      cwd: dir,
      cgroup: null,
      secret: Buffer.alloc(32),
      env: { PATH: process.env['PATH'] ?? '' },
      nowMs: () => 0,
      onLine: () => undefined,
      onDropped: () => undefined,
      onSkipped: () => undefined,
    });
    const message = expect.stringMatching(
      /could not start sh in .*: process \d+ could not be identified, and was killed: EMFILE/,
    );
    expect(await spawned.started).toEqual({ ok: false, message, isShortage: true });
  });
});

/** The folder in which cgroups are created; undefined if there is none. */
function cgroupFolder(): string | undefined {
  const cgroups = openCgroups();
  cgroups.close();
  const base = /below (\S+),/.exec(cgroups.report)?.[1];
  return base === undefined ? undefined : dirname(base);
}

const cgroupsAt = cgroupFolder();

test(
  "an agent still gets its own cgroup when another agent removes a dead agent's cgroup at the same time",
  needs('cgroups', cgroupsAt !== undefined),
  () => {
    const left = join(cgroupsAt ?? '', 'pitwarden-4194305-deadbeef');
    mkdirSync(left);
    onTestFinished(() => (existsSync(left) ? rmdirSync(left) : undefined));
    fail(/4194305-deadbeef$/, 'ENOENT');
    const cgroups = openCgroups();
    onTestFinished(cgroups.close);
    expect(cgroups.report).toContain('cgroup.kill');
  },
);
