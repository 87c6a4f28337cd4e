import { viewTextMaxBytes } from '../../domain/text-bounds.ts';
import { cutPrintable } from '../cut-text.ts';

/**
 * Cuts every text of a view to `viewTextMaxBytes`, and makes visible escapes of control characters but newlines and tabs. Returns
 * the view itself if no text changes.
 */
export function boundTexts<T>(view: T): T {
  return bound(view) as T;
}

function bound(value: unknown): unknown {
  if (typeof value === 'string') return cutPrintable(value, viewTextMaxBytes);
  if (typeof value !== 'object' || value === null) return value;
  return Array.isArray(value) ? boundAll(value) : boundFields(value);
}

function boundAll(values: readonly unknown[]): readonly unknown[] {
  // A list is copied only if an entry changes: most do not, and the list may belong to the state.
  let copy: unknown[] | undefined;
  for (const [index, value] of values.entries()) {
    const bounded = bound(value);
    if (bounded !== value) {
      copy ??= [...values];
      copy[index] = bounded;
    }
  }
  return copy ?? values;
}

function boundFields(view: object): object {
  let copy: Record<string, unknown> | undefined;
  for (const [name, value] of Object.entries(view)) {
    const bounded = bound(value);
    if (bounded !== value) {
      copy ??= { ...view };
      copy[name] = bounded;
    }
  }
  return copy ?? view;
}

/** Bytes of a number's tag and value, and of the tag and length of a text, list entry or message. */
const numberBytes = 12;
const headBytes = 7;

/** An upper bound of the view's size as a message. Encoding would give the exact size, but takes several times as long. */
export function bytesAtMost(value: unknown): number {
  if (typeof value === 'string') return headBytes + Buffer.byteLength(value);
  if (typeof value !== 'object' || value === null) return numberBytes;
  let bytes = headBytes;
  for (const part of Array.isArray(value) ? value : Object.values(value)) bytes += bytesAtMost(part);
  return bytes;
}
