import type { Stats } from 'node:fs';
import { constants } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { lstat, mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder } from './durable-file.ts';

/**
 * The files of a ring: `0000000001.log` and so on, mode 0600, which only grow. When a file is full the next one is begun, and the
 * oldest ones are removed. Calls must not overlap.
 */
export interface RingSegments {
  /** Appends lines. Throws `AppendError`; the next call then opens the file again, or begins another. */
  append(lines: readonly Buffer[]): Promise<void>;
  /** Reads a part of a segment: empty at its end. Undefined: it is gone, or no file of ours. */
  read(number: number, offset: number, maxBytes: number): Promise<Buffer | undefined>;
  /** The segments by number, the oldest first. */
  numbers(): Promise<readonly number[]>;
  /** Closes the open file. Never rejects. */
  close(): Promise<void>;
}

export interface RingSegmentsOptions {
  /** No segment grows beyond this. Larger files are none of ours, and are removed. */
  readonly segmentBytes: number;
  /** All segments together take no more than this. */
  readonly maxBytes: number;
  /** Whether appended lines survive a power failure: each `append` then ends with a sync. */
  readonly durable: boolean;
  /** Called for files in the folder that are no regular files of this user. They are left alone. */
  onForeign(path: string): void;
}

/** Not all lines were appended. */
export class AppendError extends Error {
  override readonly name = 'AppendError';
  /** So many lines are whole in the file, but maybe not synced. */
  readonly written: number;
  constructor(cause: unknown, written: number) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.written = written;
  }
}

interface Segment {
  readonly number: number;
  bytes: number;
}

const namePattern = /^(\d{10})\.log$/;
/** Higher numbers are no segments: there must be room for the next ones. */
const numberMax = 9_000_000_000;

/** Segments are short only where an agent could not go on with its predecessor's. */
const segmentsMax = 64;

/** O_NONBLOCK: a FIFO that took the file's place must not block a thread. */
const safely = constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY;

interface Found {
  /** The oldest first. */
  readonly segments: Segment[];
  /** The highest number of a name in the folder, whatever the file is. */
  newest: number;
}

export function openRingSegments(folder: string, options: RingSegmentsOptions): RingSegments {
  const { segmentBytes, maxBytes, durable } = options;
  let found: Promise<Found> | null = null;
  let current: { readonly handle: FileHandle; readonly segment: Segment } | null = null;
  const pathOf = (number: number): string => join(folder, `${String(number).padStart(10, '0')}.log`);
  const look = (): Promise<Found> => {
    found ??= findSegments(folder, options).catch((error) => {
      found = null;
      throw error;
    });
    return found;
  };

  const close = async (): Promise<void> => {
    const handle = current?.handle;
    current = null;
    await handle?.close().catch(() => undefined);
  };

  /** Goes on with the newest segment if it has room and can be written. */
  const reopen = async ({ segments }: Found, bytes: number): Promise<boolean> => {
    const segment = segments.at(-1);
    if (segment === undefined || segment.bytes + bytes > segmentBytes) return false;
    const handle = await openOwn(pathOf(segment.number), constants.O_WRONLY | constants.O_APPEND).catch(
      () => undefined,
    );
    if (handle === undefined) return false;
    current = { handle, segment };
    // The file may end with a torn line, which must not swallow the next one.
    if (segment.bytes > 0) await handle.write('\n');
    return true;
  };

  const begin = async (all: Found): Promise<void> => {
    const number = all.newest + 1;
    const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_EXCL | safely;
    const handle = await open(pathOf(number), flags, 0o600);
    const segment = { number, bytes: 0 };
    current = { handle, segment };
    all.segments.push(segment);
    all.newest = number;
    if (durable) await syncFolder(folder);
    await dropOldest(all.segments);
  };

  /** The newest segment may still grow to its full size. */
  const dropOldest = async (segments: Segment[]): Promise<void> => {
    const isTooMuch = (): boolean =>
      segments.reduce((sum, { bytes }) => sum + bytes, segmentBytes) > maxBytes || segments.length > segmentsMax;
    while (segments.length > 1 && isTooMuch()) await rm(pathOf(segments.shift()?.number ?? 0), { force: true });
  };

  const openFor = async (bytes: number): Promise<NonNullable<typeof current>> => {
    if (current !== null && current.segment.bytes + bytes > segmentBytes) await close();
    if (current === null) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const all = await look();
      if (!(await reopen(all, bytes + 1))) await begin(all);
    }
    if (current === null) throw new Error(`${folder}: expected an open segment, got none`);
    return current;
  };

  const write = async (bytes: Buffer, progress: { bytes: number }): Promise<void> => {
    const { handle, segment } = await openFor(bytes.length);
    while (progress.bytes < bytes.length) {
      const { bytesWritten } = await handle.write(bytes, progress.bytes);
      progress.bytes += bytesWritten;
    }
    if (durable) await handle.datasync();
    const { size, nlink } = await handle.stat();
    segment.bytes = size;
    if (nlink > 0) return;
    progress.bytes = 0;
    throw new Error(`${pathOf(segment.number)}: expected the file to stay, but it was removed`);
  };

  return {
    append: async (lines) => {
      const progress = { bytes: 0 };
      try {
        await write(Buffer.concat(lines), progress);
      } catch (error) {
        await close();
        // The folder may have changed.
        found = null;
        throw new AppendError(error, wholeLines(lines, progress.bytes));
      }
    },
    read: async (number, offset, maxBytes) => {
      const handle = await openOwn(pathOf(number), constants.O_RDONLY).catch(() => undefined);
      if (handle === undefined) return undefined;
      try {
        const bytes = Buffer.allocUnsafe(Math.max(0, Math.min(maxBytes, segmentBytes - offset)));
        const { bytesRead } = await handle.read(bytes, 0, bytes.length, offset);
        return bytes.subarray(0, bytesRead);
      } finally {
        await handle.close();
      }
    },
    close,
    numbers: async () => (await look()).segments.map(({ number }) => number),
  };
}

function wholeLines(lines: readonly Buffer[], bytes: number): number {
  let left = bytes;
  return lines.filter((line) => {
    left -= line.length;
    return left >= 0;
  }).length;
}

/** Throws if the path is no regular file of this user. */
async function openOwn(path: string, flags: number): Promise<FileHandle> {
  const handle = await open(path, flags | safely);
  const stat = await handle.stat().catch(() => undefined);
  if (stat !== undefined && isOwn(stat)) return handle;
  await handle.close();
  throw new Error(`${path}: expected a regular file of this user, got something else`);
}

/** A second name of a file could be one that others may open. */
function isOwn(stat: Stats): boolean {
  return stat.isFile() && stat.nlink <= 1 && stat.uid === (process.getuid?.() ?? stat.uid);
}

async function findSegments(folder: string, { segmentBytes, onForeign }: RingSegmentsOptions): Promise<Found> {
  const segments: Segment[] = [];
  let newest = 0;
  for (const name of (await namesIn(folder)).sort()) {
    const path = join(folder, name);
    const number = Number(namePattern.exec(name)?.[1] ?? numberMax);
    const stat = number < numberMax ? await lstat(path).catch(() => undefined) : undefined;
    if (number < numberMax) newest = Math.max(newest, number);
    if (stat === undefined || !isOwn(stat)) onForeign(path);
    else if (stat.size > segmentBytes) await rm(path, { force: true });
    else segments.push({ number, bytes: stat.size });
  }
  return { segments, newest };
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    // Nothing was written yet, or the folder was removed.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
