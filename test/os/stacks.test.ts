import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { gatherEvidence } from '../../src/os/process/evidence.ts';
import { fitStacks, placeOf, stacksOfCrash } from '../../src/os/process/stacks.ts';
import { sweepTree } from '../../src/os/process/tree.ts';
import { readPart } from '../../src/os/storage/read-file.ts';
import { isProcessRunning, shellWorker } from './shell-worker.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
const python = new URL('../../.venv/bin/python', import.meta.url).pathname;
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const path = join(dir, 'stacks');

describe('a request for stacks', () => {
  test('sends no signal to a process that does not handle it, which would kill the process', async () => {
    const { identity } = await shellWorker(dir, 'exec sleep 60', { workerId: 'w-deaf' });
    const evidence = await gatherEvidence(identity, path);
    expect(evidence).toMatchObject({ stacks: '', stacksMissing: 'the worker does not write stacks, or not yet' });
    expect(isProcessRunning(identity.pid)).toBe(true);
    await sweepTree({ identity, workerId: 'w-deaf' }, { timeoutMs: 10_000 });
  });

  test('returns only what was written since, with control characters escaped', async () => {
    const program = `
import os, signal
def write(*_):
    with open('${path}', 'a') as file: file.write('second \\x1b[31m\\n')
signal.signal(44, write)
print('ready', flush=True)
while True: signal.pause()`;
    writeFileSync(path, 'first\n');
    writeFileSync(join(dir, 'program.py'), program);
    const worker = await shellWorker(dir, `exec ${python} program.py`, { workerId: 'w-writes' });
    await worker.line(1);
    expect((await gatherEvidence(worker.identity, path)).stacks).toBe('second \\x1b[31m\n');
    await sweepTree({ identity: worker.identity, workerId: 'w-writes' }, { timeoutMs: 10_000 });
  });
});

describe('the stacks of a crash', () => {
  const crash = 'Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n';

  test('leave out what was written before the crash', () => {
    writeFileSync(path, `Current thread 0x1 (most recent call first):\n  File "a.py", line 1 in hung\n${crash}`);
    expect(stacksOfCrash(path, 'SIGSEGV')).toBe(crash);
    // The exit status of a worker that an earlier agent started is unknown.
    expect(stacksOfCrash(path, null)).toBe(crash);
  });

  test('are empty for a worker that was killed, even if it wrote stacks on request', () => {
    expect(stacksOfCrash(path, 'SIGKILL')).toBe('');
    writeFileSync(path, 'Current thread 0x1 (most recent call first):\n');
    expect(stacksOfCrash(path, 'SIGSEGV')).toBe('');
    expect(stacksOfCrash(join(dir, 'nowhere'), 'SIGSEGV')).toBe('');
  });

  test('are read from the end of a file of any size', () => {
    writeFileSync(path, `${crash}`);
    truncateSync(path, 2 ** 30);
    expect(stacksOfCrash(path, 'SIGSEGV')).toBe('');
    expect(readPart(path, 'end', 100)?.length).toBe(100);
  });
});

test('a file that a worker replaced is not waited for, followed or read', () => {
  const fifo = join(dir, 'fifo');
  execFileSync('mkfifo', [fifo]);
  writeFileSync(join(dir, 'secret'), 'secret');
  symlinkSync(join(dir, 'secret'), join(dir, 'link'));
  mkdirSync(join(dir, 'folder'));
  for (const name of ['fifo', 'link', 'folder', 'nowhere']) expect(readPart(join(dir, name), 0, 100)).toBeUndefined();
  expect(readPart(join(dir, 'secret'), 0, 3)?.toString()).toBe('sec');
});

describe('stacks that exceed the limit', () => {
  const thread = (name: string, frames: number, current = false) =>
    `${current ? 'Current thread' : 'Thread'} 0x1 (most recent call first):\n${`  File "/${name}.py", line 1 in ${name}\n`.repeat(frames)}\n`;

  test('keep the thread that crashed and the main thread, which comes last', () => {
    const others = Array.from({ length: 50 }, (_, index) => thread(`other${index}`, 20));
    const text = [
      'Fatal Python error: Aborted\n\n',
      ...others,
      thread('crashed', 5, true),
      ...others,
      thread('main', 5),
    ].join('');
    const fitted = fitStacks(text, 4_000);
    expect(fitted.length).toBeLessThanOrEqual(4_000);
    expect(fitted).toMatch(
      /^Fatal Python error: Aborted\n\nThread .*in other0\n.*\nCurrent .*in crashed\n.*in main\n\n$/s,
    );
  });

  test('cut a single endless thread, and leave room for the others', () => {
    const fitted = fitStacks(thread('other', 3) + thread('deep', 10_000, true) + thread('main', 10_000), 3_000);
    for (const name of ['other', 'deep', 'main']) expect(fitted).toContain(`in ${name}\n`);
    expect(fitted.length).toBeLessThanOrEqual(3_000);
  });

  test('are cut even if the text has no threads', () => {
    for (const text of ['x'.repeat(100_000), 'Thread 0x1\n'.repeat(10_000), '😀'.repeat(50_000)])
      expect(fitStacks(text, 1_000).length).toBeLessThanOrEqual(1_000);
  });
});

describe('the place in application code is', () => {
  const library = '  File "/usr/lib/python3.11/threading.py", line 9 in wait\n';
  const own = (name: string) => `  File "/srv/app.py", line 3 in ${name}\n`;
  const thread = (...frames: string[]) => `Thread 0x1 (most recent call first):\n${frames.join('')}\n`;

  test.each([
    [
      'the innermost application frame of the main thread',
      [thread(own('a')), thread(library, own('b'), own('c'))],
      'b (/srv/app.py, line 3)',
    ],
    [
      'the frame of the only other thread that has one',
      [thread(library), thread(own('a')), thread(library)],
      'a (/srv/app.py, line 3)',
    ],
    ['unknown if two threads have one', [thread(own('a')), thread(own('b')), thread(library)], ''],
    ['unknown if no thread has one', [thread(library)], ''],
    [
      'the frame of the thread that crashed',
      ['Fatal Python error: Aborted\n\n', thread(own('a')).replace('Thread', 'Current thread'), thread(own('b'))],
      'a (/srv/app.py, line 3)',
    ],
  ])('%s', (_, blocks, place) => {
    expect(placeOf(blocks.join(''))).toBe(place);
  });
});
