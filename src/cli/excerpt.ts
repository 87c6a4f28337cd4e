import { printable, printableEntry, printableLine } from '../domain/printable.ts';

const linesMax = 10;
const lineMaxLength = 240;

/** A line of somebody else's text, cut to what a terminal can show or less; an ellipsis shows the cut. */
export function shortLine(text: string, maxLength = lineMaxLength): string {
  return cut(printableLine(text), maxLength);
}

/**
 * The first line of somebody else's text that may be long, and its last ones, which mostly say what happened. They are
 * indented, so that none passes for a line of the command line itself.
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
