import { printable, printableJson, printableLine } from '../domain/printable.ts';
import { isJournal, withPriority } from '../os/output/journal.ts';

/** Priority of syslog(3). */
const errorPriority = 3;

/**
 * The only functions that write output. Text from workers, callers or other agents reaches a terminal with its control
 * characters escaped. The result of a call is data, and reaches a file or pipe unchanged.
 */

/** Prints a command's answer; nothing else goes to stdout. */
export function print(text: string): void {
  process.stdout.write(`${printable(text)}\n`);
}

export function printJson(value: unknown, indent = 2): void {
  process.stdout.write(`${printableJson(JSON.stringify(value, null, indent))}\n`);
}

/** Prints foreign JSON without re-encoding it. */
export function printForeignJson(json: string): void {
  process.stdout.write(`${process.stdout.isTTY ? printableJson(json) : json}\n`);
}

/** Prints a text that a command returned. */
export function printText(text: string): void {
  process.stdout.write(`${process.stdout.isTTY ? printable(text) : text}\n`);
}

/** Prints bytes that a command returned. */
export function printBytes(bytes: Buffer): void {
  process.stdout.write(process.stdout.isTTY ? printable(bytes.toString('utf8')) : bytes);
}

/** Prints a line on a terminal that the next one overwrites, until the last. */
export function printInPlace(line: string, isLast: boolean): void {
  process.stdout.write(`\r\x1b[K${printable(line)}${isLast ? '\n' : ''}`);
}

export function printError(message: string): void {
  const text = printable(message);
  // Commands of a systemd unit, such as its ExecReload, write errors to the journal.
  const shown = isJournal(process.env['JOURNAL_STREAM'], 2) ? withPriority(text, errorPriority) : text;
  process.stderr.write(`${shown}\n`);
}

/** Prints a note to stderr while the answer is awaited. */
export function printNote(line: string): void {
  process.stderr.write(`${printableLine(line)}\n`);
}

export function printErrorJson(error: object): void {
  process.stderr.write(`${printableJson(JSON.stringify({ error }))}\n`);
}
