import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, expect, test } from 'vitest';
import { hasProc } from '../../src/os/process/identity.ts';
import type { ThreadTimes } from '../../src/os/process/thread-times.ts';
import { busiestMs, readThreadTimes } from '../../src/os/process/thread-times.ts';
import { needs } from '../needs.ts';

const python = new URL('../../.venv/bin/python', import.meta.url).pathname;
const onProc = needs('/proc', hasProc);
let child: ChildProcess | undefined;
afterEach(() => child?.kill('SIGKILL'));

async function run(program: string): Promise<number> {
  child = spawn(python, ['-c', `import threading, time\n${program}`], { stdio: ['ignore', 'pipe', 'inherit'] });
  if (child.stdout === null) throw new Error('expected output');
  await once(child.stdout, 'data');
  return child.pid ?? 0;
}

/** How long its busiest thread worked while the sum over its threads grew by 200 ms. */
async function busiestOf(pid: number): Promise<number> {
  const sum = (times: ThreadTimes) => [...times.values()].reduce((total, { ranNs }) => total + ranNs, 0);
  const read = () => {
    const times = readThreadTimes([pid]);
    if (times === null) throw new Error('expected times');
    return times;
  };
  const before = read();
  for (;;) {
    const after = read();
    if (sum(after) - sum(before) >= 200e6) return busiestMs(before, after);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test('a thread that computes works', onProc, async () => {
  const pid = await run(`print('computes', flush=True)\nwhile True: pass`);
  expect(await busiestOf(pid)).toBeGreaterThan(150);
});

test.each([1, 40])('of %i threads that wait for the GIL, none works', onProc, async (count) => {
  const pid = await run(`
import sys
sys.setswitchinterval(0.0002)
def wait_for_gil():
    while True: time.sleep(0.001)
for _ in range(${count}): threading.Thread(target=wait_for_gil, daemon=True).start()
import ctypes
libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(256)
libc.pthread_mutex_init(mutex, None)
libc.pthread_mutex_lock(mutex)
print('waits', flush=True)
libc.pthread_mutex_lock(mutex)`);
  expect(await busiestOf(pid)).toBe(0);
});

test('a process that is gone, and one with more threads than are read, have no times', onProc, async () => {
  expect(readThreadTimes([2 ** 30])).toBeNull();
  const pid = await run(`
for _ in range(300): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print('sleeps', flush=True)
time.sleep(1000)`);
  expect(readThreadTimes([pid])).toBeNull();
});
