import { StringDecoder } from 'node:string_decoder';

/** Maximum length of a line; the rest is cut off. */
export const lineMaxBytes = 8 * 1024;
/** Sustained rate and burst per worker. Lines beyond these are dropped and counted. */
const linesPerSecond = 500;
const burstLines = 2_000;
/** How many of the last lines are kept for the message about a failed worker. */
const lastLinesKept = 20;
/** How often dropped lines are reported. */
const reportEveryMs = 1_000;

export interface WorkerLine {
  readonly stream: 'stdout' | 'stderr';
  readonly text: string;
  /** Set if the line is a record of the worker's logging module. */
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
  /** Reports how many lines were dropped since the last report. */
  onDropped(count: number): void;
}

export interface LogLines {
  push(stream: WorkerLine['stream'], data: Buffer): void;
  /** The stream ended: emits a last line that has no newline. */
  end(stream: WorkerLine['stream']): void;
  last(): readonly string[];
}

/** Splits what a worker writes into bounded lines. Always accepts the data, so the worker is never blocked. */
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

/** RS (record separator): python/src/pitwarden/_log_records.py begins each record with it. */
const recordMark = '\u001e';
/** Levels of Python's logging module; each constant is the lower bound of the next level. */
const debugBelow = 20;
const infoBelow = 30;
const warnBelow = 40;
const nameMaxLength = 256;

/** Parses a record. A line that looks like a record but is none counts as plain text: a worker may write anything. */
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
    // Not JSON, or not an object.
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
  /** How many bytes `text` was decoded from. */
  bytes: number;
  /** The line was longer than the limit. */
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
