import { execFileSync, spawn } from 'node:child_process';
import { lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { stacksMaxBytes } from '../../src/domain/text-bounds.ts';
import { adoptOutput } from '../../src/os/output/output.ts';
import { openOutputDirectory } from '../../src/os/output/output-directory.ts';
import { createBegunMark, openBegunMark } from '../../src/os/process/begun-mark.ts';
import { gatherEvidence } from '../../src/os/process/evidence.ts';
import { startGuardian } from '../../src/os/process/guardian.ts';
import { identify } from '../../src/os/process/identity.ts';
import { lockDirectory, lockHolder } from '../../src/os/storage/agent-lock.ts';
import { writeSealed } from '../../src/os/storage/sealed-file.ts';

const root = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** What a worker can put in place of a file that the agent reads. */
const replacements: Readonly<Record<string, (path: string) => void>> = {
  'a FIFO': (path) => {
    execFileSync('mkfifo', [path]);
    // Opens the FIFO for writing after a second, so that a blocked test fails instead of never ending.
    const writer = spawn('sh', ['-c', 'sleep 1; exec 3> "$0"', path], { stdio: 'ignore' });
    onTestFinished(() => void writer.kill('SIGKILL'));
  },
  'a folder': (path) => mkdirSync(path),
  'a link to a device without an end': (path) => symlinkSync('/dev/zero', path),
  'a file that is too large': (path) => writeFileSync(path, Buffer.alloc(5 * 1024 * 1024, '0')),
};

/** How long `work` blocked everything else, in ms. */
function heldUpMs(work: () => unknown): number {
  const startedAtMs = performance.now();
  work();
  return performance.now() - startedAtMs;
}

for (const [what, replace] of Object.entries(replacements)) {
  const place = (name: string): { folder: string; path: string } => {
    const folder = mkdtempSync(join(root, 'replaced-'));
    const path = join(folder, name);
    replace(path);
    return { folder, path };
  };

  test(`${what} in place of a worker's begun mark reads as unknown and does not block`, () => {
    const { path } = place('w.begun');
    const mark = openBegunMark(path);
    expect(heldUpMs(() => expect(mark.read()).toBeNull())).toBeLessThan(500);
  });

  test(`${what} in place of a worker's stacks file does not block`, async () => {
    const { path } = place('w.stacks');
    const worker = spawn('sh', ['-c', 'trap "" 44; while :; do sleep 10; done'], { stdio: 'ignore' });
    onTestFinished(() => void worker.kill('SIGKILL'));
    const identity = identify(worker.pid ?? 0);
    if (identity === undefined) throw new Error('sh: expected a process');
    const startedAtMs = performance.now();
    const { stacks } = await gatherEvidence(identity, path);
    expect(stacks.length).toBeLessThanOrEqual(stacksMaxBytes);
    expect(performance.now() - startedAtMs).toBeLessThan(900);
  });

  test(`${what} in place of the lock is reported at once`, () => {
    const { folder, path } = place('agent.lock');
    const message = /expected a regular file|expected at most|EISDIR|ELOOP/;
    expect(heldUpMs(() => expect(() => lockDirectory(folder)).toThrow(message))).toBeLessThan(500);
    expect(() => lockDirectory(folder)).toThrow(path);
    expect(lockHolder(folder)).toBe('nobody or another');
  });

  test(`${what} in place of the guardian's record does not block the start`, () => {
    const { folder } = place('guardian.json');
    expect(heldUpMs(() => startGuardian({ directory: folder, log: { warn: () => undefined } }).close())).toBeLessThan(
      900,
    );
  });

  test(`${what} in place of a worker's output does not keep the next agent from adopting the worker`, async () => {
    for (const name of ['w.out', 'w.err', 'w.read']) {
      const { folder } = place(name);
      const directory = openOutputDirectory(folder, { onProblem: () => undefined });
      onTestFinished(() => directory.close());
      const told = { nowMs: () => performance.now(), onLine: () => undefined };
      const output = adoptOutput(directory, 'w', { ...told, onDropped: () => undefined, onSkipped: () => undefined });
      expect(output.lastLines().length).toBeLessThan(30);
      await output.finish();
      output.remove();
    }
  });
}

test('a ledger entry is written to a new file, whatever was at the path of the temporary file', async () => {
  const folder = mkdtempSync(join(root, 'sealed-'));
  const victim = join(folder, 'victim');
  writeFileSync(victim, 'precious');
  const beside = join(folder, 'orders.json.new');
  const ways = [
    () => symlinkSync(victim, beside),
    () => execFileSync('mkfifo', [beside]),
    () => writeFileSync(beside, 'of a writer that died'),
  ];
  for (const place of ways) {
    place();
    await writeSealed(join(folder, 'orders.json'), 'kind', 1, { is: 'written' });
    expect(readFileSync(victim, 'utf8')).toBe('precious');
    expect(readFileSync(join(folder, 'orders.json'), 'utf8')).toContain('{"is":"written"}');
    expect(lstatSync(join(folder, 'orders.json')).isFile()).toBe(true);
  }
});

test('a begun mark that cannot be written leaves no file behind', () => {
  const path = join(mkdtempSync(join(root, 'full-')), 'w.begun');
  symlinkSync('/dev/full', path);
  expect(() => createBegunMark(path)).toThrow('ENOSPC');
  expect(lstatSync(path, { throwIfNoEntry: false })).toBeUndefined();
});
