import { crc32 } from 'node:zlib';

/**
 * One record of a ring as a line: eight hexadecimal digits of a CRC-32, a space, JSON. JSON has no line breaks, so a reader that
 * meets a torn line or garbage goes on behind the next line break.
 */

/** The longest line, with its line break. A longer record is refused by `lineOf`, and is garbage to `recordOf`. */
export const lineMaxBytes = 32 * 1024;

const sumLength = 8;
const newline = 0x0a;

/** Undefined: the record is too long. */
export function lineOf(record: object): Buffer | undefined {
  const body = JSON.stringify(record);
  const line = Buffer.from(`${sumOf(body)} ${body}\n`);
  return line.length > lineMaxBytes ? undefined : line;
}

/** Reads a line without its line break. Undefined: it is torn or garbage. */
export function recordOf(line: Buffer): object | undefined {
  if (line.length <= sumLength + 1 || line.length >= lineMaxBytes) return undefined;
  const body = line.subarray(sumLength + 1);
  if (line.toString('latin1', 0, sumLength + 1) !== `${sumOf(body)} `) return undefined;
  try {
    const value: unknown = JSON.parse(body.toString());
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

function sumOf(body: string | Buffer): string {
  return crc32(body).toString(16).padStart(sumLength, '0');
}

/** The lines of a part of a file. `end`: where the line ends in `bytes`, behind its line break. An unfinished line is left out. */
export function* linesIn(bytes: Buffer): Generator<{ readonly line: Buffer; readonly end: number }> {
  let start = 0;
  for (let at = bytes.indexOf(newline); at !== -1; at = bytes.indexOf(newline, start)) {
    yield { line: bytes.subarray(start, at), end: at + 1 };
    start = at + 1;
  }
}
