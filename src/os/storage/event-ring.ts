import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises';
import { limitConcurrency } from '../limit-concurrency.ts';
import { lineMaxBytes, lineOf, linesIn, recordOf } from './ring-line.ts';
import { createRingQueue } from './ring-queue.ts';
import type { RingSegments } from './ring-segments.ts';
import { AppendError, openRingSegments } from './ring-segments.ts';

/**
 * A bounded, durable history of records. Writers never wait: records queue in memory, within a bound, and are written in batches. All
 * work on the disk is done one call at a time, so a disk that does not answer occupies one of Node's four threads for file operations.
 * docs/internals/events.md describes the files.
 */
export interface EventRing {
  /** Queues a record. Never throws; a record for which there is no room is dropped, and counted. */
  append(record: object): void;
  /** Resolves to whether all records that were appended before are stored. False after 5 s. Never rejects. */
  stored(): Promise<boolean>;
  /**
   * Reads the records from a position on, at most `readBytes` of the file. Rejects if the disk does not answer within 5 s, or if too
   * many reads wait.
   */
  read(from: RingPosition): Promise<RingPart>;
  /** Records that were dropped: the disk was full or too slow, or they were too long. */
  dropped(): number;
  /** Resolves when what was appended before is stored or failed, and no file is open; never, if the disk does not answer. */
  close(): Promise<void>;
}

/** A place between two records. Positions stay valid as long as the ring's folder does, over restarts too. */
export interface RingPosition {
  readonly segment: number;
  readonly offset: number;
}

export interface RingPart {
  /** `next`: the position behind the record. */
  readonly records: readonly { readonly record: object; readonly next: RingPosition }[];
  readonly next: RingPosition;
  /** Bytes that were read of the file. */
  readonly bytes: number;
  /** Nothing was stored behind `next` when it was read. */
  readonly isEnd: boolean;
}

export interface EventRingOptions {
  readonly segmentBytes: number;
  readonly maxBytes: number;
  /** `stored` means synced: records survive a power failure too. */
  readonly durable: boolean;
  /** Called when records are dropped or cannot be written, at most once a minute, and for foreign files in the folder. */
  onProblem(message: string): void;
  /** Makes the record that stands for dropped ones. */
  gapRecord(dropped: number): object;
}

export const ringStart: RingPosition = { segment: 0, offset: 0 };

/** How much of a file one read takes, and one write at most. Longer reads would hold up writes, and the event loop. */
const readBytes = 128 * 1024;
const writeBytes = 256 * 1024;
/** How many bytes of records wait for the disk. */
const queueMaxBytes = 1024 * 1024;
/** Reads that were given up because the disk does not answer go on waiting for it. */
const readsWaiting = 16;
const timeoutMs = 5_000;
const retryMs = 1_000;
const reportEveryMs = 60_000;

export function openEventRing(folder: string, options: EventRingOptions): EventRing {
  const report = createReport(options.onProblem);
  const segments = openRingSegments(folder, {
    ...options,
    onForeign: (path) => options.onProblem(`${path} is no file of this agent and is left alone`),
  });
  const inTurn = limitConcurrency(1);
  const writer = createWriter(segments, inTurn, { ...options, folder, report });
  let reading = 0;
  return {
    append: writer.append,
    stored: () => inTime(writer.stored(), false),
    read: async (from) => {
      if (reading >= readsWaiting) throw new Error(noAnswer);
      reading += 1;
      const work = writer
        .written()
        .then(() => inTurn(() => readPart(segments, from)))
        .finally(() => {
          reading -= 1;
        });
      const part = await inTime(work, undefined);
      if (part === undefined) throw new Error(noAnswer);
      return part;
    },
    dropped: writer.dropped,
    close: async () => {
      await writer.settled();
      await inTurn(segments.close);
    },
  };
}

const noAnswer = `the disk did not answer within ${timeoutMs / 1000} s`;

interface WriterOptions extends Pick<EventRingOptions, 'gapRecord'> {
  readonly folder: string;
  report(message: string): void;
}

/** Writes what is appended, in batches. What a full disk refuses stays in the queue and is tried again each second. */
function createWriter(segments: RingSegments, inTurn: InTurn, { folder, report, gapRecord }: WriterOptions) {
  const queue = createRingQueue(queueMaxBytes);
  let writing: Promise<void> | null = null;
  let retry: NodeJS.Timeout | null = null;
  let dropped = 0;
  /** Those of the dropped records that no gap record stands for yet. */
  let missing = 0;

  const drop = (why: string): void => {
    dropped += 1;
    missing += 1;
    report(`${folder}: ${dropped} events could not be stored so far: ${why}`);
  };
  const writeBatch = async (): Promise<boolean> => {
    const lines = queue.peek(writeBytes);
    try {
      await segments.append(lines);
      queue.take(lines.length, true);
      return true;
    } catch (error) {
      queue.take(error instanceof AppendError ? error.written : 0, false);
      queue.fail();
      report(`${folder}: events wait to be stored: ${(error as Error).message}`);
      return false;
    }
  };
  const noteGap = (): void => {
    const line = missing === 0 ? undefined : lineOf(gapRecord(missing));
    if (line !== undefined && queue.add(line)) missing = 0;
  };
  const writeAll = async (): Promise<void> => {
    while (!queue.isEmpty()) {
      if (!(await inTurn(writeBatch))) {
        retry = setTimeout(start, retryMs).unref();
        return;
      }
      noteGap();
    }
  };
  const start = (): void => {
    retry = null;
    // In the next turn: what one step appends is written at once.
    writing ??= nextTurn()
      .then(writeAll)
      .finally(() => {
        writing = null;
        if (!queue.isEmpty() && retry === null) start();
      });
  };
  return {
    append: (record: object): void => {
      const line = lineOf(record);
      if (line === undefined) drop(`expected a record of at most ${lineMaxBytes} bytes, got a longer one`);
      else if (!queue.add(line)) drop('the disk is full or does not answer');
      if (retry === null && !queue.isEmpty()) start();
    },
    stored: queue.stored,
    /** Resolves when what was appended before is written, or if it cannot be written now. */
    written: async () => {
      if (retry === null) await queue.stored();
    },
    dropped: () => dropped,
    settled: async () => {
      while (writing !== null) await writing;
    },
  };
}

type InTurn = <T>(work: () => Promise<T>) => Promise<T>;

async function readPart(segments: RingSegments, from: RingPosition): Promise<RingPart> {
  const numbers = await segments.numbers();
  // The segment of a position may have been removed: then the oldest one comes next. If all segments were removed, numbers start
  // again, and so does the reader.
  const index = Math.max(
    0,
    numbers.findIndex((number) => number >= from.segment),
  );
  const number = numbers[index];
  if (number === undefined) return { records: [], next: ringStart, bytes: 0, isEnd: true };
  const offset = number === from.segment ? from.offset : 0;
  const following = numbers[index + 1];
  const bytes = (await segments.read(number, offset, readBytes)) ?? Buffer.alloc(0);
  const records: { record: object; next: RingPosition }[] = [];
  let read = 0;
  for (const { line, end } of linesIn(bytes)) {
    read = end;
    const record = recordOf(line);
    if (record !== undefined) records.push({ record, next: { segment: number, offset: offset + end } });
  }
  // No line is as long as a read: this is garbage.
  if (read === 0 && bytes.length === readBytes) read = readBytes;
  const isDone = bytes.length < readBytes;
  // The last line of a writer that died may lack only its line break.
  const last = isDone ? recordOf(bytes.subarray(read)) : undefined;
  if (last !== undefined) {
    read = bytes.length;
    records.push({ record: last, next: { segment: number, offset: offset + read } });
  }
  if (isDone && following !== undefined) {
    return { records, next: { segment: following, offset: 0 }, bytes: bytes.length, isEnd: false };
  }
  return { records, next: { segment: number, offset: offset + read }, bytes: bytes.length, isEnd: isDone };
}

/** Passes on a message if there was none within the last minute. */
function createReport(onProblem: (message: string) => void): (message: string) => void {
  let silentUntilMs = Number.NEGATIVE_INFINITY;
  return (message) => {
    if (performance.now() < silentUntilMs) return;
    silentUntilMs = performance.now() + reportEveryMs;
    onProblem(message);
  };
}

async function inTime<T, L>(work: Promise<T>, late: L): Promise<T | L> {
  const over = new AbortController();
  const tooLate = delay(timeoutMs, late, { signal: over.signal }).catch(() => late);
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    over.abort();
    // After the timeout its outcome does not matter.
    work.catch(() => undefined);
  }
}
