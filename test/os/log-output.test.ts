import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

const dist = (name: string): string => JSON.stringify(new URL(`../../dist/${name}.js`, import.meta.url).pathname);

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** A script that writes more than any pipe holds, and then ends. */
const talker = (lines: number, end: string): string => `
import { createLog } from ${dist('telemetry/log')};
import { exitProcess } from ${dist('os/process/exit')};
const log = createLog({ level: 'info', format: 'json' });
for (let line = 0; line < ${lines}; line += 1) log.info('x'.repeat(1000), { line });
${end}`;
const orderly = 'exitProcess(7, await log.end());';

function run(code: string, stdout: 'pipe' | number) {
  return spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', stdout, 'inherit'] });
}

/** A named pipe that is open at both ends and full, and that nobody reads. */
function fullPipe(): number {
  const path = join(dir, 'pipe');
  execFileSync('mkfifo', [path]);
  return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
}

test.each([
  ['exits normally', orderly],
  ['crashes', 'exitProcess(7, log.endNow());'],
])('a process that %s ends although nobody reads its output, which is a pipe or a socket', async (_, end) => {
  const fd = fullPipe();
  const ended = (['pipe', fd] as const).map((stdout) => once(run(talker(2_000, end), stdout), 'exit'));
  expect(await Promise.all(ended)).toEqual([
    [7, null],
    [7, null],
  ]);
  closeSync(fd);
});

test.each<[number, string]>([
  [0, 'SIGTERM'],
  [7, 'SIGKILL'],
])(
  'a process that exits with %i and whose threads never end is ended by %s',
  async (code, signal) => {
    execFileSync('mkfifo', [join(dir, 'pipe')]);
    const child = run(
      `
import { open } from 'node:fs';
import { exitProcess } from ${dist('os/process/exit')};
process.on('SIGTERM', () => undefined);
// Opening a named pipe that nobody writes to blocks a thread, and process.exit waits for it.
open(${JSON.stringify(join(dir, 'pipe'))}, 'r', () => undefined);
setTimeout(() => exitProcess(${code}, false), 100);`,
      'pipe',
    );
    expect(await once(child, 'exit')).toEqual([null, signal]);
  },
  30_000,
);

test('a process that exits at once has nobody else signalled, such as its reaper', async () => {
  const script = `
import { exitProcess } from ${dist('os/process/exit')};
exitProcess(7, false);`;
  // Waits for all processes that it has started or inherited.
  const reaper = `
import ctypes, os, signal, subprocess, sys
signals = []
signal.signal(signal.SIGTERM, lambda *_: signals.append("SIGTERM"))
assert ctypes.CDLL(None).prctl(36, 1) == 0  # PR_SET_CHILD_SUBREAPER
started = [subprocess.Popen([sys.argv[1], "--input-type=module", "-e", sys.argv[2]]) for _ in range(8)]
codes = []
while True:
    try:
        pid, status = os.wait()
    except ChildProcessError:
        break
    if pid in [each.pid for each in started]:
        codes.append(os.waitstatus_to_exitcode(status))
print(signals, set(codes))`;
  const child = spawn('python3', ['-c', reaper, process.execPath, script], { stdio: ['ignore', 'pipe', 'inherit'] });
  let printed = '';
  child.stdout.on('data', (data) => {
    printed += data;
  });
  expect(await once(child, 'exit')).toEqual([0, null]);
  expect(printed).toBe('[] {7}\n');
}, 60_000);

test('a process survives the loss of its log reader, and exits normally', async () => {
  const child = run(talker(2_000, orderly), 'pipe');
  child.stdout?.destroy();
  expect(await once(child, 'exit')).toEqual([7, null]);
});

test('a slow reader receives all lines, complete and in order', async () => {
  const fd = fullPipe();
  // Node makes a descriptor that it passes to a child blocking, in this process too.
  const reader = openSync(join(dir, 'pipe'), constants.O_RDONLY | constants.O_NONBLOCK);
  const child = run(talker(500, orderly), fd);
  let over = false;
  const exited = once(child, 'exit').then(() => {
    over = true;
  });
  const piece = Buffer.alloc(10_000);
  let text = '';
  for (let last = false; ; last = over) {
    try {
      for (;;) text += piece.toString('utf8', 0, readSync(reader, piece));
    } catch {
      // The pipe is empty for now.
    }
    if (last) break;
    await new Promise((resolve) => setImmediate(resolve));
  }
  await exited;
  for (const each of [fd, reader]) closeSync(each);
  const lines = text.trim().split('\n');
  expect(lines.map((line) => (JSON.parse(line) as { line: number }).line)).toEqual([...Array(500).keys()]);
});

test('lines beyond the backlog limit are dropped, and the count is reported once there is room', async () => {
  const child = run(talker(12_000, 'process.stdin; setTimeout(() => {}, 100_000);'), 'pipe');
  let text = '';
  for await (const data of child.stdout ?? []) {
    text += data;
    if (text.includes('were dropped')) break;
  }
  child.kill('SIGKILL');
  expect(text).toMatch(/\d+ log lines were dropped: they were written faster than read/);
});

test('a file receives every line', async () => {
  const path = join(dir, 'log');
  const fd = openSync(path, 'w');
  expect(await once(run(talker(1_000, orderly), fd), 'exit')).toEqual([7, null]);
  closeSync(fd);
  expect(readFileSync(path, 'utf8').trim().split('\n')).toHaveLength(1_000);
});
