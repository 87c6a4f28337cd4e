import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { watchProcess } from '../../src/os/process/adopted-process.ts';
import { identify, ticksSinceBoot } from '../../src/os/process/identity.ts';
import { needs } from '../needs.ts';

const scene = join(import.meta.dirname, 'pid-reuse-scene.mjs');

/** Runs a command in its own pid namespace, whose first process reaps orphans like a shell. */
function inNamespace(command: string, ...args: string[]): string {
  const asRoot = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'];
  const reaping = ['sh', '-c', '"$@"; exit $?', 'sh', command, ...args];
  const options = { encoding: 'utf8', timeout: 15_000, killSignal: 'SIGKILL' } as const;
  return execFileSync('unshare', [...asRoot, '--pid', '--fork', '--kill-child', '--mount-proc', ...reaping], options);
}

/** Whether the next pid can be chosen in a namespace: ns_last_pid of pid_namespaces(7). */
function mayNamePids(): boolean {
  try {
    return inNamespace('sh', '-c', 'echo 400 > /proc/sys/kernel/ns_last_pid && sh -c "echo $$"') !== '';
  } catch {
    return false;
  }
}

const withChosenPids = needs('chosen pids', mayNamePids());

test.for(['its pid', 'its group', 'the group of a leader that ended'])(
  'a process that reuses the number of a dead worker is never signalled: %s',
  withChosenPids,
  (what) => {
    expect(JSON.parse(inNamespace(process.execPath, scene, what))).toEqual({ survivors: [], living: true });
  },
);

test('processes that a dead worker left in its session are still found and killed', withChosenPids, () => {
  expect(JSON.parse(inNamespace(process.execPath, scene, 'no stranger'))).toEqual({
    left: true,
    survivors: [],
    living: false,
  });
});

test("a process born after an adopted worker was last seen alive does not prove that the session is the worker's", async () => {
  const child = spawn('sleep', ['1000'], { stdio: 'ignore', detached: true });
  const identity = identify(child.pid ?? 0);
  if (identity === undefined) throw new Error('sleep did not start');
  const watched = watchProcess(identity);
  const killedAtTicks = ticksSinceBoot() ?? Number.NaN;
  child.kill('SIGKILL');
  await watched.exited;
  expect(watched.endedAtTicks()).toBeLessThanOrEqual(killedAtTicks);
});
