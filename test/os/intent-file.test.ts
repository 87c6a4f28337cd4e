import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Intent } from '../../src/domain/state.ts';
import { openIntentFile } from '../../src/os/storage/intent-file.ts';
import { seal } from '../../src/os/storage/sealed-file.ts';

let state: string;
let path: string;

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'pitwarden-intent-'));
  path = join(state, 'intent.json');
});

afterEach(() => rmSync(state, { recursive: true, force: true }));

const intent = (generation: number): Intent => ({
  clusterUid: 'c-1',
  epoch: 7,
  generation,
  controller: 'spiffe://test.example/controller/r1',
  released: false,
  drained: false,
  pools: [{ pool: 'text', size: generation, drained: true }],
});

const read = () => openIntentFile(state).read();

test('the next agent reads the last intent, and only the owner may read its file', async () => {
  expect(read()).toEqual({ intent: null, problem: '' });
  const file = openIntentFile(state);
  await file.store(intent(1));
  await file.store(intent(2));
  expect(read()).toEqual({ intent: intent(2), problem: '' });
  expect(statSync(path).mode & 0o077).toBe(0);
});

test('a writer that dies at any byte of a write leaves the earlier intent, or the new one, and the next write works', async () => {
  const file = openIntentFile(state);
  await file.store(intent(2));
  const next = readFileSync(path);
  await file.store(intent(1));
  const earlier = readFileSync(path);
  // The writes are: remove NEW, create NEW, write NEW, sync, rename NEW, sync the folder.
  for (let bytes = 0; bytes <= next.length; bytes += 1) {
    writeFileSync(path, earlier);
    writeFileSync(`${path}.new`, next.subarray(0, bytes));
    expect(read(), `${bytes} bytes`).toEqual({ intent: intent(1), problem: '' });
  }
  await openIntentFile(state).store(intent(3));
  expect(read()).toEqual({ intent: intent(3), problem: '' });
  expect(existsSync(`${path}.new`)).toBe(false);
  // The same for the first intent of all.
  rmSync(path);
  writeFileSync(`${path}.new`, next);
  expect(read()).toEqual({ intent: null, problem: '' });
});

test('a file that is torn or changed at any byte is set aside, with the reason, and is never read as another intent', async () => {
  await openIntentFile(state).store(intent(2));
  const whole = readFileSync(path);
  for (let at = 0; at < whole.length; at += 1) {
    for (const broken of [whole.subarray(0, at), flipped(whole, at)]) {
      writeFileSync(path, broken);
      const found = read();
      expect(found.intent, `byte ${at}`).toBeNull();
      expect(found.problem).toContain(`${path}: `);
      expect(existsSync(path)).toBe(false);
    }
  }
  expect(readdirSync(join(state, 'ledger-set-aside')).length).toBeLessThanOrEqual(50);
});

function flipped(whole: Buffer, at: number): Buffer {
  const changed = Buffer.from(whole);
  changed[at] = (changed[at] ?? 0) ^ 1;
  return changed;
}

const fields = {
  cluster_uid: 'c',
  epoch: 1,
  generation: 1,
  controller: 'r',
  released: false,
  drained: false,
  pools: [{ pool: 'p', size: 1, drained: false }],
};

test.each([
  ['cluster_uid', ''],
  ['epoch', 0],
  ['epoch', 1.5],
  ['generation', -1],
  ['controller', null],
  ['released', 'no'],
  ['drained', 1],
  ['pools', {}],
  ['pools', [{ pool: 'p', size: 1_001, drained: false }]],
  ['pools', [{ pool: 'p', size: 1 }]],
])('an intact file with %s %j is set aside', (field, value) => {
  writeFileSync(path, seal('pitwarden-intent', 1, { ...fields, [field]: value }));
  const { intent, problem } = read();
  expect(intent).toBeNull();
  expect(problem).toContain(field);
});

test('a write that cannot be made is reported, and the next one works', async () => {
  const file = openIntentFile(state);
  mkdirSync(join(path, 'in-the-way'), { recursive: true });
  await expect(file.store(intent(1))).rejects.toThrow(/EISDIR|ENOTEMPTY|EEXIST/);
  expect(readdirSync(state)).toEqual(['intent.json']);
  rmSync(path, { recursive: true });
  await file.store(intent(2));
  expect(read().intent).toEqual(intent(2));
});

test('while a write waits for the disk, another one is refused at once', async () => {
  const file = openIntentFile(state);
  const first = file.store(intent(1));
  await expect(file.store(intent(2))).rejects.toThrow('an earlier write still waits for the disk');
  await first;
  expect(read().intent).toEqual(intent(1));
});
