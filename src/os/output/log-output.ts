import { constants, fstatSync, openSync, write, writeSync } from 'node:fs';

/*
 * Writes log lines to a descriptor whose reader may be slow, blocked or gone. Lines are written one chunk at a time,
 * the backlog is bounded, and so is the time that closing takes. pino's own destination is not used because at exit it
 * waits for its reader without a limit.
 */

export interface LogOutput {
  write(line: string): void;
  /**
   * Writes the backlog for at most `timeoutMs`. `stuck`: a write has not returned, so a thread of this process is
   * blocked and `process.exit` would wait for it (see exit.ts).
   */
  end(timeoutMs: number): Promise<'written' | 'unread' | 'stuck'>;
  /** Synchronous version of `end`, for a process whose state can no longer be trusted. */
  endNow(timeoutMs: number): 'written' | 'unread' | 'stuck';
}

export interface LogOutputOptions {
  /** Size limit of the backlog; lines beyond it are dropped. */
  readonly heldMaxBytes: number;
  /** Called once there is room again, with the number of dropped lines. */
  onDropped(lines: number): void;
}

const chunkMaxLines = 512;
/** Delay before writing to a full pipe again. */
const fullPauseMs = 20;
/** A blocking write that takes this long is not expected to return. */
const stuckAfterMs = 500;

export function openLogOutput(fd: number, { heldMaxBytes, onDropped }: LogOutputOptions): LogOutput {
  const { out, mayBlock } = reopenNonblocking(fd);
  let lines: string[] = [];
  let heldChars = 0;
  let dropped = 0;
  /** The chunk being written. */
  let chunk: Buffer | null = null;
  /** When the current write started; null if no write is in progress. */
  let writingSinceMs: number | null = null;
  /** The reader is gone for good. */
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
      if (dropped > 0 && heldChars < heldMaxBytes / 2) reportDropped();
    });
  };

  /** A full disk may have room later, so only the chunk is lost. A reader that is gone does not come back. */
  const fail = (error: NodeJS.ErrnoException): void => {
    chunk = null;
    if (error.code !== 'EPIPE') return;
    broken = true;
    lines = [];
    heldChars = 0;
  };

  const reportDropped = (): void => {
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
      // A thread is writing the chunk; how much of it has been written is unknown here.
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
 * A full pipe or terminal must not block a thread. Its descriptor may be shared with other processes, so instead of
 * changing its flags we open it again as non-blocking. A socket (such as journald's) cannot be reopened by path; Node
 * makes it non-blocking when it creates the stream. A regular file has no reader to wait for and is left alone.
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
