import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { openCgroups } from '../../src/os/cgroup.ts';
import { sweepTree } from '../../src/os/tree.ts';
import { isRunning, shellWorker } from './shell-worker.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
const cgroups = openCgroups();
const probe = cgroups.create('probe');
probe?.remove();
afterAll(() => {
  cgroups.close();
  rmSync(dir, { recursive: true, force: true });
});

// Not everywhere may a process make cgroups; the other ways of finding a tree are tried in processes.test.ts.
const where = probe === undefined ? test.skip : test;

/** Starts in an environment that names no worker, with a session and a parent of its own: nothing else leads to it. */
const escaped = (command: string) => `(setsid env -i PATH="$PATH" sh -c '${command}' &)`;

test('it is said how trees are killed, and why not better', () => {
  expect(cgroups.report).toMatch(/\(cgroup\.kill\)$|^worker trees are killed by .*; no cgroups: .+/);
});

where('a tree of any shape dies whole, also what nothing but its cgroup leads to', async () => {
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
    expect(isRunning(own), name).toBe(true);
    const pids = readFileSync(join(cgroup.path, 'cgroup.procs'), 'utf8').trim().split('\n').map(Number);
    expect(pids, name).toContain(identity.pid);
    expect(pids, name).toContain(own);
    // The leader goes by itself, as a crash would have it.
    process.kill(identity.pid, 'SIGKILL');
    await spawned.exited;
    expect(await sweepTree({ identity, workerId }, { timeoutMs: 10_000, cgroup })).toEqual({ survivors: [] });
    expect(pids.filter(isRunning), name).toEqual([]);
    expect(cgroup.isPopulated(), name).toBe(false);
    cgroup.remove();
    expect(existsSync(cgroup.path), name).toBe(false);
  }
});

where('what an agent that is no more has left is taken away, and nothing of one that lives', () => {
  const parent = dirname(dirname(probe?.path ?? ''));
  // No process has the highest pid there can be.
  const dead = join(parent, `pitwarden-${2 ** 22}`);
  mkdirSync(join(dead, 'worker'), { recursive: true });
  openCgroups();
  expect(existsSync(dead)).toBe(false);
  expect(existsSync(dirname(probe?.path ?? ''))).toBe(true);
});
