import { fstatSync, ftruncateSync, readSync } from 'node:fs';
import { lineMaxBytes } from './log-lines.ts';
import type { OutputSpace } from './output-space.ts';

/**
 * Most that one look reads from a file: a few milliseconds of work. At 50 looks a second this exceeds the rate at which
 * lines are kept.
 */
export const pieceBytes = 128 * 1024;
/** The unread backlog of a file is limited to its newest 8 MiB. */
export const backlogMaxBytes = 8 * 1024 * 1024;
/** Disk space is released in steps of this size, at most once per pause: each step starts a process. */
const giveBackBytes = 1024 * 1024;
const giveBackPauseMs = 100;
/** If holes cannot be punched, the size at which a file is truncated even though it was not read to its end. */
const cutOffBytes = 4 * backlogMaxBytes;
/**
 * Most that a file may occupy on disk. A worker that writes a gigabyte a second outpaces any process that punches
 * holes, so a larger file is truncated at once, after its newest piece was read.
 */
const diskMaxBytes = 8 * backlogMaxBytes;
/** The unit of `blocks` in stat(2). */
const statBlockBytes = 512;
/** Block size of file systems; holes consist of whole blocks. */
const blockBytes = 4096;
const newline = 10;

export interface OutputFileOptions {
  /** The offset at which to continue. */
  readonly position: number;
  readonly space: OutputSpace;
  nowMs(): number;
  /** The buffer is only valid until this returns. */
  onData(data: Buffer): void;
  /**
   * Called with the number of bytes that were not handed on, because the backlog was too long or the bytes are gone.
   */
  onSkipped(bytes: number): void;
}

/**
 * One output stream of one worker: a file that grows at its end, and whose disk space is released from its beginning.
 */
export interface OutputFile {
  /**
   * Hands on up to one piece of new data; returns whether there is more. With `mayEmpty`, a file that takes too much
   * disk space is truncated, for which more than one piece may be handed on.
   */
  read(buffer: Buffer, mayEmpty?: boolean): boolean;
  /** Offset up to which whole lines were handed on: a later reader continues here. */
  handedOn(): number;
}

export function followFile(fd: number, options: OutputFileOptions): OutputFile {
  const { space, nowMs } = options;
  let { position } = options;
  /** Bytes before `position` that belong to a line whose end has not been read yet. */
  let open = 0;
  /** The last line that was handed on has no newline yet. */
  let unended = false;
  /** The next bytes may be the rest of a line whose beginning was skipped. */
  let torn = false;
  let givenBack = 0;
  let punching = false;
  /** How often reading has restarted at offset 0. */
  let restarts = 0;
  let gaveBackAtMs = Number.NEGATIVE_INFINITY;

  const skip = (bytes: number): void => {
    if (unended) options.onData(Buffer.of(newline));
    unended = false;
    open = 0;
    torn = true;
    options.onSkipped(bytes);
  };

  /** `isTorn`: the next bytes may be the rest of a line whose beginning is gone. */
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
    // The rest of this line is not kept anyway.
    if (open > lineMaxBytes) open = 0;
  };

  const read = (buffer: Buffer, mayEmpty = true): boolean => {
    const { size, blocks } = fstatSync(fd);
    // Someone truncated the file, for example the worker by opening /dev/stdout.
    if (size < position) restart();
    // The worker set this size without writing that much; Node cannot read at such an offset.
    if (size > Number.MAX_SAFE_INTEGER) return empty(size);
    if (mayEmpty && blocks * statBlockBytes > diskMaxBytes) return keepNewest(buffer, size);
    if (size - position > backlogMaxBytes) {
      // Starts one byte early, to see whether a line begins at the limit.
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
   * Truncates the file and hands on its newest content. The content is copied before the truncation and handed on after
   * it, so the only bytes lost are those written in the few microseconds between the last read and the truncation.
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
    // There is more only if the worker writes faster than we copy.
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
      // Ignored if the file was truncated meanwhile.
      if (punched && began === restarts) givenBack = upTo;
    });
  };

  /**
   * Truncates a file once all of it was read, or once it has its maximum size; then the unread data is lost except for
   * the newest piece. If the agent dies, the part of an unfinished line that was read is lost too.
   */
  const cutOff = (buffer: Buffer): void => {
    const { size } = fstatSync(fd);
    if (size === position || size > cutOffBytes) keepNewest(buffer, size);
  };

  const handedOn = (): number => position - open;

  return { read, handedOn };
}

/** Leading zeros are a hole that someone else punched. */
function withoutHole(data: Buffer): Buffer {
  if (data[0] !== 0) return data;
  const start = data.findIndex((byte) => byte !== 0);
  return data.subarray(start < 0 ? data.length : start);
}

function withoutTornLine(data: Buffer): Buffer {
  const end = data.indexOf(newline);
  return data.subarray(end < 0 ? data.length : end + 1);
}
