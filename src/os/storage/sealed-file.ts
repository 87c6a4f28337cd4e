import { createHash } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * Small files that must be whole or not count: one line `KIND VERSION SHA256` and one line of JSON that the sum is of. They
 * are written beside their place, synced, and moved there, so that a reader finds the one before or the one after.
 */

export type Unsealed = { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly why: string };

export async function writeSealed(path: string, kind: string, version: number, value: object): Promise<void> {
  const text = seal(kind, version, value);
  const beside = `${path}.new`;
  try {
    // Whatever has this name, left by a writer that died or put there by somebody, is taken away and not written through.
    await rm(beside, { force: true });
    const file = await open(beside, 'wx', 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true }).catch(() => undefined);
    throw error;
  }
  await syncFolder(dirname(path));
}

export function seal(kind: string, version: number, value: object): string {
  const body = JSON.stringify(value);
  return `${kind} ${version} ${sum(body)}\n${body}\n`;
}

/** What a file of this kind and version says; why it is none. */
export function unseal(text: string, kind: string, versions: readonly number[]): Unsealed {
  const [head = '', body = '', end] = text.split('\n');
  const [foundKind, version = '', foundSum] = head.split(' ');
  if (foundKind !== kind) return { ok: false, why: `expected a file that begins with "${kind}"` };
  if (!versions.map(String).includes(version)) {
    return { ok: false, why: `version: expected one of ${versions.join(', ')}, got ${version.slice(0, 20)}` };
  }
  if (end !== '' || foundSum !== sum(body))
    return { ok: false, why: 'expected it whole, got one that is torn or changed' };
  try {
    return { ok: true, value: JSON.parse(body) };
  } catch {
    return { ok: false, why: 'expected JSON in its second line' };
  }
}

function sum(body: string): string {
  return createHash('sha256').update(body).digest('hex');
}

/** A file is there for good only when its folder is. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
