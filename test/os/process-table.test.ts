import { spawn } from 'node:child_process';
import { expect, onTestFinished, test, vi } from 'vitest';
import { needs } from '../needs.ts';

/** Counts how often all processes were listed, and names processes whose environment is still empty. */
const seen = vi.hoisted(() => ({ listings: 0, midExec: new Set<number>() }));

vi.mock('node:fs', async (original) => {
  const real = await original<typeof import('node:fs')>();
  return {
    ...real,
    readdirSync: (...args: Parameters<typeof real.readdirSync>) => {
      if (args[0] === '/proc') seen.listings += 1;
      return real.readdirSync(...args);
    },
    readFileSync: (...args: Parameters<typeof real.readFileSync>) => {
      const pid = /^\/proc\/(\d+)\/environ$/.exec(String(args[0]))?.[1];
      return pid !== undefined && seen.midExec.has(Number(pid)) ? '' : real.readFileSync(...args);
    },
  };
});

const { hasProc } = await import('../../src/os/process/identity.ts');
const { freshProcessTable, readProcessTable } = await import('../../src/os/process/process-table.ts');

const onProc = needs('/proc', hasProc);

test('a process that was read in the middle of an exec is recognised by its id at the next look', onProc, async () => {
  const workerId = 'p-0-midexec2';
  // A grandchild, because nothing is cached about children of this process.
  const parent = spawn('sh', ['-c', 'sleep 1000 & echo $!; wait'], {
    stdio: ['ignore', 'pipe', 'ignore'],
    detached: true,
    env: { PATH: process.env['PATH'], PITWARDEN_WORKER_ID: workerId },
  });
  onTestFinished(() => void process.kill(-(parent.pid ?? 0), 'SIGKILL'));
  const pid = await new Promise<number>((resolve) => parent.stdout.once('data', (data) => resolve(Number(data))));
  const idOf = async () => (await readProcessTable()).find((row) => row.pid === pid)?.workerId;
  seen.midExec.add(pid);
  expect(await idOf()).toBe('');
  seen.midExec.delete(pid);
  expect(await idOf()).toBe(workerId);
});

test(
  'a thousand concurrent requests share one process table, which was read after each of them asked',
  onProc,
  async () => {
    const before = seen.listings;
    const first = freshProcessTable();
    await Promise.resolve();
    const late = Array.from({ length: 1_000 }, () => freshProcessTable());
    expect(new Set(await Promise.all(late)).size).toBe(1);
    expect(seen.listings - before).toBeLessThanOrEqual(2);
    const child = spawn('sleep', ['1000'], { stdio: 'ignore' });
    onTestFinished(() => void child.kill('SIGKILL'));
    expect((await freshProcessTable()).map((row) => row.pid)).toContain(child.pid);
    await first;
  },
);
