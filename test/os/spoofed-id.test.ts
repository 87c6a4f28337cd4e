import { spawn } from 'node:child_process';
import { chownSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test, vi } from 'vitest';
import { identify } from '../../src/os/process/identity.ts';
import { carriesWorkerId, findSpawnedWorker } from '../../src/os/process/own-process.ts';
import { freshProcessTable, membersOf } from '../../src/os/process/process-table.ts';
import { sweepTree } from '../../src/os/process/tree.ts';
import { isRoot, needs } from '../needs.ts';
import { isProcessRunning, shellWorker } from './shell-worker.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const python = new URL('../../.venv/bin/python', import.meta.url).pathname;
const nobody = 65_534;

/** Starts a process that carries a worker's id but does not belong to its tree. */
async function impostor(workerId: string, program: string): Promise<number> {
  // Its output file is also named by the worker's id.
  const path = join(dir, `${workerId}.out`);
  const output = openSync(path, 'w');
  chownSync(path, nobody, nobody);
  const child = spawn(
    python,
    ['-c', `import os, sys, time\n${program}\nprint('up', file=sys.stderr, flush=True)\ntime.sleep(1000)`],
    {
      stdio: ['ignore', output, 'pipe'],
      detached: true,
      env: { PITWARDEN_WORKER_ID: workerId },
    },
  );
  onTestFinished(() => void child.kill('SIGKILL'));
  await vi.waitFor(() => expect(child.stderr?.read()?.toString()).toContain('up'), { timeout: 10_000 });
  return child.pid ?? 0;
}

// Only root can start processes of other users.
const asRoot = needs('root', isRoot);

test.for([
  ['of another user', 'os.setuid(65534)'],
  ['that another user started from a set-user-ID program', 'os.setresuid(65534, 0, 0)'],
] as const)(
  "a process %s that carries a worker's id is neither counted as part of the worker nor signalled",
  asRoot,
  async ([, become]) => {
    const workerId = `spoofed-${become.length}`;
    const { spawned, identity, line } = await shellWorker(dir, 'sleep 1000 & echo $!; wait', { workerId });
    const child = Number(await line(1));
    const stranger = await impostor(workerId, become);
    const target = { identity, workerId };
    const members = () => freshProcessTable().then((table) => membersOf(table, target).map(({ pid }) => pid));
    expect((await members()).sort()).toEqual([identity.pid, child].sort());
    expect(await sweepTree(target, { timeoutMs: 5_000 })).toMatchObject({ survivors: [] });
    await spawned.exited;
    expect(isProcessRunning(child)).toBe(false);
    expect(isProcessRunning(stranger)).toBe(true);
    spawned.close();
  },
);

test("another user's process that carries a worker's id is not adopted as that worker", asRoot, async () => {
  const workerId = 'p-0-spoofed2';
  const stranger = await impostor(workerId, `os.setuid(${nobody})`);
  expect(identify(stranger)).toBeDefined();
  expect(await findSpawnedWorker(workerId)).toBeUndefined();
  expect(carriesWorkerId(stranger, workerId)).toBe(false);
});
