import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isJournal } from '../../src/os/output/journal.ts';
import type { Log, LogOptions } from '../../src/telemetry/log.ts';
import { createLog } from '../../src/telemetry/log.ts';

const evil = 'bad input: x\r12:00:00 pool safe added\x1b[K\x1b]0;title\x07\x9b8m\u202e';

test('control characters of workers do not reach the log in either format', async () => {
  const say = (log: Log): void => log.info(evil, { stream: 'stdout', worker_id: 'p-0-a' });
  const pretty = await written({ format: 'pretty', priorities: false }, say);
  expect(pretty).toMatch(
    /^\d\d:\d\d:\d\d p-0-a \| bad input: x\\r12:00:00 pool safe added\\x1b\[K\\x1b\]0;title\\x07\\x9b8m\\u202e\n$/,
  );
  const json = await written({ format: 'json', priorities: false }, say);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
  expect(json).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
  expect(JSON.parse(json)).toMatchObject({ msg: evil, worker_id: 'p-0-a' });
});

test('a message of several lines cannot be mistaken for several messages', async () => {
  const pretty = await written({ format: 'pretty', priorities: false }, (log) => log.warn('it failed\n12:00:00 fine'));
  expect(pretty.split('\n')[1]).toBe('    12:00:00 fine');
});

test('under journald each line begins with its priority', async () => {
  const say = (log: Log): void => {
    log.debug('a');
    log.info('b');
    log.warn('c\nd');
    log.error('e');
  };
  const json = await written({ format: 'json', priorities: true }, say);
  const lines = json.trimEnd().split('\n');
  expect(lines.map((line) => line.slice(0, 3))).toEqual(['<7>', '<6>', '<4>', '<3>']);
  expect(lines.map((line) => JSON.parse(line.slice(3)).msg)).toEqual(['a', 'b', 'c\nd', 'e']);
  const pretty = await written({ format: 'pretty', priorities: true }, say);
  expect(pretty.trimEnd().split('\n')).toEqual(
    ['<7>', '<6>', '<4>', '<4>', '<3>'].map((priority) => expect.stringMatching(`^${priority}`)),
  );
});

test('the journal is recognised by the device and inode in JOURNAL_STREAM', () => {
  const { dev, ino } = fstatSync(1, { bigint: true });
  expect(isJournal(`${dev}:${ino}`)).toBe(true);
  for (const other of [undefined, '', `${dev}:${ino + 1n}`, 'nonsense']) expect(isJournal(other)).toBe(false);
});

/** Everything that a log writes until its end. */
async function written(options: Omit<LogOptions, 'level' | 'fd'>, say: (log: Log) => void): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  const fd = openSync(join(dir, 'log'), 'w');
  const log = createLog({ ...options, level: 'debug', fd });
  say(log);
  await log.end();
  const text = readFileSync(join(dir, 'log'), 'utf8');
  rmSync(dir, { recursive: true });
  try {
    closeSync(fd);
  } catch {
    // The log has closed the descriptor.
  }
  return text;
}
