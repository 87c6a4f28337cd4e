import { printable } from '../domain/printable.ts';

/** Like `cutBytes`, with control characters but newlines and tabs escaped. Cuts first, because a text may be as long as a frame. */
export function cutPrintable(text: string, maxBytes: number, keep: 'start' | 'end' = 'start'): string {
  return cutBytes(printable(cutBytes(text, maxBytes, keep)), maxBytes, keep);
}

/** Cuts a text to at most `maxBytes` bytes of UTF-8. An ellipsis stands for the part that was cut away. */
export function cutBytes(text: string, maxBytes: number, keep: 'start' | 'end' = 'start'): string {
  if (text.length * 3 <= maxBytes) return text;
  // Encodes only what can stay, because a text may be as long as a frame.
  const bytes = Buffer.from(keep === 'start' ? text.slice(0, maxBytes + 1) : text.slice(-maxBytes - 1));
  if (bytes.length <= maxBytes) return text;
  const room = maxBytes - ellipsisBytes;
  if (keep === 'start') return `${bytes.toString('utf8', 0, characterStart(bytes, room, -1))}…`;
  return `…${bytes.toString('utf8', characterStart(bytes, bytes.length - room, 1))}`;
}

const ellipsisBytes = Buffer.byteLength('…');

/** The nearest index, in one direction, that is not within a character. */
function characterStart(bytes: Buffer, from: number, direction: 1 | -1): number {
  let at = from;
  while (at > 0 && at < bytes.length && ((bytes[at] ?? 0) & 0xc0) === 0x80) at += direction;
  return at;
}

/** Cuts a text to at most `maxLength` UTF-16 code units. The result shares no memory with the longer text. */
export function cutLength(text: string, maxLength: number): string {
  if (text.length <= maxLength) return text;
  return Buffer.from(`${text.slice(0, maxLength - 1).toWellFormed()}…`).toString();
}

/** Cuts a text to at most `maxBytes` bytes of its percent-encoded form. */
export function cutEncoded(text: string, maxBytes: number): string {
  if (text.length * 9 <= maxBytes || encodeURI(text).length <= maxBytes) return text;
  let bytes = encodeURI('…').length;
  let kept = '';
  for (const character of text) {
    bytes += encodeURI(character).length;
    if (bytes > maxBytes) break;
    kept += character;
  }
  return `${kept}…`;
}
