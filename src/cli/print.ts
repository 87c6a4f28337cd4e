import { printable, printableJson, printableLine } from '../domain/printable.ts';
import { isJournal, withPriority } from '../os/output/journal.ts';

/** Of syslog(3). */
const errorPriority = 3;

/**
 * The only writers of the command line. What a worker, a caller or another agent named or wrote reaches a terminal with its
 * control characters escaped; the result of a call is data, and goes to a file or pipe byte by byte.
 */

/** What a command answers goes to stdout, and nothing else does. */
export function print(text: string): void {
  process.stdout.write(`${printable(text)}\n`);
}

export function printJson(value: unknown, indent = 2): void {
  process.stdout.write(`${printableJson(JSON.stringify(value, null, indent))}\n`);
}

/** A JSON text of somebody else, laid out or not, but not encoded anew. */
export function printForeignJson(json: string): void {
  process.stdout.write(`${process.stdout.isTTY ? printableJson(json) : json}\n`);
}

/** A text that a command returned. */
export function printText(text: string): void {
  process.stdout.write(`${process.stdout.isTTY ? printable(text) : text}\n`);
}

/** Bytes that a command returned. */
export function printBytes(bytes: Buffer): void {
  process.stdout.write(process.stdout.isTTY ? printable(bytes.toString('utf8')) : bytes);
}

/** One line on a terminal that the next one takes the place of, until the last. */
export function printInPlace(line: string, isLast: boolean): void {
  process.stdout.write(`\r\x1b[K${printable(line)}${isLast ? '\n' : ''}`);
}

export function printError(message: string): void {
  const text = printable(message);
  // A unit's commands, such as its ExecReload, write their errors to the journal.
  const shown = isJournal(process.env['JOURNAL_STREAM'], 2) ? withPriority(text, errorPriority) : text;
  process.stderr.write(`${shown}\n`);
}

/** Beside the answer on stdout: what is worth knowing while it is waited for. */
export function printNote(line: string): void {
  process.stderr.write(`${printableLine(line)}\n`);
}

export function printErrorJson(error: object): void {
  process.stderr.write(`${printableJson(JSON.stringify({ error }))}\n`);
}
