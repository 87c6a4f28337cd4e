import { readTextFile } from './read-file.ts';
import { failed, type Parsed, show } from './units.ts';

/** A group as users write it: its name or its number. */
export type Group = string | number;

const groupFile = '/etc/group';
/** gid_t has 32 bits; chown(2) uses -1 for "no change". */
const groupMax = 2 ** 32 - 2;

export function parseGroup(input: unknown): Parsed<Group> {
  const wanted = 'expected the name of a group or its number';
  if (typeof input === 'string' && /^\d+$/.test(input)) return parseGroup(Number(input));
  // A name cannot contain the separators of /etc/group.
  const isName = typeof input === 'string' && /^[^:,\s]{1,256}$/.test(input);
  const isNumber = typeof input === 'number' && Number.isInteger(input) && input >= 0 && input <= groupMax;
  return isName || isNumber ? { ok: true, value: input } : failed(`${wanted}, got ${show(input)}`);
}

/** The number of a group; null if none was named. */
export async function groupIdOf(group: Group | undefined): Promise<Parsed<number | null>> {
  if (typeof group !== 'string') return { ok: true, value: group ?? null };
  const read = await readTextFile(groupFile);
  if (!read.ok) return failed(`expected a group of this host, but ${groupFile} cannot be read: ${read.message}`);
  // group(5): name:password:GID:members
  for (const line of read.value.split('\n')) {
    const [name, , id = ''] = line.split(':');
    if (name === group && /^\d+$/.test(id)) return { ok: true, value: Number(id) };
  }
  const remedy = 'make it with groupadd; a group of a directory service is named by its number (getent group NAME)';
  return failed(`expected a group of this host, got ${show(group)}, which is not in ${groupFile}; ${remedy}`);
}
