import { createHash } from 'node:crypto';
import {
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Orders, RollOrder } from '../../src/domain/event.ts';
import { systemClock } from '../../src/os/clock.ts';
import type { Ledger, LedgerEntry } from '../../src/os/storage/ledger.ts';
import { openLedger } from '../../src/os/storage/ledger.ts';
import { seal } from '../../src/os/storage/sealed-file.ts';
import { isRoot, needs } from '../needs.ts';

let state: string;
let ledger: Ledger;

const entry: LedgerEntry = {
  worker_id: 'text-0-abcdefgh',
  pool: 'text',
  slot: 0,
  generation: 3,
  boot_id: 'a boot',
  pid: 4242,
  start_time: '12345',
  agent_id: 'an agent',
  state: 'ready',
  started_at_boot_ms: 100.5,
  spawned_at_boot_ms: 101,
  ready_at_boot_ms: 300.25,
  max_age_ms: 0,
  max_requests: 50,
  concurrency: 2,
  fingerprint: '["text:app"]',
  launch: '["text:app", null]',
  verifier: 'ab'.repeat(32),
  repeats_token: false,
};

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'pitwarden-ledger-'));
  ledger = openLedger(state);
});

afterEach(() => rmSync(state, { recursive: true, force: true }));

const fileOf = (id: string): string => join(state, 'ledger', `${id}.json`);

test('a later agent reads the entries that an earlier one wrote', async () => {
  const unspawned = { state: 'spawning' as const, boot_id: '', pid: 0, start_time: '' };
  const other = { ...entry, worker_id: 'text-1-abcdefgh', slot: 1, ...unspawned };
  await Promise.all([ledger.enter(entry), ledger.enter(other)]);
  const found = openLedger(state).read();
  expect(found.setAside).toEqual([]);
  expect([...found.entries].sort((a, b) => a.slot - b.slot)).toEqual([entry, other]);
});

test('the last entry of a worker counts, and none remains once it is forgotten', async () => {
  void ledger.enter({ ...entry, state: 'starting' });
  await ledger.enter(entry);
  expect(ledger.read().entries).toEqual([entry]);
  void ledger.enter(entry);
  ledger.forget(entry.worker_id);
  await ledger.settled();
  expect(readdirSync(join(state, 'ledger'))).toEqual([]);
});

test("only the owner can read the ledger's files", async () => {
  await ledger.enter(entry);
  const { statSync } = await import('node:fs');
  expect(statSync(fileOf(entry.worker_id)).mode & 0o077).toBe(0);
});

test('an entry truncated at any byte is set aside; only the complete file is read', async () => {
  await ledger.enter(entry);
  const path = fileOf(entry.worker_id);
  const whole = readFileSync(path);
  for (let bytes = 0; bytes < whole.length; bytes += 1) {
    writeFileSync(path, whole.subarray(0, bytes));
    const found = ledger.read();
    expect(found.entries, `${bytes} of ${whole.length} bytes`).toEqual([]);
    expect(found.setAside).toHaveLength(1);
  }
  writeFileSync(path, whole);
  expect(ledger.read().entries).toEqual([entry]);
  // Files that were set aside are kept, up to a limit.
  expect(readdirSync(join(state, 'ledger-set-aside')).length).toBeLessThanOrEqual(50);
});

test('an entry with any byte changed is set aside', async () => {
  await ledger.enter(entry);
  const path = fileOf(entry.worker_id);
  const whole = readFileSync(path);
  for (let at = 0; at < whole.length; at += 1) {
    const changed = Buffer.from(whole);
    changed[at] = (changed[at] ?? 0) ^ 1;
    writeFileSync(path, changed);
    expect(ledger.read().entries, `byte ${at}`).toEqual([]);
  }
});

describe('an intact file with', () => {
  const wrong: Record<keyof LedgerEntry, readonly unknown[]> = {
    worker_id: ['../../etc/passwd', 'text-0-other678', '', 7],
    pool: ['', '../x', null],
    slot: [-1, 1.5, '0'],
    generation: [0, 'x'],
    boot_id: [7],
    pid: [0, 1, -1, -4242, 2 ** 22 + 1, 1.5, '4242', null],
    start_time: ['1e5', 12345, '-1'],
    agent_id: [null],
    state: ['dead', ''],
    started_at_boot_ms: [-1, 'x', null],
    spawned_at_boot_ms: [-1],
    ready_at_boot_ms: [-1],
    max_age_ms: [-1],
    max_requests: [-1, 0.5],
    concurrency: [0],
    fingerprint: [{}],
    launch: [[]],
    verifier: ['', 'xyz', 'ab'.repeat(31)],
    repeats_token: ['no', 0],
  };
  const cases = Object.entries(wrong).flatMap(([field, values]) =>
    [undefined, ...values].map((value) => [field, value] as const),
  );
  test.each(cases)('%s %s is set aside', (field, value) => {
    writeFileSync(fileOf(entry.worker_id), seal('pitwarden-ledger', 2, { ...entry, [field]: value }));
    const found = ledger.read();
    expect(found.entries).toEqual([]);
    expect(found.setAside[0]?.why).toContain(field);
  });
});

// Only root can give a file to another user.
test('an intact file of another user, or a link to one, is set aside', needs('root', isRoot), async () => {
  await ledger.enter(entry);
  await ledger.keepOrders({ nodeDraining: true, pools: [] });
  for (const path of [fileOf(entry.worker_id), join(state, 'orders.json')]) chownSync(path, 65_534, 65_534);
  symlinkSync(fileOf(entry.worker_id), fileOf('text-1-abcdefgh'));
  const { entries, orders, setAside } = ledger.read();
  expect({ entries, orders }).toEqual({ entries: [], orders: null });
  expect(setAside.map(({ why }) => why).sort()).toEqual([
    'expected a file, got something else',
    'expected it to belong to user 0, got user 65534',
    'expected it to belong to user 0, got user 65534',
  ]);
});

test('files of other kinds or versions, folders and leftovers do not keep entries from being read', async () => {
  await ledger.enter(entry);
  writeFileSync(fileOf('text-1-abcdefgh'), seal('pitwarden-ledger', 3, { ...entry, worker_id: 'text-1-abcdefgh' }));
  writeFileSync(fileOf('text-2-abcdefgh'), seal('another-ledger', 1, entry));
  writeFileSync(fileOf('text-3-abcdefgh'), '');
  writeFileSync(join(state, 'ledger/notes.txt'), 'mine');
  writeFileSync(`${fileOf('text-4-abcdefgh')}.new`, 'half of');
  mkdirSync(fileOf('text-5-abcdefgh'));
  const found = ledger.read();
  expect(found.entries).toEqual([entry]);
  expect(found.setAside.map(({ why }) => why)).toHaveLength(4);
  expect(found.foreign).toEqual([join(state, 'ledger/notes.txt')]);
  expect(readFileSync(join(state, 'ledger/notes.txt'), 'utf8')).toBe('mine');
  expect(found.setAside.find(({ file }) => file.includes('text-1'))?.why).toBe('version: expected one of 1, 2, got 3');
  expect(ledger.read().setAside).toEqual([]);
});

test('unknown fields of a later release are ignored', () => {
  writeFileSync(fileOf(entry.worker_id), seal('pitwarden-ledger', 2, { ...entry, mood: 'good' }));
  expect(ledger.read().entries).toMatchObject([entry]);
});

test('an entry of version 1 is converted: only the hash of its token is kept, by which the worker is recognised', () => {
  const { verifier: _, repeats_token: __, ...old } = entry;
  const token = 'cd'.repeat(32);
  writeFileSync(fileOf(entry.worker_id), seal('pitwarden-ledger', 1, { ...old, token }));
  const verifier = createHash('sha256').update(Buffer.from(token, 'hex')).digest('hex');
  expect(ledger.read().entries).toEqual([{ ...old, verifier, repeats_token: true }]);
});

test('operator orders are kept in the ledger and read by a later agent', async () => {
  const orders = { nodeDraining: true, pools: [{ pool: 'text', draining: false, size: 4, configSize: 2, roll: null }] };
  expect(ledger.read().orders).toBeNull();
  await ledger.keepOrders(orders);
  expect(openLedger(state).read().orders).toEqual(orders);
  writeFileSync(join(state, 'orders.json'), 'torn');
  expect(ledger.read()).toMatchObject({ orders: null, setAside: [{ file: join(state, 'orders.json') }] });
  ledger.forgetOrders();
  await ledger.settled();
  expect(ledger.read().orders).toBeNull();
});

const openRoll: RollOrder = {
  ...{ id: 'roll-abcdefgh', phase: 'running', startedAtMs: systemClock.nowMs() - 5_000, endedAtMs: 0, total: 3 },
  ...{ old: ['text-0-abcdefgh', 'text-1-abcdefgh'], skipped: 0, failures: 1, maxFailures: 3, message: '' },
};
const rollOrders = (roll: RollOrder): Orders => ({
  nodeDraining: false,
  pools: [{ pool: 'text', draining: false, size: 2, configSize: 2, roll }],
});
const rollInFile = (patch: object) => {
  const roll = {
    ...{ id: 'roll-abcdefgh', phase: 'running', started_at_ms: 1, ended_at_ms: 0, total: 3, old: ['text-0-abcdefgh'] },
    ...{ skipped: 0, failures: 0, max_failures: 3, message: '', ...patch },
  };
  return { node_draining: false, pools: [{ pool: 'text', draining: false, size: 2, config_size: 2, roll }] };
};

test('a roll is kept with unix times, because the next agent may run after a reboot', async () => {
  await ledger.keepOrders(rollOrders(openRoll));
  expect(readFileSync(join(state, 'orders.json'), 'utf8')).toMatch(/"started_at_ms":1\d{12},/);
  const [found] = openLedger(state).read().orders?.pools ?? [];
  const { startedAtMs = 0, ...rest } = found?.roll ?? {};
  const { startedAtMs: begunAtMs, ...expected } = openRoll;
  expect(rest).toEqual(expected);
  expect(Math.abs(startedAtMs - begunAtMs)).toBeLessThan(100);
});

test('the message of an ended roll is kept up to its maximum length', async () => {
  const message = `3 replacements failed; the last one: ${'😀'.repeat(10_000)}`;
  await ledger.keepOrders(rollOrders({ ...openRoll, phase: 'failed', endedAtMs: systemClock.nowMs(), message }));
  const roll = ledger.read().orders?.pools[0]?.roll;
  expect(roll).toMatchObject({ phase: 'failed', message: expect.stringMatching(/^3 replacements failed/) });
  expect(roll?.message.length).toBeLessThanOrEqual(1_024);
});

test('orders written before rolls were kept can be read', () => {
  const pool = { pool: 'text', draining: true, size: 4, config_size: 2 };
  writeFileSync(join(state, 'orders.json'), seal('pitwarden-orders', 1, { node_draining: false, pools: [pool] }));
  expect(ledger.read().orders?.pools).toEqual([{ pool: 'text', draining: true, size: 4, configSize: 2, roll: null }]);
});

test.each([
  ['an unknown phase', rollInFile({ phase: 'odd' }), /^pools.0.roll.phase: /],
  ['an invalid id', rollInFile({ id: '__proto__' }), /^pools.0.roll.id: /],
  ['invalid worker ids', rollInFile({ old: ['../../x'] }), /^pools.0.roll.old.0: /],
  ['too many workers', rollInFile({ total: 2_000, old: Array(2_001).fill('t-0-abcdefgh') }), /^pools.0.roll.old: /],
  ['a total below the number of its workers', rollInFile({ total: 0 }), /^pools.0.roll.total: expected no fewer than/],
  ['a message that is too long', rollInFile({ message: 'x'.repeat(100_000) }), /^pools.0.roll.message: /],
  ['a failure count beyond 32 bits', rollInFile({ failures: 2 ** 40 }), /^pools.0.roll.failures: /],
  [
    'a pool size that is too large',
    { node_draining: false, pools: [{ pool: 'text', draining: false, size: 2e9, config_size: 2 }] },
    /^pools.0.size: /,
  ],
])('orders with %s are set aside with the reason', (_, value, why) => {
  writeFileSync(join(state, 'orders.json'), seal('pitwarden-orders', 1, value));
  const found = ledger.read();
  expect(found.orders).toBeNull();
  expect(found.setAside[0]?.why).toMatch(why);
});

test('orders that could not be written are retried with the next entry', async () => {
  const orders = { nodeDraining: true, pools: [] };
  mkdirSync(join(state, 'orders.json.new'));
  await expect(ledger.keepOrders(orders)).rejects.toThrow(/EISDIR/);
  rmSync(join(state, 'orders.json.new'), { recursive: true, force: true });
  await ledger.enter(entry);
  await ledger.settled();
  expect(ledger.read().orders).toEqual(orders);
});

test('orders given in quick succession are written once, in their newest state', async () => {
  const sized = (size: number): Orders => ({
    nodeDraining: false,
    pools: [{ pool: 'p', draining: false, size, configSize: 1, roll: null }],
  });
  for (let size = 2; size <= 900; size += 1) void ledger.keepOrders(sized(size));
  await ledger.ordersKept();
  expect(ledger.read().orders).toEqual(sized(900));
  void ledger.keepOrders(sized(2));
  ledger.forgetOrders();
  await ledger.settled();
  expect(ledger.read().orders).toBeNull();
});

test('writing an entry into a missing folder fails and leaves no partial file', async () => {
  rmSync(join(state, 'ledger'), { recursive: true });
  await expect(ledger.enter(entry)).rejects.toThrow(/ENOENT/);
});
