import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { cgroupAccount, limitCgroup, openCgroups } from '../../src/os/cgroup/cgroup.ts';
import { membersOf, readProcessTable } from '../../src/os/process/process-table.ts';
import { resourceLimits, tasksOfAll, whyNotLimited } from '../../src/os/process/resource-limits.ts';
import { sweepTree } from '../../src/os/process/tree.ts';
import { needs } from '../needs.ts';
import { isProcessRunning, shellWorker } from './shell-worker.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
const cgroups = openCgroups();
const probe = cgroups.create('probe');
probe?.remove();
afterAll(() => {
  cgroups.close();
  rmSync(dir, { recursive: true, force: true });
});

// Not every environment allows creating cgroups. processes.test.ts covers the other ways of finding a tree.
const inCgroups = needs('cgroups', probe !== undefined, cgroups.report);

/**
 * Starts a daemon with its own session and parent and without a worker id in its environment: only the cgroup leads to
 * it.
 */
const escaped = (command: string) => `(setsid env -i PATH="$PATH" sh -c '${command}' &)`;

test('the report says how worker trees are killed, and why cgroups are not used', () => {
  expect(cgroups.report).toMatch(/\(cgroup\.kill\)$|^worker trees are killed by .*; no cgroups: .+/);
});

test('cgroup.kill kills a tree of any shape, including daemons without a trace', inCgroups, async () => {
  const shapes = {
    'SIGTERM ignored': `trap '' TERM; sleep 1000 & echo $! > own; echo ready; wait`,
    'a daemon without a trace': `${escaped('echo $$ > own; exec sleep 1000')}; until [ -s own ]; do :; done; echo ready; wait; sleep 1000`,
    'forks again and again': `${escaped('trap "" TERM HUP INT; echo $$ > own; while :; do sleep 1000 & sleep 0.01; done')}; until [ -s own ]; do :; done; echo ready; sleep 1000`,
    'a thousand children': `for i in $(seq 1000); do sleep 1000 & done; echo $! > own; echo ready; wait`,
  };
  for (const [name, script] of Object.entries(shapes)) {
    const workerId = name.replaceAll(' ', '-');
    const cgroup = cgroups.create(workerId);
    if (cgroup === undefined) expect.fail('no cgroup');
    const cwd = mkdtempSync(join(dir, 'w-'));
    const { spawned, identity, line } = await shellWorker(cwd, script, { workerId, cgroup: cgroup.path });
    await line(1);
    const own = Number(readFileSync(join(cwd, 'own'), 'utf8'));
    expect(isProcessRunning(own), name).toBe(true);
    const pids = readFileSync(join(cgroup.path, 'cgroup.procs'), 'utf8').trim().split('\n').map(Number);
    expect(pids, name).toContain(identity.pid);
    expect(pids, name).toContain(own);
    // The leader dies first, as in a crash.
    process.kill(identity.pid, 'SIGKILL');
    await spawned.exited;
    expect(await sweepTree({ identity, workerId }, { timeoutMs: 10_000, cgroup })).toMatchObject({ survivors: [] });
    expect(pids.filter(isProcessRunning), name).toEqual([]);
    expect(cgroup.isPopulated(), name).toBe(false);
    cgroup.remove();
    expect(existsSync(cgroup.path), name).toBe(false);
  }
});

/** A daemon in its own session whose parent has exited: only its environment leads to it. */
const daemon = (command: string) => `(setsid sh -c '${command}' &)`;

test.each([
  ['a child that ignores SIGTERM', `trap '' TERM; sleep 1000 & echo $! > own; echo ready; wait`],
  [
    'a daemon that forked twice',
    `${daemon('echo $$ > own; exec sleep 1000')}; until [ -s own ]; do :; done; echo ready; sleep 1000`,
  ],
  [
    'a process that keeps forking and ignores every signal',
    `${daemon('trap "" TERM HUP INT; echo $$ > own; while :; do sleep 1000 & sleep 0.01; done')}; until [ -s own ]; do :; done; echo ready; sleep 1000`,
  ],
  ['a thousand children', `for i in $(seq 1000); do sleep 1000 & done; echo $! > own; echo ready; wait`],
])('without a cgroup the whole tree is killed: %s', async (name, script) => {
  const workerId = `swept-${name.replaceAll(/\W/g, '-')}`;
  const cwd = mkdtempSync(join(dir, 'w-'));
  const { spawned, identity, line } = await shellWorker(cwd, script, { workerId });
  await line(1);
  const own = Number(readFileSync(join(cwd, 'own'), 'utf8'));
  expect(isProcessRunning(own)).toBe(true);
  const pids = membersOf(await readProcessTable(), { identity, workerId }).map((row) => row.pid);
  expect(pids).toContain(own);
  process.kill(identity.pid, 'SIGKILL');
  await spawned.exited;
  const target = { identity, workerId, endedAtTicks: spawned.endedAtTicks() };
  expect(await sweepTree(target, { timeoutMs: 10_000 })).toMatchObject({ survivors: [] });
  expect(pids.filter(isProcessRunning)).toEqual([]);
  expect(membersOf(await readProcessTable(), target)).toEqual([]);
});

test("a cgroup's account includes all its processes, even dead ones", inCgroups, async () => {
  const cgroup = cgroups.create('account');
  if (cgroup === undefined) expect.fail('no cgroup');
  const burn = 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done';
  const options = { workerId: 'account', cgroup: cgroup.path };
  const { spawned, line } = await shellWorker(dir, `sh -c '${burn}'; echo burned`, options);
  await line(1);
  await spawned.exited;
  const { userMs, systemMs, oomKills } = cgroup.account();
  expect(userMs).toBeGreaterThan(20);
  expect(userMs + systemMs).toBeLessThan(60_000);
  expect(oomKills).toBe(0);
  cgroup.remove();
});

test("limits are enforced by the cgroup's controllers; where there is none, by the worker's resource limits", () => {
  const limits = { pids: 50, memoryBytes: 2 ** 30, openFiles: 256 };
  const bare = mkdtempSync(join(dir, 'cgroup-'));
  const heldByNone = limitCgroup(bare, limits);
  expect(heldByNone).toEqual({ pids: false, memory: false });
  expect(readdirSync(bare)).toEqual([]);
  expect(resourceLimits(limits, heldByNone, 200)).toBe('open_files=256 data_bytes=1073741824 tasks=200');
  expect(resourceLimits(limits, heldByNone, 0)).toBe('open_files=256 data_bytes=1073741824');
  const full = mkdtempSync(join(dir, 'cgroup-'));
  for (const name of ['pids.max', 'memory.max', 'memory.oom.group']) writeFileSync(join(full, name), 'max');
  const held = limitCgroup(full, limits);
  expect(held).toEqual({ pids: true, memory: true });
  const written = ['pids.max', 'memory.max', 'memory.oom.group'].map((name) =>
    parseInt(readFileSync(join(full, name), 'utf8'), 10),
  );
  expect(written).toEqual([50, 2 ** 30, 1]);
  expect(resourceLimits(limits, held, 200)).toBe('open_files=256');
  const none = { pids: 0, memoryBytes: 0, openFiles: 0 };
  expect(limitCgroup(full, none)).toEqual({ pids: false, memory: false });
  expect(resourceLimits(none, heldByNone, 200)).toBe('');
});

test('without a pids controller the limit on tasks is the sum over all pools, or none if one pool has no limit', () => {
  const pool = (pids: number, size: number, maxSurge = 0) => ({
    size,
    config: { limits: { pids }, recycle: { maxSurge } },
  });
  expect(tasksOfAll([pool(32, 8, 1), pool(500, 2)])).toBe(32 * 9 + 1_000);
  // Workers of the second pool would use up what the first may have.
  expect(tasksOfAll([pool(32, 8, 1), pool(0, 1)])).toBe(0);
  expect(tasksOfAll([pool(32, 8, 1), pool(0, 0)])).toBe(32 * 9);
  const [held, none] = [{ pids: true }, { pids: false }];
  expect(whyNotLimited({ pids: 32 }, held, 0, 0)).toBeUndefined();
  expect(whyNotLimited({ pids: 0 }, none, 0, 0)).toBeUndefined();
  expect(whyNotLimited({ pids: 32 }, none, 288, 1000)).toBeUndefined();
  expect(whyNotLimited({ pids: 32 }, none, 0, 1000)).toContain('so every pool needs a limits.pids');
  expect(whyNotLimited({ pids: 32 }, none, 288, 0)).toContain('does not apply to root');
});

test("memory is the kernel's own account where the memory controller is enabled", () => {
  const fake = mkdtempSync(join(dir, 'cgroup-'));
  expect(cgroupAccount(fake)).toEqual({ userMs: 0, systemMs: 0, oomKills: 0, peakBytes: 0 });
  writeFileSync(join(fake, 'cpu.stat'), 'usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\n');
  writeFileSync(join(fake, 'memory.events'), 'low 0\nmax 9\noom 2\noom_kill 1\n');
  writeFileSync(join(fake, 'memory.peak'), '123456\n');
  expect(cgroupAccount(fake)).toEqual({ userMs: 3, systemMs: 2, oomKills: 1, peakBytes: 123456 });
});

test('cgroups of agents that have exited are removed, and those of live agents stay', inCgroups, () => {
  const parent = dirname(dirname(probe?.path ?? ''));
  // No process has the highest possible pid.
  const dead = join(parent, `pitwarden-${2 ** 22}`);
  mkdirSync(join(dead, 'worker'), { recursive: true });
  openCgroups();
  expect(existsSync(dead)).toBe(false);
  expect(existsSync(dirname(probe?.path ?? ''))).toBe(true);
});
