import { failed, type Parsed, show } from './units.ts';

/** Arguments of a command as the JSON text that it is sent: a map by keyword, a list by position. */
export function parseArguments(input: unknown): Parsed<string> {
  if (typeof input !== 'object' || input === null) return failed(`expected a map or a list, got ${show(input)}`);
  return { ok: true, value: JSON.stringify(input) };
}
