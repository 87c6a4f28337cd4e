import { viewTextMaxBytes } from '../../domain/text-bounds.ts';
import { cutPrintable } from '../cut-text.ts';

/**
 * A view with every text cut to `viewTextMaxBytes`, and control characters but newlines and tabs as visible escapes: itself
 * where no text needs it.
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
  // Most lists need nothing, and may be the state's own.
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

/** Tag and value of a number; tag and length of a text, list entry or message. */
const numberBytes = 12;
const headBytes = 7;

/** No fewer bytes than the view has as a message. To encode it would tell exactly, and take several times as long. */
export function bytesAtMost(value: unknown): number {
  if (typeof value === 'string') return headBytes + Buffer.byteLength(value);
  if (typeof value !== 'object' || value === null) return numberBytes;
  let bytes = headBytes;
  for (const part of Array.isArray(value) ? value : Object.values(value)) bytes += bytesAtMost(part);
  return bytes;
}
