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
    if (text !== '') {
      last.push(text);
      if (last.length > lastLinesKept) last.shift();
    }
    if (tokens < 1) {
      dropped += 1;
      return;
    }
    tokens -= 1;
    if (dropped > 0 && nowMs - reportedAtMs >= reportEveryMs) report(nowMs);
    options.onLine({ stream, text });
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

interface Partial {
  decoder: StringDecoder;
  text: string;
  /** More came than is kept. */
  cut: boolean;
}

function newPartial(): Partial {
  return { decoder: new StringDecoder('utf8'), text: '', cut: false };
}

function split(part: Partial, data: Buffer, emit: (text: string) => void): void {
  let start = 0;
  for (let end = data.indexOf(10, start); end >= 0; end = data.indexOf(10, start)) {
    append(part, data.subarray(start, end));
    emit(trim(part.text + part.decoder.end(), part.cut));
    part.text = '';
    part.cut = false;
    start = end + 1;
  }
  if (start < data.length) append(part, data.subarray(start));
}

function append(part: Partial, data: Buffer): void {
  const room = lineMaxBytes - part.text.length;
  if (data.length > room) part.cut = true;
  if (room > 0) part.text += part.decoder.write(data.length > room ? data.subarray(0, room) : data);
}

function trim(text: string, cut: boolean): string {
  return cut ? `${text}… (cut)` : text.endsWith('\r') ? text.slice(0, -1) : text;
}
