import { allKeys } from './all-keys.ts';
import { effects } from './keys.ts';
import type { Document } from './schema.ts';

/** Keys that take effect at the agent's next start, such as `log.level`, with their values as text. */
export type NextStart = ReadonlyMap<string, string>;

/** `overridden`: keys that the command line overrides, so that the file's value never matters. */
export function nextStartOf(document: Document, overridden: ReadonlySet<string>): NextStart {
  const values = new Map<string, string>();
  for (const { path, takesEffect } of allKeys()) {
    const name = path.join('.');
    if (takesEffect !== effects.nextStart || overridden.has(name)) continue;
    let value: unknown = document;
    for (const key of path) value = (value as Readonly<Record<string, unknown>> | undefined)?.[key];
    values.set(name, JSON.stringify(value) ?? '');
  }
  return values;
}

/** Keys whose values differ from those at the agent's start. */
export function changedSince(start: NextStart, now: NextStart): string[] {
  return [...now].filter(([name, value]) => start.get(name) !== value).map(([name]) => name);
}
