import { nearest } from '../config/suggest.ts';

/** Flags that change more than the command alone does. */
const neverSuggested: ReadonlySet<string> = new Set(['--node', '--replace', '--abort', '--pause', '--idempotent']);

/**
 * What the user probably meant by a command or flag that commander reports as unknown, such as `\n(Did you mean
 * status?)`; empty if nothing is similar. `known.commands` must contain only commands that change nothing, so that
 * pasting a suggestion is always safe.
 */
export function suggestion(
  message: string,
  known: { readonly commands: readonly string[]; readonly flags: readonly string[] },
): string {
  const [, what, word = ''] = /unknown (command|option) '(.*)'/s.exec(message) ?? [];
  if (what === undefined) return '';
  const flags = known.flags.filter((flag) => !neverSuggested.has(flag));
  const near = nearest(word, what === 'command' ? known.commands : flags);
  return near === undefined ? '' : `\n(Did you mean ${near}?)`;
}
