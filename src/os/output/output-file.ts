import { fstatSync, ftruncateSync, readSync } from 'node:fs';
import { lineMaxBytes } from './log-lines.ts';
import type { OutputSpace } from './output-space.ts';

/** What one look at a file may read: a few milliseconds of work, and at 50 looks a second more than lines are kept of. */
export const pieceBytes = 128 * 1024;
/** Of what a worker wrote and nobody has read the newest so many bytes are kept. */
export const backlogMaxBytes = 8 * 1024 * 1024;
/** Space is given back in steps of so much, and no more often than this: each step is a process. */
const giveBackBytes = 1024 * 1024;
const giveBackPauseMs = 100;
/** Where no holes can be made, the size at which a file is cut off though not all of it was read. */
const cutOffBytes = 4 * backlogMaxBytes;
/**
 * What a file may take of the disk. A worker that writes a gigabyte a second is quicker than any process that makes holes, so
 * beyond this the file is emptied at once, when its newest piece was read.
 */
const diskMaxBytes = 8 * backlogMaxBytes;
/** The unit of `blocks` in stat(2). */
const statBlockBytes = 512;
/** The unit in which file systems have holes. */
const blockBytes = 4096;
const newline = 10;

export interface OutputFileOptions {
  /** Where to go on. */
  readonly position: number;
  readonly space: OutputSpace;
  nowMs(): number;
  /** The data holds until this returns. */
  onData(data: Buffer): void;
  /** So many bytes were not handed on: too many were waiting, or they are gone. */
  onSkipped(bytes: number): void;
}

/** One stream of one worker: a file that grows at its end and is given back at its beginning. */
export interface OutputFile {
  /**
   * Hands on what there is, at most a piece; true: there is more. `mayEmpty`: a file that takes too much of the disk is emptied,
   * for which more than a piece may be handed on.
   */
  read(buffer: Buffer, mayEmpty?: boolean): boolean;
  /** All before it was handed on, in whole lines: who follows the file later goes on here. */
  handedOn(): number;
}

export function followFile(fd: number, options: OutputFileOptions): OutputFile {
  const { space, nowMs } = options;
  let { position } = options;
  /** Bytes before `position` that belong to a line whose end has not come. */
  let open = 0;
  /** The last line that was handed on has no end yet. */
  let unended = false;
  /** What comes next may be the rest of a line whose beginning was skipped. */
  let torn = false;
  let givenBack = 0;
  let punching = false;
  /** How often the file has begun anew. */
  let restarts = 0;
  let gaveBackAtMs = Number.NEGATIVE_INFINITY;

  const skip = (bytes: number): void => {
    if (unended) options.onData(Buffer.of(newline));
    unended = false;
    open = 0;
    torn = true;
    options.onSkipped(bytes);
  };

  /** `isTorn`: what comes next may be the rest of a line whose beginning is gone. */
  const restart = (isTorn = false): void => {
    position = 0;
    open = 0;
    torn = isTorn;
    givenBack = 0;
    restarts += 1;
  };

  const take = (data: Buffer): void => {
    const whole = torn ? withoutTornLine(data) : data;
    if (whole.length < data.length) options.onSkipped(data.length - whole.length);
    torn = false;
    if (whole.length === 0) return;
    options.onData(whole);
    const last = whole.lastIndexOf(newline);
    unended = last < whole.length - 1;
    open = last < 0 ? open + whole.length : whole.length - 1 - last;
    // Nothing more of this line is kept.
    if (open > lineMaxBytes) open = 0;
  };

  const read = (buffer: Buffer, mayEmpty = true): boolean => {
    const { size, blocks } = fstatSync(fd);
    // Somebody emptied it, such as the worker by opening /dev/stdout.
    if (size < position) restart();
    // It set this size, and did not write so much: Node can read no further than that.
    if (size > Number.MAX_SAFE_INTEGER) return empty(size);
    if (mayEmpty && blocks * statBlockBytes > diskMaxBytes) return keepNewest(buffer, size);
    if (size - position > backlogMaxBytes) {
      // One byte more tells whether a line begins there.
      const from = size - backlogMaxBytes - 1;
      skip(from - position);
      position = from;
    }
    const count = readPiece(buffer);
    if (mayEmpty) giveBack(buffer);
    return count > 0 && position < size;
  };

  const empty = (size: number): boolean => {
    ftruncateSync(fd, 0);
    skip(size - position);
    restart();
    return true;
  };

  const readPiece = (buffer: Buffer): number => {
    const count = readSync(fd, buffer, 0, pieceBytes, position);
    position += count;
    handOn(buffer.subarray(0, count));
    return count;
  };

  const handOn = (piece: Buffer): void => {
    const data = withoutHole(piece);
    const zeros = piece.length - data.length;
    if (zeros >= blockBytes || (torn && zeros > 0)) skip(zeros);
    if (data.length > 0) take(data);
  };

  /**
   * Empties the file and hands on what was newest in it. The newest bytes are copied before the file is emptied and handed on
   * after, so only what the worker writes in the few microseconds between the read that finds the end and the call that empties
   * is lost.
   */
  const keepNewest = (buffer: Buffer, size: number): boolean => {
    const from = Math.max(position, size - pieceBytes);
    if (from > position) skip(from - position);
    const pieces: Buffer[] = [];
    let [end, count] = [from, 0];
    do {
      count = readSync(fd, buffer, 0, pieceBytes, end);
      pieces.push(Buffer.from(buffer.subarray(0, count)));
      end += count;
    } while (count > 0 && end - from < backlogMaxBytes);
    // More is there only if the worker writes faster than this copies.
    const leftBytes = count > 0 ? fstatSync(fd).size - end : 0;
    const isLineCut = leftBytes > 0 && readSync(fd, buffer, 0, 1, end + leftBytes - 1) === 1 && buffer[0] !== newline;
    ftruncateSync(fd, 0);
    for (const piece of pieces) handOn(piece);
    if (leftBytes > 0) skip(leftBytes);
    restart(isLineCut);
    return false;
  };

  const giveBack = (buffer: Buffer): void => {
    const end = handedOn();
    if (punching || end - givenBack < giveBackBytes || nowMs() - gaveBackAtMs < giveBackPauseMs) return;
    if (!space.mayPunch()) return cutOff(buffer);
    punching = true;
    const upTo = end - (end % blockBytes);
    const began = restarts;
    void space.punch(fd, givenBack, upTo - givenBack).then((punched) => {
      punching = false;
      gaveBackAtMs = nowMs();
      // Not when the file was emptied meanwhile.
      if (punched && began === restarts) givenBack = upTo;
    });
  };

  /**
   * Empties a file when all of it was read, or at its greatest size: then what was not read is lost but for the newest piece.
   * Should the agent die, what was read of a line without an end is lost too.
   */
  const cutOff = (buffer: Buffer): void => {
    const { size } = fstatSync(fd);
    if (size === position || size > cutOffBytes) keepNewest(buffer, size);
  };

  const handedOn = (): number => position - open;

  return { read, handedOn };
}

/** Zeros at the beginning are what somebody else punched out. */
function withoutHole(data: Buffer): Buffer {
  if (data[0] !== 0) return data;
  const start = data.findIndex((byte) => byte !== 0);
  return data.subarray(start < 0 ? data.length : start);
}

function withoutTornLine(data: Buffer): Buffer {
  const end = data.indexOf(newline);
  return data.subarray(end < 0 ? data.length : end + 1);
}
