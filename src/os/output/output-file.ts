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
  return new FollowedFile(fd, options);
}

class FollowedFile implements OutputFile {
  readonly #fd: number;
  readonly #options: OutputFileOptions;
  #position: number;
  /** Bytes before `#position` that belong to a line whose end has not been read yet. */
  #openBytes = 0;
  /** The last line that was handed on has no newline yet. */
  #isUnended = false;
  /** The next bytes may be the rest of a line whose beginning was skipped. */
  #isTorn = false;
  /** The disk space before this offset has been released. */
  #givenBack = 0;
  #gaveBackAtMs = Number.NEGATIVE_INFINITY;
  #isPunching = false;
  /** How often reading has restarted at offset 0. */
  #restarts = 0;

  constructor(fd: number, options: OutputFileOptions) {
    this.#fd = fd;
    this.#options = options;
    this.#position = options.position;
  }

  handedOn(): number {
    return this.#position - this.#openBytes;
  }

  read(buffer: Buffer, mayEmpty = true): boolean {
    const { size, blocks } = fstatSync(this.#fd);
    // Someone truncated the file, for example the worker by opening /dev/stdout.
    if (size < this.#position) this.#restart();
    // The worker set this size without writing that much; Node cannot read at such an offset.
    if (size > Number.MAX_SAFE_INTEGER) return this.#empty(size);
    if (mayEmpty && blocks * statBlockBytes > diskMaxBytes) {
      this.#keepNewest(buffer, size);
      return false;
    }
    if (size - this.#position > backlogMaxBytes) {
      // Starts one byte early, to see whether a line begins at the limit.
      this.#skipTo(size - backlogMaxBytes - 1);
    }
    const count = readSync(this.#fd, buffer, 0, pieceBytes, this.#position);
    this.#position += count;
    this.#handOn(buffer.subarray(0, count));
    if (mayEmpty) this.#giveBack(buffer);
    return count > 0 && this.#position < size;
  }

  #skipTo(offset: number): void {
    this.#skip(offset - this.#position);
    this.#position = offset;
  }

  #skip(bytes: number): void {
    if (this.#isUnended) this.#options.onData(Buffer.of(newline));
    this.#isUnended = false;
    this.#openBytes = 0;
    this.#isTorn = true;
    this.#options.onSkipped(bytes);
  }

  /** `isTorn`: the next bytes may be the rest of a line whose beginning is gone. */
  #restart(isTorn = false): void {
    this.#position = 0;
    this.#openBytes = 0;
    this.#isTorn = isTorn;
    this.#givenBack = 0;
    this.#restarts += 1;
  }

  /** Truncates a file of which nothing can be read. */
  #empty(size: number): boolean {
    ftruncateSync(this.#fd, 0);
    this.#skip(size - this.#position);
    this.#restart();
    return true;
  }

  #handOn(piece: Buffer): void {
    const data = withoutHole(piece);
    const zeros = piece.length - data.length;
    if (zeros >= blockBytes || (this.#isTorn && zeros > 0)) this.#skip(zeros);
    if (data.length > 0) this.#handOnLines(data);
  }

  #handOnLines(data: Buffer): void {
    const whole = this.#isTorn ? withoutTornLine(data) : data;
    if (whole.length < data.length) this.#options.onSkipped(data.length - whole.length);
    this.#isTorn = false;
    if (whole.length === 0) return;
    this.#options.onData(whole);
    const last = whole.lastIndexOf(newline);
    this.#isUnended = last < whole.length - 1;
    this.#openBytes = last < 0 ? this.#openBytes + whole.length : whole.length - 1 - last;
    // The rest of this line is not kept anyway.
    if (this.#openBytes > lineMaxBytes) this.#openBytes = 0;
  }

  /**
   * Truncates the file and hands on its newest content. The content is copied before the truncation and handed on after
   * it, so the only bytes lost are those written in the few microseconds between the last read and the truncation.
   */
  #keepNewest(buffer: Buffer, size: number): void {
    const from = Math.max(this.#position, size - pieceBytes);
    if (from > this.#position) this.#skip(from - this.#position);
    const { pieces, end, isWhole } = this.#copyFrom(from, buffer);
    // There is more only if the worker writes faster than we copy.
    const leftBytes = isWhole ? 0 : fstatSync(this.#fd).size - end;
    const isLineCut = leftBytes > 0 && !this.#isNewlineAt(end + leftBytes - 1, buffer);
    ftruncateSync(this.#fd, 0);
    for (const piece of pieces) this.#handOn(piece);
    if (leftBytes > 0) this.#skip(leftBytes);
    this.#restart(isLineCut);
  }

  /** Copies what follows `from`, at most about a backlog. `isWhole`: up to the end of the file. */
  #copyFrom(
    from: number,
    buffer: Buffer,
  ): { readonly pieces: Buffer[]; readonly end: number; readonly isWhole: boolean } {
    const pieces: Buffer[] = [];
    let [end, count] = [from, 0];
    do {
      count = readSync(this.#fd, buffer, 0, pieceBytes, end);
      pieces.push(Buffer.from(buffer.subarray(0, count)));
      end += count;
    } while (count > 0 && end - from < backlogMaxBytes);
    return { pieces, end, isWhole: count === 0 };
  }

  #isNewlineAt(offset: number, buffer: Buffer): boolean {
    return readSync(this.#fd, buffer, 0, 1, offset) !== 1 || buffer[0] === newline;
  }

  /** Releases the disk space of what was handed on, if there is enough of it and the last time was long enough ago. */
  #giveBack(buffer: Buffer): void {
    const { space, nowMs } = this.#options;
    const end = this.handedOn();
    if (this.#isPunching || end - this.#givenBack < giveBackBytes) return;
    if (nowMs() - this.#gaveBackAtMs < giveBackPauseMs) return;
    if (!space.mayPunch()) return this.#cutOff(buffer);
    this.#isPunching = true;
    const upTo = end - (end % blockBytes);
    const restarts = this.#restarts;
    void space.punch(this.#fd, this.#givenBack, upTo - this.#givenBack).then((punched) => {
      this.#isPunching = false;
      this.#gaveBackAtMs = nowMs();
      // Ignored if the file was truncated meanwhile.
      if (punched && restarts === this.#restarts) this.#givenBack = upTo;
    });
  }

  /**
   * Truncates a file once all of it was read, or once it has its maximum size; then the unread data is lost except for
   * the newest piece. If the agent dies, the part of an unfinished line that was read is lost too.
   */
  #cutOff(buffer: Buffer): void {
    const { size } = fstatSync(this.#fd);
    if (size === this.#position || size > cutOffBytes) this.#keepNewest(buffer, size);
  }
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
