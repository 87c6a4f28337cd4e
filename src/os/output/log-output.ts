import { constants, fstatSync, openSync, write, writeSync } from 'node:fs';

/*
 * Where log lines go: a descriptor of somebody else, who may read slowly, not at all, or have gone. Lines are written one
 * chunk at a time, what waits is bounded, and the end is bounded in time. pino's own destination is not used: at the exit of the
 * process it waits for its reader without a limit.
 */

export interface LogOutput {
  write(line: string): void;
  /**
   * Writes what waits, for so long at most. `stuck`: a write has not returned, and so a thread of this process hangs, for
   * which `process.exit` would wait (see exit.ts).
   */
  end(timeoutMs: number): Promise<'written' | 'unread' | 'stuck'>;
  /** The same in one call, for a process whose state cannot be trusted any more. */
  endNow(timeoutMs: number): 'written' | 'unread' | 'stuck';
}

export interface LogOutputOptions {
  /** More than this does not wait: lines are dropped. */
  readonly heldMaxBytes: number;
  /** There is room again after so many lines were dropped. */
  onDropped(lines: number): void;
}

const chunkMaxLines = 512;
/** How long to wait before a full pipe is tried again. */
const fullPauseMs = 20;
/** A write that may block and takes so long is not expected to return. */
const stuckAfterMs = 500;

export function openLogOutput(fd: number, { heldMaxBytes, onDropped }: LogOutputOptions): LogOutput {
  const { out, mayBlock } = reopenNonblocking(fd);
  let lines: string[] = [];
  let heldChars = 0;
  let dropped = 0;
  /** What is being written. */
  let chunk: Buffer | null = null;
  /** Since when a thread writes; null: none does. */
  let writingSinceMs: number | null = null;
  /** Nobody will ever read it. */
  let broken = false;
  let onIdle = (): void => undefined;

  const takeChunk = (): Buffer | null => {
    if (lines.length === 0) return null;
    const taken = lines.length <= chunkMaxLines ? lines : lines.slice(0, chunkMaxLines);
    lines = lines.length <= chunkMaxLines ? [] : lines.slice(chunkMaxLines);
    const text = taken.join('');
    heldChars -= text.length;
    return Buffer.from(text);
  };

  const next = (): void => {
    chunk ??= takeChunk();
    if (chunk === null) return onIdle();
    writingSinceMs = performance.now();
    write(out, chunk, (error, written) => {
      writingSinceMs = null;
      if (error === null) chunk = rest(chunk, written);
      else if (error.code !== 'EAGAIN') fail(error);
      if (error?.code === 'EAGAIN') setTimeout(next, fullPauseMs).unref();
      else next();
      if (dropped > 0 && heldChars < heldMaxBytes / 2) tellDropped();
    });
  };

  /** A full disk may have room later; a reader that is gone does not come back. */
  const fail = (error: NodeJS.ErrnoException): void => {
    chunk = null;
    if (error.code !== 'EPIPE') return;
    broken = true;
    lines = [];
    heldChars = 0;
  };

  const tellDropped = (): void => {
    const count = dropped;
    dropped = 0;
    onDropped(count);
  };

  const isIdle = (): boolean => chunk === null && lines.length === 0;
  const isStuck = (): boolean =>
    mayBlock && writingSinceMs !== null && performance.now() - writingSinceMs > stuckAfterMs;
  const outcome = () => (isIdle() ? 'written' : isStuck() ? 'stuck' : 'unread');

  return {
    write: (line) => {
      if (broken) return;
      if (heldChars + line.length > heldMaxBytes) {
        dropped += 1;
        return;
      }
      const wasIdle = isIdle();
      lines.push(line);
      heldChars += line.length;
      if (wasIdle) next();
    },
    end: (timeoutMs) =>
      new Promise((resolve) => {
        if (isIdle()) return resolve('written');
        const timer = setTimeout(() => resolve(outcome()), timeoutMs);
        onIdle = () => {
          clearTimeout(timer);
          resolve('written');
        };
      }),
    endNow: (timeoutMs) => {
      const endsAtMs = performance.now() + timeoutMs;
      if (isStuck()) return 'stuck';
      // A thread has the chunk, and how much of it is written is not known here.
      if (writingSinceMs !== null) chunk = null;
      for (chunk ??= takeChunk(); chunk !== null; chunk = chunk ?? takeChunk()) {
        try {
          chunk = rest(chunk, writeSync(out, chunk));
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return 'unread';
          if (performance.now() >= endsAtMs) return 'unread';
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, fullPauseMs);
        }
      }
      return 'written';
    },
  };
}

function rest(chunk: Buffer | null, written: number): Buffer | null {
  return chunk === null || written >= chunk.length ? null : chunk.subarray(written);
}

/**
 * A pipe or terminal that is full must not hold a thread. Its descriptor may be shared with other processes, so it is not
 * changed but opened anew. A socket (journald's) cannot be opened by its name; Node makes it non-blocking when it is made a
 * stream. A file is left alone: it has no reader to wait for.
 */
function reopenNonblocking(fd: number): { readonly out: number; readonly mayBlock: boolean } {
  try {
    const stat = fstatSync(fd);
    if (stat.isSocket()) {
      void process.stdout.writable;
      return { out: fd, mayBlock: false };
    }
    if (!stat.isFIFO() && !stat.isCharacterDevice()) return { out: fd, mayBlock: true };
    const { O_WRONLY, O_APPEND, O_NONBLOCK, O_NOCTTY } = constants;
    const out = openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY);
    return { out, mayBlock: false };
  } catch {
    return { out: fd, mayBlock: true };
  }
}
