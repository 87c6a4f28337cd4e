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
 * Workers write to files, so a slow or absent agent neither blocks nor kills them, and the next agent continues where
 * this one stopped. Worker ID has three files in one directory: ID.out, ID.err, and ID.read, which holds how far each
 * was handed on, as two little-endian 64-bit numbers.
 */

export interface OutputOptions {
  nowMs(): number;
  onLine(line: WorkerLine): void;
  /** Reports how many lines were dropped since the last report. */
  onDropped(count: number): void;
  /**
   * Reports how many bytes of both streams were skipped since the last report, because the backlog was too long or the
   * bytes are gone.
   */
  onSkipped(bytes: number): void;
}

export interface OutputReader {
  /** The last lines that the worker has written so far. */
  lastLines(): readonly string[];
  /** Called when the worker's process has exited: reads the rest. The output of its descendants is still followed. */
  finish(): Promise<void>;
  /** Deletes the files. */
  remove(): void;
}

export interface CreatedOutput {
  readonly reader: OutputReader;
  /** Descriptors for the worker. They belong to the reader, which closes them in `remove`. */
  readonly stdout: number;
  readonly stderr: number;
}

const reportEveryMs = 1_000;
const positionBytes = BigUint64Array.BYTES_PER_ELEMENT;

/**
 * Creates the output files of a worker that is about to start. Throws if they cannot be created, and then leaves none
 * behind.
 */
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
    // The worker shares these descriptors; we read at explicit offsets, which does not move the worker's.
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

/** Continues reading the output of a worker that an earlier agent started. A missing file counts as empty. */
export function adoptOutput(directory: OutputDirectory, workerId: string, options: OutputOptions): OutputReader {
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = constants;
  const paths = pathsOf(directory.path, workerId);
  const open = (path: string, flags = 0): number | null => {
    try {
      return openSync(path, O_RDWR | O_NOFOLLOW | flags, 0o600);
    } catch (error) {
      if (!isGoneError(error))
        directory.onProblem(`cannot read the output of ${workerId}: ${(error as Error).message}`);
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
        directory.onProblem(`stopped reading the output of ${workerId}: ${(error as Error).message}`);
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
      // While finishing, no file is truncated, so the whole backlog is read.
      finishing = true;
      // Reads at most a full backlog: a descendant may write forever.
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
  /** Offset at which to continue, as the last agent saved it; 0 if there is none or it is torn. */
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
      // The disk is full: the next agent may report some lines a second time.
    }
  };
  // Reserves the disk space for the offsets now: later there may be none.
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

/**
 * False if the file is too short or unreadable; a worker may have replaced it with a FIFO, which cannot be read at an
 * offset.
 */
function readAll(fd: number, bytes: Buffer): boolean {
  try {
    return readSync(fd, bytes, 0, bytes.length, 0) === bytes.length;
  } catch {
    return false;
  }
}

/** Collects skipped bytes and reports them at most once a second. */
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
