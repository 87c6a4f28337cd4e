import { closeSync, constants, existsSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isGoneError } from '../process/proc-error.ts';
import { removeFile } from '../storage/remove-file.ts';
import type { WorkerLine } from './log-lines.ts';
import { createLogLines } from './log-lines.ts';
import type { OutputDirectory } from './output-directory.ts';
import type { OutputFile } from './output-file.ts';
import { backlogMaxBytes, followFile, pieceBytes } from './output-file.ts';

/*
 * Workers write to files: they are not stalled or killed by an agent that is slow or gone, and the next one goes on reading
 * where this one stopped. Of worker ID there are, in one directory, ID.out, ID.err, and ID.read: how far each was handed
 * on, as two little-endian 64-bit numbers.
 */

export interface OutputOptions {
  nowMs(): number;
  onLine(line: WorkerLine): void;
  /** So many lines since the last report were not kept. */
  onDropped(count: number): void;
  /** So many bytes since the last report, of both streams, were not read: too much was waiting, or it is gone. */
  onSkipped(bytes: number): void;
}

export interface OutputReader {
  /** The end of what it wrote until now. */
  lastLines(): readonly string[];
  /** At the end of its process: reads what is left. What its descendants write is followed on. */
  finish(): Promise<void>;
  /** Takes the files away. */
  remove(): void;
}

export interface CreatedOutput {
  readonly reader: OutputReader;
  /** Descriptors for the worker; the reader's own, open until `remove`. */
  readonly stdout: number;
  readonly stderr: number;
}

const reportEveryMs = 1_000;
const positionBytes = BigUint64Array.BYTES_PER_ELEMENT;

/** Makes the files of a worker that is about to start; throws where they cannot be made, and then leaves none. */
export function createOutput(directory: OutputDirectory, workerId: string, options: OutputOptions): CreatedOutput {
  const { O_RDWR, O_APPEND, O_CREAT, O_TRUNC, O_NOFOLLOW } = constants;
  const paths = pathsOf(directory.path, workerId);
  const opened: number[] = [];
  const open = (path: string, flags = 0): number => {
    const fd = openSync(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | flags, 0o600);
    opened.push(fd);
    return fd;
  };
  try {
    if (!existsSync(directory.path)) mkdirSync(directory.path, { mode: 0o700 });
    // Shared with the worker: here they are read at positions of our own, which moves nothing there.
    const stdout = open(paths.stdout, O_APPEND);
    const stderr = open(paths.stderr, O_APPEND);
    const reader = follow(directory, workerId, { stdout, stderr, read: open(paths.read) }, options);
    return { reader, stdout, stderr };
  } catch (error) {
    for (const fd of opened) closeSync(fd);
    removeFiles(paths);
    throw error;
  }
}

/** Goes on reading what a worker writes that an earlier agent started. Files that are not there have nothing to read. */
export function adoptOutput(directory: OutputDirectory, workerId: string, options: OutputOptions): OutputReader {
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = constants;
  const paths = pathsOf(directory.path, workerId);
  const open = (path: string, flags = 0): number | null => {
    try {
      return openSync(path, O_RDWR | O_NOFOLLOW | flags, 0o600);
    } catch (error) {
      if (!isGoneError(error)) directory.onTrouble(`output of ${workerId} is not read: ${(error as Error).message}`);
      return null;
    }
  };
  const fds = { stdout: open(paths.stdout), stderr: open(paths.stderr), read: open(paths.read, O_CREAT) };
  return follow(directory, workerId, fds, options);
}

interface Descriptors {
  readonly stdout: number | null;
  readonly stderr: number | null;
  readonly read: number | null;
}

function follow(directory: OutputDirectory, workerId: string, fds: Descriptors, options: OutputOptions): OutputReader {
  const lines = createLogLines(options);
  const skipped = countSkipped(options);
  const positions = createPositions(fds.read);
  const files = (['stdout', 'stderr'] as const).map((stream, index) =>
    fds[stream] === null
      ? null
      : followFile(fds[stream], {
          position: positions.at(index),
          space: directory.space,
          nowMs: options.nowMs,
          onData: (data) => lines.push(stream, data),
          onSkipped: skipped.add,
        }),
  );
  let closed = false;
  let finishing = false;

  const look = (): boolean => {
    if (closed) return false;
    let more = false;
    for (const [index, file] of files.entries()) {
      try {
        if (file?.read(directory.buffer, !finishing)) more = true;
      } catch (error) {
        files[index] = null;
        directory.onTrouble(`output of ${workerId} is not read any more: ${(error as Error).message}`);
      }
    }
    positions.save(files);
    skipped.report();
    return more;
  };

  const end = (): void => {
    lines.end('stdout');
    lines.end('stderr');
    skipped.flush();
  };

  directory.add(workerId, look);
  return {
    lastLines: () => {
      look();
      return lines.last();
    },
    finish: async () => {
      // Nothing is emptied meanwhile, so that all that may wait is read.
      finishing = true;
      // No more than may be waiting: a descendant may write for ever.
      for (let turns = backlogMaxBytes / pieceBytes; look() && turns > 0; turns -= 1) await nextTurn();
      finishing = false;
      end();
    },
    remove: () => {
      if (closed) return;
      closed = true;
      directory.remove(workerId);
      end();
      for (const fd of Object.values(fds)) if (fd !== null) closeSync(fd);
      removeFiles(pathsOf(directory.path, workerId));
    },
  };
}

interface Positions {
  /** How far the next agent need not read: what the last one wrote; 0 where it is not there or torn. */
  at(index: number): number;
  save(files: readonly (OutputFile | null)[]): void;
}

function createPositions(fd: number | null): Positions {
  const saved = Buffer.alloc(2 * positionBytes);
  const next = Buffer.alloc(saved.length);
  const isThere = fd !== null && readAll(fd, saved);
  if (!isThere) saved.fill(0);
  const write = (bytes: Buffer): void => {
    try {
      if (fd !== null) writeSync(fd, bytes, 0, bytes.length, 0);
      bytes.copy(saved);
    } catch {
      // The disk is full: the next agent may tell some lines again.
    }
  };
  // Room for the numbers is taken now: later there may be none.
  if (!isThere) write(next);
  return {
    at: (index) => Number(saved.readBigUInt64LE(index * positionBytes)),
    save: (files) => {
      for (const [index, file] of files.entries()) {
        if (file !== null) next.writeBigUInt64LE(BigInt(file.handedOn()), index * positionBytes);
      }
      if (!next.equals(saved)) write(next);
    },
  };
}

/** False: it has fewer bytes, or cannot be read, as a FIFO that a worker put there cannot at a position. */
function readAll(fd: number, bytes: Buffer): boolean {
  try {
    return readSync(fd, bytes, 0, bytes.length, 0) === bytes.length;
  } catch {
    return false;
  }
}

/** Told of at most once a second. */
function countSkipped({ nowMs, onSkipped }: OutputOptions) {
  let bytes = 0;
  let reportedAtMs = Number.NEGATIVE_INFINITY;
  const flush = (): void => {
    if (bytes === 0) return;
    onSkipped(bytes);
    bytes = 0;
    reportedAtMs = nowMs();
  };
  return {
    add: (more: number): void => {
      bytes += more;
    },
    report: (): void => {
      if (nowMs() - reportedAtMs >= reportEveryMs) flush();
    },
    flush,
  };
}

interface Paths {
  readonly stdout: string;
  readonly stderr: string;
  readonly read: string;
}

function pathsOf(directory: string, workerId: string): Paths {
  const path = (extension: string): string => join(directory, `${workerId}.${extension}`);
  return { stdout: path('out'), stderr: path('err'), read: path('read') };
}

function removeFiles(paths: Paths): void {
  for (const path of Object.values(paths)) removeFile(path);
}
