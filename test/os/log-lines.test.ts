import { expect, test } from 'vitest';
import type { WorkerLine } from '../../src/os/output/log-lines.ts';
import { createLogLines, lineMaxBytes } from '../../src/os/output/log-lines.ts';

function reader() {
  const seen: string[] = [];
  const dropped: number[] = [];
  const clock = { nowMs: 0 };
  const lines = createLogLines({
    nowMs: () => clock.nowMs,
    onLine: (line) => seen.push(line.text),
    onDropped: (count) => dropped.push(count),
  });
  return { lines, seen, dropped, clock };
}

test('lines are assembled from arbitrary pieces of UTF-8, with or without carriage returns', () => {
  const { lines, seen } = reader();
  const bytes = Buffer.from('naïve ☃ line\r\nsecond\n\nlast without an end');
  for (const byte of bytes) lines.push('stdout', Buffer.from([byte]));
  expect(seen).toEqual(['naïve ☃ line', 'second', '']);
  lines.end('stdout');
  expect(seen.at(-1)).toBe('last without an end');
  expect(lines.last()).toEqual(['naïve ☃ line', 'second', 'last without an end']);
});

test('stdout and stderr do not mix within a line', () => {
  const { lines, seen } = reader();
  lines.push('stdout', Buffer.from('out'));
  lines.push('stderr', Buffer.from('err\n'));
  lines.push('stdout', Buffer.from('put\n'));
  expect(seen).toEqual(['err', 'output']);
});

test('an endless line is cut, and only its kept part is held in memory', () => {
  const { lines, seen } = reader();
  for (let i = 0; i < 100; i += 1) lines.push('stdout', Buffer.alloc(1_000, 'x'));
  lines.push('stdout', Buffer.from('\nnext\n'));
  expect(seen).toEqual([`${'x'.repeat(lineMaxBytes)}… (cut)`, 'next']);
});

test('a line of multi-byte characters is cut once, and nothing after the cut is appended', () => {
  const { lines, seen } = reader();
  lines.push('stdout', Buffer.from('é'.repeat(lineMaxBytes)));
  lines.push('stdout', Buffer.from('the end of it\nnext\n'));
  expect(seen).toEqual([`${'é'.repeat(lineMaxBytes / 2)}… (cut)`, 'next']);
});

test('dropped lines are counted and reported, and the last lines are still known', () => {
  const { lines, seen, dropped, clock } = reader();
  for (let i = 0; i < 10_000; i += 1) lines.push('stdout', Buffer.from(`line ${i}\n`));
  expect(seen).toHaveLength(2_000);
  expect(dropped).toEqual([]);
  expect(lines.last().at(-1)).toBe('line 9999');
  clock.nowMs = 2_000;
  lines.push('stdout', Buffer.from('after\n'));
  expect(dropped).toEqual([8_000]);
  expect(seen.at(-1)).toBe('after');
});

test('a record of the worker’s logging is one entry with its level, logger and request', () => {
  const seen: WorkerLine[] = [];
  const lines = createLogLines({ nowMs: () => 0, onLine: (line) => seen.push(line), onDropped: () => undefined });
  const say = (text: string): void => lines.push('stderr', Buffer.from(`${text}\n`));
  const told = { logger: 'app.model', request_id: 'r-1', message: 'failed\nTraceback\nValueError: no' };
  say(`\u001e${JSON.stringify({ level: 40, ...told })}`);
  expect(seen).toEqual([
    { stream: 'stderr', text: told.message, record: { level: 'error', logger: 'app.model', requestId: 'r-1' } },
  ]);
  expect(lines.last()).toEqual(['failed', 'Traceback', 'ValueError: no']);
  for (const level of [5, 10, 20, 25, 30, 50, 1e300]) say(`\u001e${JSON.stringify({ level, message: 'm' })}`);
  expect(seen.slice(1).map((line) => line.record?.level)).toEqual([
    ...['debug', 'debug', 'info', 'info', 'warn', 'error', 'error'],
  ]);
});

test.each([
  '\u001e',
  '\u001enull',
  '\u001e[]',
  '\u001e{"level":20}',
  '\u001e{"level":"20","message":"m"}',
  '\u001e{"level":20,"message":{"toString":1}}',
  '\u001e{"level":20,"message":"m"',
  `\u001e{"level":20,"message":"${'m'.repeat(9_000)}"}`,
])('text that begins like a record but is not one is a line of text: %j', (text) => {
  const seen: WorkerLine[] = [];
  const lines = createLogLines({ nowMs: () => 0, onLine: (line) => seen.push(line), onDropped: () => undefined });
  lines.push('stdout', Buffer.from(`${text}\n`));
  expect(seen).toHaveLength(1);
  expect(seen[0]?.record).toBeNull();
  expect(seen[0]?.text.startsWith(text.slice(0, 100))).toBe(true);
});

test('names in a record are strings of bounded length', () => {
  const seen: WorkerLine[] = [];
  const lines = createLogLines({ nowMs: () => 0, onLine: (line) => seen.push(line), onDropped: () => undefined });
  const told = { level: 20, message: 'm', logger: 'x'.repeat(5_000), request_id: { a: 1 } };
  lines.push('stdout', Buffer.from(`\u001e${JSON.stringify(told)}\n`));
  expect(seen[0]?.record).toEqual({ level: 'info', logger: 'x'.repeat(256), requestId: '' });
});
