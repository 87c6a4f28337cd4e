import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test, vi } from 'vitest';
import { openCgroups } from '../../src/os/cgroup/cgroup.ts';
import type { Guardian } from '../../src/os/process/guardian.ts';
import { startGuardian } from '../../src/os/process/guardian.ts';
import type { ProcessIdentity } from '../../src/os/process/identity.ts';
import { hasProc, identify, readStat } from '../../src/os/process/identity.ts';
import { lockDirectory, lockPath } from '../../src/os/storage/agent-lock.ts';
import { needs } from '../needs.ts';
import { isProcessRunning, shellWorker } from './shell-worker.ts';

const root = mkdtempSync(join(tmpdir(), 'pw-'));
const python = new URL('../../.venv/bin/python', import.meta.url).pathname;
const cgroups = openCgroups();
const probe = cgroups.create('probe');
probe?.remove();
afterAll(() => {
  cgroups.close();
  rmSync(root, { recursive: true, force: true });
});

/**
 * A guardian whose agent counts as dead as soon as it is closed, since no one holds the lock of its state directory.
 */
async function guard() {
  const stateDir = mkdtempSync(join(root, 'state-'));
  const warnings: string[] = [];
  const guardian = startGuardian({ directory: stateDir, log: { warn: (message) => warnings.push(message) } });
  await untilItGuards(guardian);
  return { guardian, pid: guardian.pid() ?? 0, stateDir, warnings };
}

/** The guardian ignores signals from the moment it reads its input. */
async function untilItGuards(guardian: Guardian): Promise<void> {
  await vi.waitFor(() => {
    const ignored = /^SigIgn:\s+(\S+)$/m.exec(readFileSync(`/proc/${guardian.pid()}/status`, 'latin1'))?.[1];
    expect(BigInt(`0x${ignored}`) & (1n << 14n)).not.toBe(0n);
  });
}

/** Waits until the guardian sleeps between two rounds: by then it has read its input and checked everything once. */
async function untilItLooked(pid: number): Promise<void> {
  await vi.waitFor(() => expect(readdirSync('/proc').some((name) => readStat(Number(name))?.ppid === pid)).toBe(true), {
    timeout: 10_000,
  });
}

const untilGone = (pid: number) => vi.waitFor(() => expect(isProcessRunning(pid)).toBe(false), { timeout: 15_000 });

function sleeper(seconds = '1000'): { child: ChildProcess; identity: ProcessIdentity; exited: Promise<unknown[]> } {
  const child = spawn('sleep', [seconds], { stdio: 'ignore', detached: true });
  onTestFinished(() => void child.kill('SIGKILL'));
  const identity = identify(child.pid ?? 0);
  if (identity === undefined) throw new Error('sleep did not start');
  return { child, identity, exited: once(child, 'exit') };
}

const onProc = needs('/proc', hasProc);

test('a new guardian kills the guardians of earlier agents, and nothing else', onProc, async () => {
  const { guardian, pid, stateDir } = await guard();
  guardian.watch(sleeper().identity, 'w', 60_000, null);
  guardian.close();
  const stranger = sleeper();
  const record = join(stateDir, 'guardian.json');
  const guardians = JSON.parse(readFileSync(record, 'utf8')) as ProcessIdentity[];
  expect(guardians.map((each) => each.pid)).toEqual([pid]);
  writeFileSync(record, JSON.stringify([...guardians, stranger.identity, { pid: -1 }]));
  const next = startGuardian({ directory: stateDir, log: { warn: () => undefined } });
  await untilItGuards(next);
  expect(isProcessRunning(pid)).toBe(true);
  next.killPredecessors();
  await untilGone(pid);
  expect(isProcessRunning(stranger.identity.pid)).toBe(true);
  expect(isProcessRunning(next.pid() ?? 0)).toBe(true);
  next.close();
});

test('the guardian kills a worker once its limit has passed, and then exits', onProc, async () => {
  const { guardian, pid, stateDir } = await guard();
  // The lock of a killed agent names a process that no longer exists.
  writeFileSync(lockPath(stateDir), JSON.stringify({ ...identify(process.pid), startTime: '1' }));
  const { child, identity, exited } = sleeper();
  child.kill('SIGSTOP');
  guardian.watch(identity, 'w', 60_000, null);
  guardian.watch(identity, 'w', 2_000, null);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) process.kill(pid, signal);
  const closedAtMs = performance.now();
  guardian.close();
  expect(await exited).toEqual([null, 'SIGKILL']);
  expect(performance.now() - closedAtMs).toBeGreaterThan(1_900);
  await untilGone(pid);
});

test("the guardian kills the worker's whole group, but no other process that has a recorded pid", onProc, async () => {
  const { guardian, pid } = await guard();
  const stranger = sleeper();
  guardian.watch({ ...stranger.identity, startTime: String(Number(stranger.identity.startTime) - 1) }, 'w', 0, null);
  const cwd = mkdtempSync(join(root, 'w-'));
  const { spawned, identity, line } = await shellWorker(cwd, 'sleep 1000 & echo $!; wait', { workerId: 'w' });
  const child = Number(await line(1));
  guardian.watch(identity, 'w', 0, null);
  guardian.close();
  expect(await spawned.exited).toEqual({ code: null, signal: 'SIGKILL' });
  await untilGone(child);
  await untilGone(pid);
  expect(isProcessRunning(stranger.identity.pid)).toBe(true);
});

test('the guardian kills what a worker leaves in its session when it exits', onProc, async () => {
  const { guardian, pid } = await guard();
  const cwd = mkdtempSync(join(root, 'w-'));
  const script = 'sleep 1000 & echo $!; until [ -e go ]; do sleep 0.05; done';
  const { spawned, identity, line } = await shellWorker(cwd, script, { workerId: 'w' });
  const child = Number(await line(1));
  guardian.watch(identity, 'w', 1_000_000, null);
  guardian.close();
  await untilItLooked(pid);
  writeFileSync(join(cwd, 'go'), '');
  expect(await spawned.exited).toEqual({ code: 0, signal: null });
  await untilGone(child);
  await untilGone(pid);
});

test(
  "the guardian kills a daemon that kept only its worker's mark, but no process with another mark",
  onProc,
  async () => {
    const { guardian, pid } = await guard();
    const cwd = mkdtempSync(join(root, 'w-'));
    const daemon = `mark_descendants("$ID"); os.setsid(); os.execve("/bin/sh", ["sh", "-c", "echo $$ > $ID; exec sleep 1000"], {"ID": "$ID"})`;
    const begin = (
      id: string,
    ): string => `ID=${id}; "${python}" -c 'import os; from pitwarden._tree_mark import mark_descendants
if os.fork() == 0: ${daemon.replaceAll('"$ID"', `"${id}"`)}'; until [ -s ${id} ]; do sleep 0.01; done`;
    const script = `${begin('p-0-guarded2')}; ${begin('p-1-stranger')}; echo up; until [ -e go ]; do sleep 0.05; done`;
    const { spawned, identity, line } = await shellWorker(cwd, script, { workerId: 'p-0-guarded2' });
    await line(1);
    const [own, stranger] = ['p-0-guarded2', 'p-1-stranger'].map((id) => Number(readFileSync(join(cwd, id), 'utf8')));
    onTestFinished(() => void process.kill(stranger ?? 0, 'SIGKILL'));
    guardian.watch(identity, 'p-0-guarded2', 1_000_000, null);
    guardian.close();
    await untilItLooked(pid);
    writeFileSync(join(cwd, 'go'), '');
    expect(await spawned.exited).toEqual({ code: 0, signal: null });
    await untilGone(own ?? 0);
    await untilGone(pid);
    expect(isProcessRunning(stranger ?? 0)).toBe(true);
  },
);

/**
 * Starts a daemon with its own session and parent and without a worker id in its environment: only the cgroup leads to
 * it.
 */
const escaped = `(setsid env -i PATH="$PATH" sh -c 'echo $$ > own; exec sleep 1000' &); until [ -s own ]; do :; done; echo ready`;

const inCgroups = needs('cgroups', hasProc && probe !== undefined);

test.for([
  ['a worker that is stopped', 'kill -STOP $$', 0],
  ['a worker that has exited', 'exit 0', 1_000_000],
] as const)('the guardian kills everything in the cgroup of %s', inCgroups, async ([name, then, limitMs]) => {
  const { guardian, pid } = await guard();
  const workerId = `guarded-${name.replaceAll(' ', '-')}`;
  const cgroup = cgroups.create(workerId);
  if (cgroup === undefined) expect.fail('no cgroup');
  const cwd = mkdtempSync(join(root, 'w-'));
  const script = `${escaped}; until [ -e go ]; do sleep 0.05; done; ${then}`;
  const { spawned, identity, line } = await shellWorker(cwd, script, { workerId, cgroup: cgroup.path });
  await line(1);
  const own = Number(readFileSync(join(cwd, 'own'), 'utf8'));
  expect(isProcessRunning(own)).toBe(true);
  guardian.watch(identity, 'w', limitMs, cgroup.path);
  writeFileSync(join(cwd, 'go'), '');
  guardian.close();
  await spawned.exited;
  await untilGone(own);
  await untilGone(pid);
  expect(cgroup.isPopulated()).toBe(false);
  cgroup.remove();
});

test('the guardian leaves a cgroup alone if the recorded process is not in it', inCgroups, async () => {
  const { guardian, pid } = await guard();
  const cgroup = cgroups.create('elsewhere');
  if (cgroup === undefined) expect.fail('no cgroup');
  const cwd = mkdtempSync(join(root, 'w-'));
  const other = await shellWorker(cwd, 'echo up; exec sleep 1000', { workerId: 'elsewhere', cgroup: cgroup.path });
  await other.line(1);
  const { identity, exited } = sleeper();
  guardian.watch(identity, 'w', 0, cgroup.path);
  guardian.close();
  expect(await exited).toEqual([null, 'SIGKILL']);
  expect(isProcessRunning(other.identity.pid)).toBe(true);
  process.kill(pid, 'SIGKILL');
  cgroup.kill();
  await other.spawned.exited;
  await vi.waitFor(() => expect(cgroup.isPopulated()).toBe(false));
  cgroup.remove();
});

test('the guardian exits without killing once another agent holds the lock', onProc, async () => {
  const { guardian, pid, stateDir } = await guard();
  const lock = lockDirectory(stateDir);
  const { identity } = sleeper();
  guardian.watch(identity, 'w', 0, null);
  guardian.close();
  await untilGone(pid);
  expect(isProcessRunning(identity.pid)).toBe(true);
  lock.release();
});

test('the guardian exits at the third agent that it sees, although each of them dies at once', onProc, async () => {
  const { guardian, pid, stateDir } = await guard();
  const { identity } = sleeper();
  guardian.watch(identity, 'w', 1_000_000, null);
  guardian.close();
  while (isProcessRunning(pid)) {
    const agent = sleeper('1');
    writeFileSync(lockPath(stateDir), JSON.stringify(agent.identity));
    await agent.exited;
  }
  expect(isProcessRunning(identity.pid)).toBe(true);
});

test('an agent that dies at once does not count as a successor', onProc, async () => {
  const { guardian, pid, stateDir } = await guard();
  const agent = sleeper('1');
  writeFileSync(lockPath(stateDir), JSON.stringify(agent.identity));
  const { identity, exited } = sleeper();
  guardian.watch(identity, 'w', 0, null);
  guardian.close();
  expect(await Promise.race([agent.exited, exited])).toEqual([0, null]);
  expect(await exited).toEqual([null, 'SIGKILL']);
  await untilGone(pid);
});

test('a guardian that was killed is restarted and watches all live workers again', onProc, async () => {
  const { guardian, pid, warnings } = await guard();
  const { identity, exited } = sleeper();
  guardian.watch(identity, 'w', 0, null);
  process.kill(pid, 'SIGKILL');
  await vi.waitFor(() => expect(guardian.pid()).not.toBe(pid));
  const late = sleeper();
  guardian.watch(late.identity, 'w', 0, null);
  await vi.waitFor(() => expect(guardian.pid()).toBeGreaterThan(0), { timeout: 5_000 });
  expect(warnings).toEqual([expect.stringMatching(/the guardian process was ended by SIGKILL; restarting it in/)]);
  const next = guardian.pid() ?? 0;
  guardian.close();
  expect(await exited).toEqual([null, 'SIGKILL']);
  expect(await late.exited).toEqual([null, 'SIGKILL']);
  await untilGone(next);
});

test('a guardian forgets workers that have exited', onProc, async () => {
  const { guardian, pid } = await guard();
  const peakKib = () => Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
  const before = peakKib();
  const { child, identity } = sleeper();
  guardian.watch(identity, 'w', 1_000_000, null);
  // No process has the highest possible pid.
  const gone = { bootId: identity.bootId, pid: 2 ** 22 };
  for (let count = 0; count < 20_000; count += 1) {
    guardian.watch({ ...gone, startTime: String(count) }, 'w', 1_000, `/sys/fs/cgroup/nothing/w-${count}`);
  }
  guardian.close();
  await untilItLooked(pid);
  expect(peakKib() - before).toBeLessThan(512);
  child.kill('SIGKILL');
  await untilGone(pid);
});

/** O_CLOEXEC of open(2), which Node does not export. */
const closeOnExec = 0o2000000;

function isInheritable(fd: string): boolean {
  try {
    const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0';
    return (Number.parseInt(flags, 8) & closeOnExec) === 0;
  } catch {
    return false;
  }
}

test('a guardian holds no descriptor of the agent and carries no worker id', onProc, async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  openSync(join(root, 'a file of the agent'), 'w');
  const { guardian, pid } = await guard();
  const links = (path: string, fds: readonly string[]) => fds.map((fd) => readlinkSync(`${path}/fd/${fd}`));
  const script = join(import.meta.dirname, '../../bin/guardian.sh');
  // Right after it starts to ignore signals, the guardian opens a file to read its user id, and closes it again.
  await vi.waitFor(() => {
    const ofGuardian = readdirSync(`/proc/${pid}/fd`);
    // Descriptors that the test runner itself passes on to all its descendants lack O_CLOEXEC here too; they are not
    // the agent's.
    const inherited = ofGuardian.filter((fd) => Number(fd) > 2 && isInheritable(fd));
    const own = ofGuardian.filter((fd) => !inherited.includes(fd));
    expect(links(`/proc/${pid}`, inherited)).toEqual(links('/proc/self', inherited));
    const expected = ['/dev/null', '/dev/null', script, expect.stringMatching(/^socket:/)];
    expect(links(`/proc/${pid}`, own).sort()).toEqual(expected.sort());
  });
  expect(readFileSync(`/proc/${pid}/environ`, 'latin1')).not.toContain('PITWARDEN');
  const { session, pgrp } = readStat(pid) ?? {};
  expect([session, pgrp]).toEqual([pid, pid]);
  server.close();
  guardian.close();
  await untilGone(pid);
});
