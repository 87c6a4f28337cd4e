import { printable, printableEntry, printableLine } from '../domain/printable.ts';

const linesMax = 10;
const lineMaxLength = 240;

/** One line of foreign text, cut to fit a terminal; an ellipsis marks the cut. */
export function shortLine(text: string, maxLength = lineMaxLength): string {
  return cut(printableLine(text), maxLength);
}

/**
 * The first line and the last lines of a foreign text, which usually say what happened. All but the first are indented,
 * so that none looks like the command line's own output.
 */
export function excerpt(text: string): string {
  const [first = '', ...rest] = text.split('\n').map((line) => cut(printable(line), lineMaxLength));
  const left = rest.length - linesMax;
  const shown = left > 0 ? [`… ${left} lines …`, ...rest.slice(left)] : rest;
  return printableEntry([first, ...shown].join('\n'));
}

function cut(line: string, maxLength: number): string {
  return line.length <= maxLength ? line : `${line.slice(0, maxLength - 1).toWellFormed()}…`;
}
