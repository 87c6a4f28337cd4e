import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { memoryBytes, memorySource } from '../../src/domain/policies/memory.ts';
import { cgroupMemory } from '../../src/os/cgroup/cgroup.ts';
import type { ProcessIdentity } from '../../src/os/process/identity.ts';
import { sampleTree, sumPss } from '../../src/os/process/memory.ts';
import { sharedProcessTable } from '../../src/os/process/process-table.ts';
import { sweepTree } from '../../src/os/process/tree.ts';
import { shellWorker } from './shell-worker.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
const python = new URL('../../.venv/bin/python', import.meta.url).pathname;
const mib = 2 ** 20;
const workerId = 'w-memory';
let identity: ProcessIdentity | undefined;

afterEach(async () => {
  if (identity !== undefined) await sweepTree({ identity, workerId }, { timeoutMs: 10_000 });
  identity = undefined;
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Runs a Python program, and measures its tree once it reports that it is ready. */
async function measured(program: string): Promise<{ rssBytes: number; pssBytes: number }> {
  const file = join(dir, 'program.py');
  writeFileSync(file, `import os, sys, time\n${program}\nprint('ready', flush=True)\ntime.sleep(1000)\n`);
  const worker = await shellWorker(dir, `exec ${python} ${file}`, { workerId });
  identity = worker.identity;
  await worker.line(1);
  // Process tables are shared for a moment; an earlier one does not count.
  const before = await sharedProcessTable();
  while ((await sharedProcessTable()) === before) await new Promise((resolve) => setImmediate(resolve));
  const sample = await sampleTree({ identity, workerId }, { readsPss: () => true });
  if (sample === undefined) throw new Error('expected a sample');
  return sample;
}

/** Writes to each page, so that it is resident. */
const touched = (mibibytes: number) => `bytearray(b'x' * (${mibibytes} << 20))`;

test('the memory of a child process is included', async () => {
  const { pssBytes } = await measured(`
reader, writer = os.pipe()
if os.fork() == 0:
    block = ${touched(100)}
    os.write(writer, b'.')
    time.sleep(1000)
os.read(reader, 1)`);
  expect(pssBytes).toBeGreaterThan(100 * mib);
});

test('memory that was freed is not included', async () => {
  const { pssBytes, rssBytes } = await measured(`block = ${touched(300)}\ndel block`);
  expect(pssBytes).toBeLessThan(60 * mib);
  expect(rssBytes).toBeLessThan(60 * mib);
});

test('memory that a forked child shares is counted once', async () => {
  const { pssBytes, rssBytes } = await measured(`block = ${touched(300)}\nif os.fork() == 0: time.sleep(1000)`);
  expect(rssBytes).toBeGreaterThan(600 * mib);
  expect(pssBytes).toBeGreaterThan(300 * mib);
  expect(pssBytes).toBeLessThan(340 * mib);
});

describe('the best available memory measure is used:', () => {
  test.each([
    { cgroupBytes: 3, pssBytes: 2, rssBytes: 1, source: 'cgroup', bytes: 3 },
    { cgroupBytes: 0, pssBytes: 2, rssBytes: 1, source: 'pss', bytes: 2 },
    { cgroupBytes: 0, pssBytes: 0, rssBytes: 1, source: 'rss', bytes: 1 },
  ])('$source', ({ source, bytes, ...sample }) => {
    expect([memorySource(sample), memoryBytes(sample)]).toEqual([source, bytes]);
  });

  test("a cgroup's memory excludes reclaimable cache, and is 0 without a controller", () => {
    const cgroup = join(dir, 'cgroup');
    mkdirSync(cgroup);
    expect(cgroupMemory(cgroup)).toBe(0);
    writeFileSync(join(cgroup, 'memory.current'), '5000\n');
    writeFileSync(join(cgroup, 'memory.stat'), 'anon 3000\nfile 2000\nactive_file 800\ninactive_file 1200\n');
    expect(cgroupMemory(cgroup)).toBe(3800);
  });
});

test('a tree of many processes is measured with only a few files open at a time', async () => {
  const openFiles = (): number => readdirSync('/proc/self/fd').length;
  const before = openFiles();
  let most = 0;
  const rows = Array.from({ length: 300 }, () => ({ pid: process.pid, rssBytes: 1 }));
  let isDone = false;
  const measuring = sumPss(rows).finally(() => {
    isDone = true;
  });
  while (!isDone) {
    most = Math.max(most, openFiles());
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(await measuring).toBeGreaterThan(300 * mib);
  expect(most - before).toBeLessThan(16);
});
