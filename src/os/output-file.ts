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
  /** Hands on what there is, at most a piece; true: there is more. */
  read(buffer: Buffer): boolean;
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

  const restart = (): void => {
    position = 0;
    open = 0;
    torn = false;
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

  const read = (buffer: Buffer): boolean => {
    const { size, blocks } = fstatSync(fd);
    // Somebody emptied it, such as the worker by opening /dev/stdout.
    if (size < position) restart();
    if (blocks * statBlockBytes > diskMaxBytes) return keepNewest(buffer, size);
    if (size - position > backlogMaxBytes) {
      // One byte more tells whether a line begins there.
      const from = size - backlogMaxBytes - 1;
      skip(from - position);
      position = from;
    }
    const count = readPiece(buffer);
    giveBack();
    return count > 0 && position < size;
  };

  const readPiece = (buffer: Buffer): number => {
    const count = readSync(fd, buffer, 0, pieceBytes, position);
    position += count;
    const data = withoutHole(buffer.subarray(0, count));
    const zeros = count - data.length;
    if (zeros >= blockBytes || (torn && zeros > 0)) skip(zeros);
    if (data.length > 0) take(data);
    return count;
  };

  /** What is written while it reads is read too, as far as one piece goes; of more the rest is lost. */
  const keepNewest = (buffer: Buffer, size: number): boolean => {
    const from = Math.max(position, size - pieceBytes);
    if (from > position) skip(from - position);
    position = from;
    readPiece(buffer);
    readPiece(buffer);
    const end = fstatSync(fd).size;
    const isLineCut = end > position && readSync(fd, buffer, 0, 1, end - 1) === 1 && buffer[0] !== newline;
    if (end > position) skip(end - position);
    ftruncateSync(fd, 0);
    restart();
    torn = isLineCut;
    return false;
  };

  const giveBack = (): void => {
    const end = handedOn();
    if (punching || end - givenBack < giveBackBytes || nowMs() - gaveBackAtMs < giveBackPauseMs) return;
    if (!space.mayPunch()) return cutOff();
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
   * What the worker writes between the two calls is lost, and what was read of a line without an end should the agent die.
   * A file that never is quite read loses the rest too at its greatest size.
   */
  const cutOff = (): void => {
    const unread = fstatSync(fd).size - position;
    if (unread > 0 && position + unread <= cutOffBytes) return;
    if (unread > 0) skip(unread);
    ftruncateSync(fd, 0);
    restart();
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
