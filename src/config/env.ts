import { failed, type Parsed, showType } from './units.ts';

const placeholders = ['slot', 'pool'] as const;

/** A pool's environment with its placeholders replaced for one slot. */
export function expandEnv(
  pool: { readonly name: string; readonly env: Readonly<Record<string, string>> },
  slot: number,
): Record<string, string> {
  const values: Readonly<Record<string, string>> = { slot: String(slot), pool: pool.name };
  const fill = (text: string): string =>
    text.replace(/\{\{|\}\}|\{([a-z]+)\}/g, (found, name?: string) =>
      name === undefined ? found.charAt(0) : (values[name] ?? found),
    );
  return Object.fromEntries(Object.entries(pool.env).map(([name, text]) => [name, fill(text)]));
}

/**
 * Accepts text whose braces are all known placeholders or doubled. Messages do not quote the text, which may be a
 * secret.
 */
export function parseEnvValue(input: unknown): Parsed<string> {
  if (typeof input !== 'string') return failed(`expected a text, got ${showType(input)}`);
  if (input.includes('\0')) return failed('expected a text without a NUL character, got one with it');
  for (const { 0: found, 1: name, index } of input.matchAll(/\{\{|\}\}|\{([^{}]*)\}|[{}]/g)) {
    if (found === '{{' || found === '}}') continue;
    const place = `at character ${index + 1}`;
    if (name === undefined) return failed(`unmatched ${found} ${place}; write ${found}${found} for a plain one`);
    if (!(placeholders as readonly string[]).includes(name)) {
      return failed(`unknown placeholder ${place}; expected {slot} or {pool}, or {{ and }} for plain braces`);
    }
  }
  return { ok: true, value: input };
}
