import { expect, test } from 'vitest';
import { createLogLines, lineMaxBytes } from '../../src/os/log-lines.ts';

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

test('lines are put together from whatever pieces come, in UTF-8, with or without a carriage return', () => {
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

test('a line without an end is cut, and holds no more than that', () => {
  const { lines, seen } = reader();
  for (let i = 0; i < 100; i += 1) lines.push('stdout', Buffer.alloc(1_000, 'x'));
  lines.push('stdout', Buffer.from('\nnext\n'));
  expect(seen).toEqual([`${'x'.repeat(lineMaxBytes)}… (cut)`, 'next']);
});

test('a flood is counted, told once it may be, and leaves the last lines known', () => {
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
