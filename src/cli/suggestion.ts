import { nearest } from '../config/suggest.ts';

/** Flags that change more than the command alone would. */
const neverSuggested: ReadonlySet<string> = new Set(['--node', '--replace', '--abort', '--pause', '--idempotent']);

/**
 * What was probably meant by a command or flag that commander's message says is unknown, such as `\n(Did you mean status?)`;
 * empty: nothing known is near. `known.commands` has only those that change nothing: whoever pastes a suggestion without
 * reading it loses nothing.
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
