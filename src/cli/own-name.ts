import { realpathSync } from 'node:fs';
import { delimiter, join, relative, sep } from 'node:path';

/**
 * How to run pitwarden from this shell: by name if it is on the PATH, otherwise by path. For hints that users paste.
 */
export function ownName(): string {
  const script = process.argv[1] ?? '';
  const own = resolved(script);
  if (own === undefined) return 'pitwarden';
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  if (folders.some((folder) => resolved(join(folder, 'pitwarden')) === own)) return 'pitwarden';
  return shellWord(shortest(script));
}

/** The path relative to the working directory, unless it is outside of it. */
export function shortest(path: string): string {
  const fromHere = relative(process.cwd(), path);
  return fromHere === '' || fromHere.startsWith('..') ? path : fromHere.includes(sep) ? fromHere : `./${fromHere}`;
}

/** Quotes a word for a shell command line if needed. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function resolved(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}
