import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { sampleTree } from '../../src/os/process/memory.ts';
import { sweepTree } from '../../src/os/process/tree.ts';
import { markOf } from '../../src/os/process/tree-mark.ts';
import { isRoot, needs } from '../needs.ts';
import { isProcessRunning, shellWorker } from './shell-worker.ts';

// Daemons of a worker without a cgroup, with their own session, group, environment and descriptors, and pid 1 as
// parent.

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const python = new URL('../../.venv/bin/python', import.meta.url).pathname;

const daemonize = `
import os, sys, time
from pitwarden._tree_mark import mark_descendants

def daemon(before=lambda: None, until=lambda: None):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            until()
            os._exit(0)
        before()
        os.write(writer, str(os.getpid()).encode())
        os.closerange(0, 50)
        os.execve('/bin/sleep', ['sleep', '1000'], {})
    return int(os.read(reader, 20))
`;

/** Starts a worker that starts a daemon; the worker exits when asked. */
async function withDaemon(workerId: string, program: string) {
  const path = join(dir, `${workerId}.py`);
  writeFileSync(path, `${daemonize}\n${program}`);
  const worker = await shellWorker(dir, `exec ${python} ${path}`, { workerId });
  const daemon = Number(await worker.line(1));
  expect(isProcessRunning(daemon)).toBe(true);
  onTestFinished(() => {
    worker.spawned.close();
    if (isProcessRunning(daemon)) process.kill(daemon, 'SIGKILL');
  });
  const end = async () => {
    process.kill(worker.identity.pid, 'SIGKILL');
    await worker.spawned.exited;
    return { identity: worker.identity, workerId, endedAtTicks: worker.spawned.endedAtTicks() };
  };
  return { daemon, end, identity: worker.identity };
}

test('a daemon that kept nothing but its resource limits is found by the mark that the SDK set', async () => {
  const workerId = 'p-0-daemon22';
  const program = `mark_descendants('${workerId}'); print(daemon(), flush=True); time.sleep(1000)`;
  const { daemon, end, identity } = await withDaemon(workerId, program);
  expect((await sampleTree({ identity, workerId }, { readsPss: () => false }))?.processes).toBe(2);
  expect(await sweepTree(await end(), { timeoutMs: 5_000 })).toEqual({ survivors: [], suspects: [] });
  expect(isProcessRunning(daemon)).toBe(false);
});

test('a daemon without a mark is found if it was seen in the tree while its parent lived', async () => {
  const workerId = 'p-0-daemon33';
  const go = join(dir, 'go');
  const until = `lambda: [time.sleep(0.01) for _ in iter(lambda: os.path.exists('${go}'), True)]`;
  const { daemon, end, identity } = await withDaemon(
    workerId,
    `print(daemon(until=${until}), flush=True); time.sleep(1000)`,
  );
  let known: ReadonlyMap<number, string> = new Map();
  const remember = (members: ReadonlyMap<number, string>): void => {
    known = members;
  };
  while (!known.has(daemon)) await sampleTree({ identity, workerId }, { readsPss: () => false, remember });
  writeFileSync(go, '');
  const target = await end();
  expect(await sweepTree({ ...target, known }, { timeoutMs: 5_000 })).toEqual({ survivors: [], suspects: [] });
  expect(isProcessRunning(daemon)).toBe(false);
});

// Only root can become another user.
test('a daemon that became another user is reported and not signalled', needs('root', isRoot), async () => {
  const workerId = 'p-0-daemon44';
  const before = 'lambda: os.setuid(65534)';
  const program = `mark_descendants('${workerId}'); print(daemon(${before}), flush=True); time.sleep(1000)`;
  const { daemon, end } = await withDaemon(workerId, program);
  expect(await sweepTree(await end(), { timeoutMs: 5_000 })).toEqual({ survivors: [], suspects: [daemon] });
  expect(isProcessRunning(daemon)).toBe(true);
});

test('the agent and the SDK compute the same mark', async () => {
  const script = 'from pitwarden._tree_mark import mark_of; print(mark_of("p-0-abcdefgh"))';
  const worker = await shellWorker(dir, `exec ${python} -c '${script}'`, { workerId: 'p-0-marks222' });
  expect(markOf('p-0-abcdefgh')).toBe(await worker.line(1));
  await worker.spawned.exited;
  worker.spawned.close();
});
