import { execFileSync, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test, vi } from 'vitest';
import type { OutputReader } from '../../src/os/output/output.ts';
import { adoptOutput, createOutput } from '../../src/os/output/output.ts';
import { openOutputDirectory } from '../../src/os/output/output-directory.ts';
import { backlogMaxBytes, followFile } from '../../src/os/output/output-file.ts';
import type { OutputSpace } from '../../src/os/output/output-space.ts';
import { needs } from '../needs.ts';
import { shellWorker } from './shell-worker.ts';

const root = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const mebibyte = 1024 * 1024;

/** An agent's view of one directory; `die` leaves it like a kill. */
function openScene(path = mkdtempSync(join(root, 'output-'))) {
  const troubles: string[] = [];
  const directory = openOutputDirectory(path, { onProblem: (message) => troubles.push(message) });
  onTestFinished(() => directory.close());
  const seen = { lines: [] as string[], skipped: 0 };
  const options = {
    nowMs: () => performance.now(),
    onLine: ({ stream, text }: { stream: string; text: string }) =>
      seen.lines.push(stream === 'stderr' ? `! ${text}` : text),
    onDropped: () => undefined,
    onSkipped: (bytes: number) => {
      seen.skipped += bytes;
    },
  };
  return {
    path,
    directory,
    troubles,
    seen,
    out: join(path, 'w.out'),
    err: join(path, 'w.err'),
    create: () => createOutput(directory, 'w', options).reader,
    adopt: () => adoptOutput(directory, 'w', options),
    position: () => Number(readFileSync(join(path, 'w.read')).readBigUInt64LE(0)),
    die: () => directory.close(),
  };
}

/** Reads everything that is there now. */
function readAll(reader: OutputReader, seen: { readonly lines: readonly string[] }, last: string): void {
  for (let looks = 0; seen.lines.at(-1) !== last; looks += 1) {
    expect(looks).toBeLessThan(100);
    reader.lastLines();
  }
}

function allocated(path: string): number {
  return statSync(path).blocks * 512;
}

/** Numbered lines of 8 KiB each, `bytes` in total. */
function manyLines(bytes: number, from = 0): Buffer {
  const lines: string[] = [];
  for (let line = from; (line - from) * 8192 < bytes; line += 1) lines.push(`${line} `.padEnd(8191, 'x'));
  return Buffer.from(`${lines.join('\n')}\n`);
}

const number = (line: string | undefined): number => Number(line?.split(' ')[0]);

test('lines of both streams are reported as they are written', async () => {
  const { create, out, err, seen } = openScene();
  create();
  appendFileSync(out, 'one\ntwo\nthr');
  await vi.waitFor(() => expect(seen.lines).toEqual(['one', 'two']));
  appendFileSync(err, 'oh\n');
  await vi.waitFor(() => expect(seen.lines).toEqual(['one', 'two', '! oh']));
  appendFileSync(out, 'ee\n');
  await vi.waitFor(() => expect(seen.lines.at(-1)).toBe('three'));
});

test('a character that is written in two pieces is read as one', () => {
  const { create, out, seen } = openScene();
  const reader = create();
  const bytes = Buffer.from('a ☃\n');
  for (const byte of bytes) {
    appendFileSync(out, Buffer.of(byte));
    reader.lastLines();
  }
  expect(seen.lines).toEqual(['a ☃']);
});

test('at the end all output is read, including an unfinished last line, and the files are deleted', async () => {
  const { create, out, seen, path } = openScene();
  const reader = create();
  const written = manyLines(4 * mebibyte);
  appendFileSync(out, Buffer.concat([written, Buffer.from('the end')]));
  await reader.finish();
  expect(reader.lastLines().at(-1)).toBe('the end');
  expect(seen.lines).toHaveLength(written.length / 8192 + 1);
  expect(readdirSync(path).sort()).toEqual(['w.err', 'w.out', 'w.read']);
  reader.remove();
  expect(readdirSync(path)).toEqual([]);
});

test('only the owner can read the output files', () => {
  const { create, path } = openScene();
  create();
  for (const name of readdirSync(path)) expect(statSync(join(path, name)).mode & 0o777, name).toBe(0o600);
});

test('a descendant that writes forever does not delay the end', async () => {
  const cwd = mkdtempSync(join(root, 'w-'));
  const endless = "sh -c 'echo $$; while :; do echo more; done' &";
  const { spawned, line } = await shellWorker(cwd, endless, { workerId: 'w' });
  const descendant = Number(await line(1));
  onTestFinished(() => void process.kill(descendant, 'SIGKILL'));
  expect(await spawned.exited).toEqual({ code: 0, signal: null });
  spawned.close();
  expect(readdirSync(join(cwd, 'output'))).toEqual([]);
});

const mayPunch = (() => {
  const probe = join(root, 'probe');
  writeFileSync(probe, Buffer.alloc(8192, 'x'));
  return spawnSync('fallocate', ['--punch-hole', '--offset', '0', '--length', '4096', probe]).status === 0;
})();

test('holes are punched where output was read, and no line is lost', needs('hole punching', mayPunch), async () => {
  const { create, out, seen, troubles } = openScene();
  const reader = create();
  const pieces = 6;
  for (let piece = 0; piece < pieces; piece += 1) {
    const written = manyLines(mebibyte, piece * 128);
    appendFileSync(out, written);
    readAll(reader, seen, written.toString().trimEnd().split('\n').at(-1) ?? '');
  }
  await vi.waitFor(
    () => {
      reader.lastLines();
      expect(allocated(out)).toBeLessThanOrEqual(mebibyte);
    },
    { timeout: 10_000 },
  );
  expect(statSync(out).size).toBe(pieces * mebibyte);
  expect(seen.lines.map(number)).toEqual(Array.from({ length: pieces * 128 }, (_, index) => index));
  expect(seen.skipped).toBe(0);
  expect(troubles).toEqual([]);
});

test('if holes cannot be punched, a file is truncated once all of it was read, and that is reported once', async () => {
  const { create, out, seen, troubles, position } = openScene();
  const reader = create();
  vi.stubEnv('PATH', join(root, 'nowhere'));
  onTestFinished(() => void vi.unstubAllEnvs());
  for (let round = 0; round < 3; round += 1) {
    const written = manyLines(2 * mebibyte, round * 256);
    appendFileSync(out, written);
    await vi.waitFor(() => {
      reader.lastLines();
      expect(statSync(out).size).toBe(0);
    });
    expect(position()).toBe(0);
  }
  expect(seen.lines.map(number)).toEqual(Array.from({ length: 3 * 256 }, (_, index) => index));
  expect(troubles).toEqual([expect.stringContaining('fallocate')]);
  // More than the backlog limit, so the oldest part is skipped.
  appendFileSync(out, manyLines(5 * backlogMaxBytes));
  await vi.waitFor(() => {
    reader.lastLines();
    expect(statSync(out).size).toBe(0);
  });
  appendFileSync(out, 'after\n');
  readAll(reader, seen, 'after');
  expect(troubles).toHaveLength(1);
});

test('the newest 8 MiB of a flood are read, and the skipped bytes are counted exactly', async () => {
  const { create, out, seen } = openScene();
  const reader = create();
  appendFileSync(out, 'before the flood, without an end');
  reader.lastLines();
  const flood = manyLines(24 * mebibyte);
  appendFileSync(out, flood);
  await reader.finish();
  expect(number(seen.lines.at(-1))).toBe(flood.length / 8192 - 1);
  expect(seen.lines[0]).toBe('before the flood, without an end');
  const read = seen.lines.slice(1).reduce((bytes, line) => bytes + line.length + 1, 0);
  expect(read).toBeGreaterThan(backlogMaxBytes - 8192);
  expect(read).toBeLessThanOrEqual(backlogMaxBytes);
  expect(seen.skipped).toBe(flood.length - read);
});

test('the next agent continues at the beginning of the line where the last one stopped', async () => {
  const first = openScene();
  const reader = first.create();
  appendFileSync(first.out, 'a\nb\nhal');
  appendFileSync(first.err, 'x\n');
  reader.lastLines();
  expect(first.position()).toBe(4);
  first.die();
  appendFileSync(first.out, 'f\nc\n');
  const next = openScene(first.path);
  next.adopt();
  await vi.waitFor(() => expect(next.seen.lines).toEqual(['half', 'c']));
  appendFileSync(next.err, 'y\n');
  await vi.waitFor(() => expect(next.seen.lines.at(-1)).toBe('! y'));
  expect(next.seen.skipped).toBe(0);
});

test('missing files are empty, and a torn position counts as none', async () => {
  const scene = openScene();
  const reader = scene.adopt();
  await reader.finish();
  expect([reader.lastLines(), scene.seen.skipped]).toEqual([[], 0]);
  scene.die();
  writeFileSync(scene.out, 'all of it\n');
  writeFileSync(join(scene.path, 'w.read'), 'torn');
  const next = openScene(scene.path);
  expect(next.adopt().lastLines()).toEqual(['all of it']);
});

test.each([
  ['of gigabytes', 5 * 1024 * mebibyte],
  ['smaller than the backlog limit', mebibyte + 1000],
])('a leading hole %s is skipped, together with the line that it cut', (_, bytes) => {
  const { out, adopt, seen, path } = openScene();
  writeFileSync(out, '');
  truncateSync(out, bytes);
  appendFileSync(out, 'orn\nwhole\n');
  const reader = adopt();
  const startedAtMs = performance.now();
  readAll(reader, seen, 'whole');
  expect(performance.now() - startedAtMs).toBeLessThan(5_000);
  expect(seen.lines).toEqual(['whole']);
  reader.remove();
  expect(seen.skipped).toBe(bytes + 'orn\n'.length);
  expect(existsSync(path)).toBe(true);
});

// Runtime directories are usually on a tmpfs, which allows sizes up to 2^63.
const roomy = mkdtempSync('/dev/shm/pw-');
afterAll(() => rmSync(roomy, { recursive: true, force: true }));
const mayBeHuge = spawnSync('truncate', ['-s', '9223372036854775807', join(roomy, 'probe')]).status === 0;

test('a file size beyond the largest safe integer does not stop reading', needs('huge files', mayBeHuge), () => {
  const { create, out, seen, troubles } = openScene(mkdtempSync(join(roomy, 'output-')));
  const reader = create();
  appendFileSync(out, 'before\n');
  expect(reader.lastLines()).toEqual(['before']);
  spawnSync('truncate', ['-s', '9223372036854775000', out]);
  reader.lastLines();
  appendFileSync(out, 'after\n');
  readAll(reader, seen, 'after');
  expect(seen.lines).toEqual(['before', 'after']);
  expect(seen.skipped).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
  expect(troubles).toEqual([]);
});

test('a file that someone truncated is read from its beginning', () => {
  const { create, out, seen } = openScene();
  const reader = create();
  appendFileSync(out, 'a long line before\n');
  reader.lastLines();
  writeFileSync(out, 'new\n');
  reader.lastLines();
  expect(seen.lines).toEqual(['a long line before', 'new']);
});

test('if the output directory is removed, a running worker is still read, and the next worker gets a new directory', async () => {
  const { create, out, seen, path, directory } = openScene();
  create();
  const worker = openSync(out, 'a');
  rmSync(path, { recursive: true });
  writeSync(worker, 'still here\n');
  await vi.waitFor(() => expect(seen.lines).toEqual(['still here']), { timeout: 5_000 });
  const lines: string[] = [];
  const options = {
    nowMs: () => performance.now(),
    onLine: ({ text }: { text: string }) => lines.push(text),
    onDropped: () => undefined,
    onSkipped: () => undefined,
  };
  const { stdout } = createOutput(directory, 'v', options);
  writeSync(stdout, 'again\n');
  await vi.waitFor(() => expect(lines).toEqual(['again']), { timeout: 5_000 });
});

/** A file system of 64 KiB; undefined if it cannot be mounted here. */
function mountSmall(): string | undefined {
  const path = join(root, 'small');
  mkdirSync(path);
  return spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', path]).status === 0 ? path : undefined;
}

const small = mountSmall();
afterAll(() => {
  if (small !== undefined) execFileSync('umount', ['--lazy', small]);
});

test(
  'on a full disk lines are still read, and the position is saved once there is room',
  needs('mounts', small !== undefined),
  () => {
    const { create, out, seen, position, path } = openScene(small);
    const filler = openSync(join(path, 'filler'), 'w');
    expect(() => {
      for (;;) writeSync(filler, Buffer.alloc(4096, 'x'));
    }).toThrow('ENOSPC');
    const reader = create();
    expect(statSync(join(path, 'w.read')).size).toBe(0);
    ftruncateSync(filler, 60 * 1024);
    appendFileSync(out, 'a line\n');
    reader.lastLines();
    expect(seen.lines).toEqual(['a line']);
    expect(statSync(join(path, 'w.read')).size).toBe(0);
    ftruncateSync(filler, 0);
    appendFileSync(out, 'and one more\n');
    reader.lastLines();
    expect(position()).toBe('a line\nand one more\n'.length);
  },
);

/** Punching a hole never ends, as while a gigabyte is written each second. */
const noSpace: OutputSpace = { mayPunch: () => true, punch: () => new Promise<boolean>(() => undefined) };

/**
 * Reads a file like the agent does while a worker writes. `onLine` may write to the file, as a worker may at any
 * moment.
 */
function followAlone(name: string, space: OutputSpace, onLine: (fd: number, line: string) => void = () => undefined) {
  const fd = openSync(join(root, name), 'a+');
  const seen = { lines: [] as string[], skipped: 0 };
  const file = followFile(fd, {
    position: 0,
    space,
    nowMs: () => performance.now(),
    onData: (data) => {
      for (const line of data.toString().split('\n').filter(Boolean)) {
        seen.lines.push(line);
        onLine(fd, line);
      }
    },
    onSkipped: (bytes) => {
      seen.skipped += bytes;
    },
  });
  return { fd, file, seen };
}

test('output that a worker writes while its file is truncated is read', () => {
  // Two pieces and the last line; each is written while the one before it is handed on.
  const later = ['a'.repeat(200_000), 'b'.repeat(200_000), 'the last words'];
  const { fd, file, seen } = followAlone('emptied.out', noSpace, (to, line) => {
    const isFirst = seen.lines.length === 1;
    const next = isFirst || /^[ab]+$/.test(line) ? later.shift() : undefined;
    if (next !== undefined) writeSync(to, `${next}\n`);
  });
  writeSync(fd, manyLines(65 * mebibyte));
  const buffer = Buffer.alloc(128 * 1024);
  while (file.read(buffer));
  while (file.read(buffer));
  expect(seen.lines.at(-1)).toBe('the last words');
});

test('when a file reaches its maximum size, its newest lines are read before it is truncated', () => {
  const { fd, file, seen } = followAlone('cut-off.out', { ...noSpace, mayPunch: () => false });
  writeSync(fd, Buffer.concat([manyLines(33 * mebibyte), Buffer.from('the last words\n')]));
  const buffer = Buffer.alloc(128 * 1024);
  while (file.read(buffer));
  expect(seen.lines.at(-1)).toBe('the last words');
  expect(statSync(join(root, 'cut-off.out')).size).toBe(0);
});

test('after a worker has ended, its full backlog is read, however large its file is', async () => {
  const { create, out, seen } = openScene();
  const reader = create();
  const written = manyLines(80 * mebibyte);
  appendFileSync(out, written);
  await reader.finish();
  expect(seen.lines).toHaveLength(backlogMaxBytes / 8192);
  expect(number(seen.lines.at(-1))).toBe(written.length / 8192 - 1);
});

test('a file that grows faster than holes can be punched is truncated, and its newest lines are read', () => {
  const path = join(root, 'flood.out');
  const { fd, file, seen } = followAlone('flood.out', noSpace);
  const buffer = Buffer.alloc(128 * 1024);
  const piece = Buffer.from(`${'x'.repeat(1023)}\n`.repeat(16 * 1024));
  let most = 0;
  for (let count = 0; count < 2048 / 16; count += 1) {
    writeSync(fd, piece);
    most = Math.max(most, allocated(path));
    writeSync(fd, `line ${count}\n`);
    file.read(buffer);
  }
  // The maximum size of the file, plus what was written since the last look.
  expect(most).toBeLessThanOrEqual((64 + 16 + 1) * mebibyte);
  expect(seen.skipped).toBeGreaterThan(1800 * mebibyte);
  while (file.read(buffer));
  expect(seen.lines.at(-1)).toBe('line 127');
  expect(new Set(seen.lines.map((line) => line.length))).toEqual(new Set([1023, 6, 7, 8]));
});
