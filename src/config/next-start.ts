import { allKeys } from './all-keys.ts';
import { effects } from './keys.ts';
import type { Document } from './schema.ts';

/** Keys that take effect with the agent's next start, as `log.level`, with their values as text. */
export type NextStart = ReadonlyMap<string, string>;

/** `overridden`: keys that the command line says, so that the file's value counts at no start. */
export function nextStartOf(document: Document, overridden: ReadonlySet<string>): NextStart {
  const values = new Map<string, string>();
  for (const { path, takes } of allKeys()) {
    const name = path.join('.');
    if (takes !== effects.nextStart || overridden.has(name)) continue;
    let value: unknown = document;
    for (const key of path) value = (value as Readonly<Record<string, unknown>> | undefined)?.[key];
    values.set(name, JSON.stringify(value) ?? '');
  }
  return values;
}

/** Keys whose values are others than those that the agent was started with. */
export function changedSince(start: NextStart, now: NextStart): string[] {
  return [...now].filter(([name, value]) => start.get(name) !== value).map(([name]) => name);
}
