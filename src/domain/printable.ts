/**
 * Characters that control a terminal or log viewer instead of being shown: C0 and C1 controls, DEL, line and paragraph
 * separators, and the marks that reorder text (Unicode TR36, "bidirectional text spoofing"). Tab and newline are not
 * among them.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const unprintable = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** Replaces each control character by a visible escape such as `\x1b`; tabs and newlines stay. */
export function printable(text: string): string {
  return text.replace(unprintable, visible);
}

/** Like `printable`, for text that must stay on one line, such as a table cell: also escapes newlines and tabs. */
export function printableLine(text: string): string {
  return printable(text).replaceAll('\n', '\\n').replaceAll('\t', '\\t');
}

/**
 * Like `printable`, for an entry of a list or log: further lines are indented, so that none looks like an entry of its
 * own.
 */
export function printableEntry(text: string): string {
  return printable(text).replaceAll('\n', '\n    ');
}

/** Escapes the control characters of a JSON text, which can occur only in its strings, without changing its value. */
export function printableJson(json: string): string {
  return json.replace(unprintable, (found) => `\\u${codeOf(found).padStart(4, '0')}`);
}

function visible(found: string): string {
  if (found === '\r') return '\\r';
  const code = codeOf(found);
  return code.length > 2 ? `\\u${code.padStart(4, '0')}` : `\\x${code.padStart(2, '0')}`;
}

function codeOf(found: string): string {
  return found.charCodeAt(0).toString(16);
}
