import { StringDecoder } from 'node:string_decoder';

/** Longest line that is kept; the rest of a longer one is cut off. */
export const lineMaxBytes = 8 * 1024;
/** What one worker may write for good, and at once. Beyond it lines are counted, not kept. */
const linesPerSecond = 500;
const burstLines = 2_000;
/** Last lines kept for the message about a failed worker. */
const lastLinesKept = 20;
/** How often a flood is reported. */
const reportEveryMs = 1_000;

export interface WorkerLine {
  readonly stream: 'stdout' | 'stderr';
  readonly text: string;
  /** Where it is a record of the worker's logging. */
  readonly record: LogRecord | null;
}

export interface LogRecord {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly logger: string;
  readonly requestId: string;
}

export interface LogLinesOptions {
  nowMs(): number;
  onLine(line: WorkerLine): void;
  /** So many lines since the last report were not kept. */
  onDropped(count: number): void;
}

export interface LogLines {
  push(stream: WorkerLine['stream'], data: Buffer): void;
  /** The stream ended: a last line without a newline is a line too. */
  end(stream: WorkerLine['stream']): void;
  last(): readonly string[];
}

/** Turns what a worker writes into bounded lines. Always takes the data, so that the worker is never stalled. */
export function createLogLines(options: LogLinesOptions): LogLines {
  const partial = { stdout: newPartial(), stderr: newPartial() };
  const last: string[] = [];
  let tokens = burstLines;
  let refilledAtMs = options.nowMs();
  let dropped = 0;
  let reportedAtMs = Number.NEGATIVE_INFINITY;

  const emit = (stream: WorkerLine['stream'], text: string): void => {
    const nowMs = options.nowMs();
    tokens = Math.min(burstLines, tokens + ((nowMs - refilledAtMs) * linesPerSecond) / 1000);
    refilledAtMs = nowMs;
    const line = readLine(stream, text);
    if (line.text !== '') {
      last.push(...(line.record === null ? [line.text] : line.text.split('\n').slice(-lastLinesKept)));
      if (last.length > lastLinesKept) last.splice(0, last.length - lastLinesKept);
    }
    if (tokens < 1) {
      dropped += 1;
      return;
    }
    tokens -= 1;
    if (dropped > 0 && nowMs - reportedAtMs >= reportEveryMs) report(nowMs);
    options.onLine(line);
  };

  const report = (nowMs: number): void => {
    options.onDropped(dropped);
    dropped = 0;
    reportedAtMs = nowMs;
  };

  return {
    push: (stream, data) => split(partial[stream], data, (text) => emit(stream, text)),
    end: (stream) => {
      const part = partial[stream];
      const rest = part.text + part.decoder.end();
      partial[stream] = newPartial();
      if (rest !== '') emit(stream, trim(rest, part.cut));
      if (dropped > 0) report(options.nowMs());
    },
    last: () => last,
  };
}

/** RS: python/src/pitwarden/_log_records.py begins a record with it. */
const recordMark = '\u001e';
/** The numbers of Python's logging module, and what is below each. */
const debugBelow = 20;
const infoBelow = 30;
const warnBelow = 40;
const nameMaxLength = 256;

/** A line that looks like a record and is none is a line of text: a worker may write what it likes. */
function readLine(stream: WorkerLine['stream'], text: string): WorkerLine {
  if (!text.startsWith(recordMark)) return { stream, text, record: null };
  try {
    const { level, logger, request_id: requestId, message } = JSON.parse(text.slice(1)) as Record<string, unknown>;
    if (typeof level === 'number' && typeof message === 'string') {
      return {
        stream,
        text: message,
        record: { level: levelOf(level), logger: nameOf(logger), requestId: nameOf(requestId) },
      };
    }
  } catch {
    // No JSON, or no object.
  }
  return { stream, text, record: null };
}

function levelOf(level: number): LogRecord['level'] {
  if (level < debugBelow) return 'debug';
  if (level < infoBelow) return 'info';
  return level < warnBelow ? 'warn' : 'error';
}

function nameOf(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, nameMaxLength) : '';
}

interface Partial {
  decoder: StringDecoder;
  text: string;
  /** That `text` was made of. */
  bytes: number;
  /** More came than is kept. */
  cut: boolean;
}

function newPartial(): Partial {
  return { decoder: new StringDecoder('utf8'), text: '', bytes: 0, cut: false };
}

function split(part: Partial, data: Buffer, emit: (text: string) => void): void {
  let start = 0;
  for (let end = data.indexOf(10, start); end >= 0; end = data.indexOf(10, start)) {
    append(part, data.subarray(start, end));
    emit(trim(part.text + part.decoder.end(), part.cut));
    part.text = '';
    part.bytes = 0;
    part.cut = false;
    start = end + 1;
  }
  if (start < data.length) append(part, data.subarray(start));
}

function append(part: Partial, data: Buffer): void {
  const room = lineMaxBytes - part.bytes;
  if (data.length > room) part.cut = true;
  const kept = data.length > room ? data.subarray(0, room) : data;
  part.bytes += kept.length;
  part.text += part.decoder.write(kept);
}

function trim(text: string, cut: boolean): string {
  return cut ? `${text}… (cut)` : text.endsWith('\r') ? text.slice(0, -1) : text;
}
