import { createHash } from 'node:crypto';
import { replaceDurably } from './durable-file.ts';

/**
 * Small files that are either complete or invalid: one line `KIND VERSION SHA256`, then one line of JSON that the
 * checksum covers. They are written under another name, synced and renamed, so a reader sees either the old file or the
 * new one.
 */

export type Unsealed = { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly why: string };

export async function writeSealed(path: string, kind: string, version: number, value: object): Promise<void> {
  await replaceDurably(path, seal(kind, version, value));
}

export function seal(kind: string, version: number, value: object): string {
  const body = JSON.stringify(value);
  return `${kind} ${version} ${sum(body)}\n${body}\n`;
}

/** Returns the content of a file of this kind and version, or why it is invalid. */
export function unseal(text: string, kind: string, versions: readonly number[]): Unsealed {
  const [head = '', body = '', end] = text.split('\n');
  const [foundKind, version = '', foundSum] = head.split(' ');
  if (foundKind !== kind) return { ok: false, why: `expected a file that begins with "${kind}"` };
  if (!versions.map(String).includes(version)) {
    return { ok: false, why: `version: expected one of ${versions.join(', ')}, got ${version.slice(0, 20)}` };
  }
  if (end !== '' || foundSum !== sum(body))
    return { ok: false, why: 'expected a complete file, got one that is torn or changed' };
  try {
    return { ok: true, value: JSON.parse(body) };
  } catch {
    return { ok: false, why: 'expected JSON in its second line' };
  }
}

function sum(body: string): string {
  return createHash('sha256').update(body).digest('hex');
}
