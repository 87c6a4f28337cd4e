import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { gatherEvidence } from '../../src/os/process/evidence.ts';
import { fitStacks, placeOf, stacksOfCrash } from '../../src/os/process/stacks.ts';
import { sweepTree } from '../../src/os/process/tree.ts';
import { readPart } from '../../src/os/storage/read-file.ts';
import { isRunning, shellWorker } from './shell-worker.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
const python = new URL('../../.venv/bin/python', import.meta.url).pathname;
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const path = join(dir, 'stacks');

describe('asking a process for its stacks', () => {
  test('one that does not listen for the signal is not sent it, of which it would die', async () => {
    const { identity } = await shellWorker(dir, 'exec sleep 60', { workerId: 'w-deaf' });
    const evidence = await gatherEvidence(identity, path);
    expect(evidence).toMatchObject({ stacks: '', stacksMissing: 'it does not write them, or not yet' });
    expect(isRunning(identity.pid)).toBe(true);
    await sweepTree({ identity, workerId: 'w-deaf' }, { timeoutMs: 10_000 });
  });

  test('what an earlier signal left in the file is not told again, and control characters are made visible', async () => {
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

describe('the file of a crash', () => {
  const crash = 'Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n';

  test('what was written before the crash is left out', () => {
    writeFileSync(path, `Current thread 0x1 (most recent call first):\n  File "a.py", line 1 in hung\n${crash}`);
    expect(stacksOfCrash(path, 'SIGSEGV')).toBe(crash);
    // Its exit status is not known when it was an earlier agent's child.
    expect(stacksOfCrash(path, null)).toBe(crash);
  });

  test('a worker that was killed did not crash, and stacks that it wrote when it was asked are no crash', () => {
    expect(stacksOfCrash(path, 'SIGKILL')).toBe('');
    writeFileSync(path, 'Current thread 0x1 (most recent call first):\n');
    expect(stacksOfCrash(path, 'SIGSEGV')).toBe('');
    expect(stacksOfCrash(join(dir, 'nowhere'), 'SIGSEGV')).toBe('');
  });

  test('a file of a gigabyte costs no gigabyte', () => {
    writeFileSync(path, `${crash}`);
    truncateSync(path, 2 ** 30);
    expect(stacksOfCrash(path, 'SIGSEGV')).toBe('');
    expect(readPart(path, 'end', 100)?.length).toBe(100);
  });
});

test('what a worker puts in the place of a file is not waited for, followed or read', () => {
  const fifo = join(dir, 'fifo');
  execFileSync('mkfifo', [fifo]);
  writeFileSync(join(dir, 'secret'), 'secret');
  symlinkSync(join(dir, 'secret'), join(dir, 'link'));
  mkdirSync(join(dir, 'folder'));
  for (const name of ['fifo', 'link', 'folder', 'nowhere']) expect(readPart(join(dir, name), 0, 100)).toBeUndefined();
  expect(readPart(join(dir, 'secret'), 0, 3)?.toString()).toBe('sec');
});

describe('stacks that are longer than what is kept', () => {
  const thread = (name: string, frames: number, current = false) =>
    `${current ? 'Current thread' : 'Thread'} 0x1 (most recent call first):\n${`  File "/${name}.py", line 1 in ${name}\n`.repeat(frames)}\n`;

  test('the thread that crashed and the main thread, which comes last, are kept before all others', () => {
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

  test('one endless thread is cut, and leaves room for the others', () => {
    const fitted = fitStacks(thread('other', 3) + thread('deep', 10_000, true) + thread('main', 10_000), 3_000);
    for (const name of ['other', 'deep', 'main']) expect(fitted).toContain(`in ${name}\n`);
    expect(fitted.length).toBeLessThanOrEqual(3_000);
  });

  test('any text is cut', () => {
    for (const text of ['x'.repeat(100_000), 'Thread 0x1\n'.repeat(10_000), '😀'.repeat(50_000)])
      expect(fitStacks(text, 1_000).length).toBeLessThanOrEqual(1_000);
  });
});

describe('the place in the code of an application', () => {
  const library = '  File "/usr/lib/python3.11/threading.py", line 9 in wait\n';
  const own = (name: string) => `  File "/srv/app.py", line 3 in ${name}\n`;
  const thread = (...frames: string[]) => `Thread 0x1 (most recent call first):\n${frames.join('')}\n`;

  test.each([
    [
      'of the main thread, the innermost that is no library',
      [thread(own('a')), thread(library, own('b'), own('c'))],
      'b (/srv/app.py, line 3)',
    ],
    [
      'of the only other thread that has one',
      [thread(library), thread(own('a')), thread(library)],
      'a (/srv/app.py, line 3)',
    ],
    ['none, where two threads might be meant', [thread(own('a')), thread(own('b')), thread(library)], ''],
    ['none, where there is none', [thread(library)], ''],
    [
      'of the thread that crashed',
      ['Fatal Python error: Aborted\n\n', thread(own('a')).replace('Thread', 'Current thread'), thread(own('b'))],
      'a (/srv/app.py, line 3)',
    ],
  ])('%s', (_, blocks, place) => {
    expect(placeOf(blocks.join(''))).toBe(place);
  });
});
