import { realpathSync } from 'node:fs';
import { delimiter, join, relative, sep } from 'node:path';

/** How a user of this process's shell runs pitwarden: its name where PATH has it, else the path to it. For hints to be pasted. */
export function ownName(): string {
  const script = process.argv[1] ?? '';
  const own = resolved(script);
  if (own === undefined) return 'pitwarden';
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  if (folders.some((folder) => resolved(join(folder, 'pitwarden')) === own)) return 'pitwarden';
  return shellWord(shortest(script));
}

/** A path as seen from the working directory, unless that is outside of it. */
export function shortest(path: string): string {
  const fromHere = relative(process.cwd(), path);
  return fromHere === '' || fromHere.startsWith('..') ? path : fromHere.includes(sep) ? fromHere : `./${fromHere}`;
}

/** A word of a shell's command line, quoted where it has to be. */
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
