import { lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { z } from 'zod';
import { isShortage } from '../shortage.ts';
import { unseal } from './sealed-file.ts';

/** Reads sealed files that an earlier agent has left. They may be torn, changed, or put there by someone else. */

/** These files have some kilobytes: a much larger one is none of them. */
const fileMaxBytes = 4 * 1024 * 1024;
/** How many of the files that were set aside are kept for inspection: the newest. */
const asideMax = 50;
/** TIME-NAME, as `moveAside` names them. */
const asidePattern = /^\d{13}-.*\.json$/;

/** Returns the object in the file, or a message if it cannot be read. */
export function readSealed(path: string, expected: string, versions: readonly number[]): object | string {
  let text: string;
  try {
    const stat = lstatSync(path);
    if (!stat.isFile()) return 'expected a file, got something else';
    const uid = process.getuid?.() ?? stat.uid;
    // If a group may write to the state directory, its members can put files there.
    if (stat.uid !== uid) return `expected it to belong to user ${uid}, got user ${stat.uid}`;
    if (stat.size > fileMaxBytes) return `expected at most ${fileMaxBytes} bytes, got ${stat.size}`;
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (isShortage(error)) throw error;
    return `could not be read: ${(error as NodeJS.ErrnoException).code}`;
  }
  const found = unseal(text, expected, versions);
  if (!found.ok) return found.why;
  return typeof found.value === 'object' && found.value !== null ? found.value : 'expected an object';
}

/** The first problem of a value. */
export function explainIssue(error: z.ZodError): string {
  const [issue] = error.issues;
  return `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not valid'}`;
}

/** Moves a file that could not be used into the folder `aside`, for inspection. */
export function moveAside(path: string, aside: string, name: string): void {
  try {
    mkdirSync(aside, { recursive: true, mode: 0o700 });
    renameSync(path, join(aside, `${Date.now()}-${name}`));
    const kept = readdirSync(aside)
      .filter((each) => asidePattern.test(each))
      .sort();
    for (const oldest of kept.slice(0, -asideMax)) rmSync(join(aside, oldest), { force: true, recursive: true });
  } catch {
    // On a full or read-only disk the file stays where it is, and the next start tries again.
  }
}
