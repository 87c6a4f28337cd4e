import { execFileSync } from 'node:child_process';
import fs, {
  appendFileSync,
  chownSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest';
import type { EventRing, EventRingOptions, RingPosition } from '../../src/os/storage/event-ring.ts';
import { openEventRing, ringStart } from '../../src/os/storage/event-ring.ts';
import { lineMaxBytes, lineOf } from '../../src/os/storage/ring-line.ts';
import { until } from '../e2e/agent.ts';
import { isRoot, needs } from '../needs.ts';

let folder: string;
let problems: string[];
let rings: EventRing[];

beforeEach(() => {
  folder = join(mkdtempSync(join(tmpdir(), 'pitwarden-ring-')), 'events');
  problems = [];
  rings = [];
});

afterEach(async () => {
  for (const ring of rings) await ring.close();
  rmSync(join(folder, '..'), { recursive: true, force: true });
});

function open(options: Partial<EventRingOptions> = {}): EventRing {
  const ring = openEventRing(folder, {
    ...{ segmentBytes: 64 * 1024, maxBytes: 4 * 64 * 1024, durable: false },
    onProblem: (message) => problems.push(message),
    gapRecord: (dropped) => ({ dropped }),
    ...options,
  });
  rings.push(ring);
  return ring;
}

/** All records from a position on, and the position behind them. */
async function readAll(ring: EventRing, from = ringStart): Promise<{ records: object[]; end: RingPosition }> {
  const records: object[] = [];
  for (let position = from; ; ) {
    const part = await ring.read(position);
    records.push(...part.records.map(({ record }) => record));
    position = part.next;
    if (part.isEnd) return { records, end: position };
  }
}

const files = (): string[] => readdirSync(folder).map((name) => join(folder, name));
const first = (): string => join(folder, '0000000001.log');
const numbered = (count: number, from = 0): { n: number }[] =>
  Array.from({ length: count }, (_, index) => ({ n: from + index }));

async function store(ring: EventRing, records: readonly object[]): Promise<void> {
  for (const record of records) ring.append(record);
  expect(await ring.stored()).toBe(true);
}

test('a later ring reads what an earlier one stored, in order, and goes on in the same file', async () => {
  await store(open(), numbered(3));
  await store(open(), numbered(3, 3));
  expect((await readAll(open())).records).toEqual(numbered(6));
  expect(files()).toEqual([first()]);
  expect(statSync(first()).mode & 0o777).toBe(0o600);
  expect(statSync(folder).mode & 0o077).toBe(0);
});

test('wherever a file is cut off, all records before the cut stay, and none after it is lost', async () => {
  await store(open(), [{ n: 0 }, { text: 'héllo\n"quoted"' }, { n: 2 }]);
  const whole = readFileSync(first());
  const ends = [...whole.keys()].filter((at) => whole[at] === 0x0a).map((at) => at + 1);
  expect(ends).toHaveLength(3);
  for (let length = 0; length <= whole.length; length += 1) {
    writeFileSync(first(), whole.subarray(0, length));
    // A record that lacks nothing but its line break is whole.
    const kept = ends.filter((end) => end - 1 <= length).length;
    const { records, end } = await readAll(open());
    expect(records).toHaveLength(kept);
    // What comes behind the cut is read whole, by who begins anew and by who goes on.
    await store(open(), [{ later: length }]);
    expect((await readAll(open())).records).toEqual([...records, { later: length }]);
    expect((await readAll(open(), end)).records).toEqual([{ later: length }]);
  }
});

test('whatever byte of a file is changed, at most the record that has it, and the next one, are lost', async () => {
  const records = numbered(4);
  await store(open(), records);
  const whole = readFileSync(first());
  for (const at of whole.keys()) {
    for (const byte of [0x00, 0x0a, (whole[at] ?? 0) ^ 0x01]) {
      const changed = Buffer.from(whole);
      changed[at] = byte;
      writeFileSync(first(), changed);
      const found = (await readAll(open())).records;
      if (changed.equals(whole)) continue;
      expect(found.length).toBeGreaterThanOrEqual(2);
      for (const record of found) expect(records).toContainEqual(record);
    }
  }
});

test('garbage between records, longer than any line and than any read, is skipped', async () => {
  const ring = open({ segmentBytes: 1024 * 1024, maxBytes: 4 * 1024 * 1024 });
  await store(ring, numbered(2));
  appendFileSync(first(), Buffer.alloc(300_000, 'x'));
  const later = open({ segmentBytes: 1024 * 1024, maxBytes: 4 * 1024 * 1024 });
  await store(later, numbered(2, 2));
  expect((await readAll(later)).records).toEqual(numbered(4));
});

test('the files stay within their bound: the oldest records go, the newest stay without a gap', async () => {
  const ring = open();
  const text = 'x'.repeat(1_000);
  for (let batch = 0; batch < 40; batch += 1) {
    await store(
      ring,
      numbered(25, batch * 25).map((record) => ({ ...record, text })),
    );
    const bytes = files().reduce((sum, path) => sum + statSync(path).size, 0);
    expect(bytes).toBeLessThanOrEqual(4 * 64 * 1024);
  }
  const { records } = await readAll(open());
  const numbers = records.map((record) => (record as { n: number }).n);
  expect(numbers.length).toBeGreaterThan(150);
  expect(numbers).toEqual(Array.from({ length: numbers.length }, (_, index) => 1_000 - numbers.length + index));
  expect(files().length).toBeLessThanOrEqual(4);
});

test('a position stays good while records are added, and over a restart; once its file is gone, the oldest record comes next', async () => {
  const ring = open();
  await store(ring, numbered(10));
  const { end } = await readAll(ring);
  await store(ring, numbered(10, 10));
  expect((await readAll(open(), end)).records).toEqual(numbered(10, 10));
  const text = 'x'.repeat(1_000);
  for (let batch = 0; batch < 20; batch += 1) await store(ring, Array(25).fill({ text }));
  expect(files()).not.toContain(first());
  expect(await readAll(ring, end)).toEqual(await readAll(ring));
});

test('a position of a folder that was emptied since reads from the start', async () => {
  await store(open(), [{ n: 1 }]);
  expect((await readAll(open(), { segment: 77, offset: 5 })).records).toEqual([{ n: 1 }]);
  expect((await readAll(open(), { segment: 1, offset: 9_999_999 })).records).toEqual([]);
});

const foreign: Readonly<Record<string, (path: string) => void>> = {
  'a FIFO': (path) => execFileSync('mkfifo', [path]),
  'a folder': (path) => mkdirSync(path),
  'a link to a device without an end': (path) => symlinkSync('/dev/zero', path),
  'a link to a file of ours': (path) => {
    writeFileSync(join(folder, '../target'), lineOf({ n: 'foreign' }) ?? '');
    symlinkSync('../target', path);
  },
  'a second name of a file': (path) => {
    writeFileSync(join(folder, '../target'), lineOf({ n: 'foreign' }) ?? '');
    linkSync(join(folder, '../target'), path);
  },
};

for (const [what, place] of Object.entries(foreign)) {
  test(`${what} among the files is left alone, neither read nor written, and does not block`, async () => {
    mkdirSync(folder);
    place(join(folder, '0000000007.log'));
    const ring = open();
    await store(ring, numbered(2));
    expect((await readAll(ring)).records).toEqual(numbered(2));
    expect(files()).toContain(join(folder, '0000000008.log'));
    expect(problems.join()).toMatch(/0000000007\.log is no file of this agent/);
  });

  test(`${what} that takes the place of a file while the ring is open is not read, and does not block`, async () => {
    const ring = open();
    await store(ring, numbered(2));
    renameSync(first(), join(folder, '../moved'));
    place(first());
    expect((await readAll(ring)).records).toEqual([]);
    await store(open(), numbered(2, 2));
    expect((await readAll(open())).records).toEqual(numbered(2, 2));
  });
}

test("another user's file is left alone", needs('root', isRoot), async () => {
  mkdirSync(folder);
  writeFileSync(first(), lineOf({ n: 'foreign' }) ?? '');
  chownSync(first(), 12_345, 12_345);
  const ring = open();
  await store(ring, numbered(1));
  expect((await readAll(ring)).records).toEqual(numbered(1));
});

test('a huge file is removed instead of read', async () => {
  mkdirSync(folder);
  copyFileSync('/dev/null', first());
  truncateSync(first(), 2 ** 40);
  const ring = open();
  await store(ring, numbered(1));
  expect((await readAll(ring)).records).toEqual(numbered(1));
  expect(files()).toHaveLength(1);
});

test('while nothing can be written, records wait; within their bound none is lost, and none is stored twice', async () => {
  writeFileSync(folder, 'in the way');
  const ring = open();
  for (const record of numbered(100)) ring.append(record);
  expect(await ring.stored()).toBe(false);
  expect(problems).toEqual([expect.stringMatching(/events wait to be stored: .*EEXIST/)]);
  rmSync(folder);
  await until(async () => (await readAll(ring)).records.length === 100, 'the records to be stored');
  expect((await readAll(ring)).records).toEqual(numbered(100));
  expect(ring.dropped()).toBe(0);
});

test('a folder that is removed meanwhile is made again, and what was being written is written there', async () => {
  const ring = open();
  await store(ring, numbered(2));
  rmSync(folder, { recursive: true });
  ring.append({ n: 2 });
  await until(async () => (await readAll(ring)).records.length === 1, 'the record to be stored');
  expect((await readAll(ring)).records).toEqual([{ n: 2 }]);
});

test('on a full disk nothing is stored twice or torn, what does not fit is counted, and a record says so later', async () => {
  const limit = 40_000;
  let written = 0;
  let isFull = true;
  // A disk with 40,000 bytes left, which takes a part of the write that fills it.
  const probe = await fs.promises.open('/dev/null');
  const handle = Object.getPrototypeOf(probe) as { write: (...args: unknown[]) => Promise<{ bytesWritten: number }> };
  await probe.close();
  const { write } = handle;
  onTestFinished(() => {
    handle.write = write;
  });
  handle.write = async function (this: unknown, bytes: unknown, offset: unknown = 0) {
    const whole = Buffer.from(bytes as Buffer).subarray(offset as number);
    const fitting = isFull ? whole.subarray(0, Math.max(0, limit - written)) : whole;
    if (fitting.length === 0) throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
    const { bytesWritten } = await write.call(this, fitting, 0);
    written += bytesWritten;
    return { bytesWritten };
  };
  const ring = open({ segmentBytes: 2 ** 20, maxBytes: 2 ** 22 });
  const text = 'x'.repeat(1_000);
  const records = numbered(2_000).map((record) => ({ ...record, text }));
  for (const record of records) ring.append(record);
  expect(await ring.stored()).toBe(false);
  const dropped = ring.dropped();
  expect(dropped).toBeGreaterThan(500);
  isFull = false;
  await until(async () => (await readAll(ring)).records.length >= 2_001 - dropped, 'the rest to be stored');
  expect((await readAll(ring)).records).toEqual([...records.slice(0, 2_000 - dropped), { dropped }]);
});

test('a disk that does not answer holds nobody up: appending takes no time, the rest is refused after 5 s, memory is bounded', async () => {
  const { open: real } = fs.promises;
  onTestFinished(() => {
    fs.promises.open = real;
    syncBuiltinESMExports();
  });
  fs.promises.open = () => new Promise(() => undefined);
  syncBuiltinESMExports();
  const ring = open();
  // It can never be closed.
  rings = [];
  ring.append({ n: 0 });
  const startedAtMs = performance.now();
  const [isStored] = await Promise.all([
    ring.stored(),
    ...Array.from({ length: 20 }, () =>
      expect(ring.read(ringStart)).rejects.toThrow('the disk did not answer within 5 s'),
    ),
  ]);
  expect(isStored).toBe(false);
  expect(performance.now() - startedAtMs).toBeGreaterThan(4_900);
  const text = 'x'.repeat(10_000);
  for (const record of numbered(1_000)) ring.append({ ...record, text });
  // 1 MiB waits.
  expect(ring.dropped()).toBeGreaterThan(880);
  expect(await ring.stored()).toBe(false);
});

test('a record that is too long is counted, and the others are stored', async () => {
  const ring = open();
  ring.append({ text: 'x'.repeat(lineMaxBytes) });
  await store(ring, numbered(1));
  expect(ring.dropped()).toBe(1);
  expect((await readAll(ring)).records).toEqual([{ n: 0 }, { dropped: 1 }]);
});

test('close waits for what was appended', async () => {
  const ring = open({ durable: true });
  for (const record of numbered(500)) ring.append(record);
  await ring.close();
  expect((await readAll(open())).records).toEqual(numbered(500));
});
