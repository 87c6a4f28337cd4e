import { z } from 'zod';
import {
  durationPattern,
  failed,
  formatDuration,
  formatSize,
  type Parsed,
  parseDuration,
  parseSize,
  show,
  showType,
  sizePattern,
} from './units.ts';

/** The kinds of keys that the schema consists of. Each has its error messages and its JSON schema for editors. */

const yearMs = 365 * 86_400_000;
const pebibyte = 2 ** 50;

/** When a changed key takes effect after a reload. */
export const effects = {
  atOnce: 'at once',
  /** The key reaches the worker's process. */
  replacing: 'at once: workers are replaced',
  nextWorker: 'with the next worker',
  nextStart: "with the agent's next start",
} as const;

export type Effect = (typeof effects)[keyof typeof effects];

/** Marks keys with the time at which a change takes effect. */
export function takingEffect<S extends Shape>(effect: Effect, shape: S): S {
  const keys = Object.entries(shape).map(
    ([name, key]) => [name, (key as z.ZodType).meta({ takesEffect: effect })] as const,
  );
  return Object.fromEntries(keys) as unknown as S;
}

/** A relation between two keys of one section; checked if both are valid on their own. */
export interface Rule {
  readonly keys: readonly [string, string];
  readonly needs: string;
  holds(first: number, second: number): boolean;
}

type Shape = z.core.$ZodLooseShape;
type Body<S extends Shape> = z.ZodObject<S, z.core.$strict>;

/** A map of known keys that all have defaults, so that the whole section may be left out. */
export function section<S extends Shape>(shape: S, rules: readonly Rule[] = []): z.ZodPrefault<Body<S>> {
  return sectionBody(shape, rules).prefault({} as z.core.util.NoUndefined<z.input<Body<S>>>);
}

/** A map of known keys. Its rules are checked even if other keys are invalid, so that one run reports everything. */
export function sectionBody<S extends Shape>(shape: S, rules: readonly Rule[] = []): Body<S> {
  return z.strictObject(shape, { error: expecting('a map of keys') }).superRefine(
    (value, context) => {
      const wrong = new Set<unknown>(context.issues.map((issue) => issue.path?.[0]));
      for (const { keys, needs, holds } of rules) {
        const [first, second] = keys.map((key) => (value as Record<string, unknown>)[key]);
        if (wrong.has(keys[0]) || wrong.has(keys[1])) continue;
        if (typeof first !== 'number' || typeof second !== 'number' || holds(first, second)) continue;
        context.addIssue({ code: 'custom', path: [keys[0]], message: `expected ${needs}` });
      }
    },
    { when: () => true },
  );
}

/** A map with user-defined names. An invalid name does not hide errors below it. */
export function map<V extends z.ZodType>(
  values: V,
  names: string,
  check: (name: string) => string | undefined,
): z.ZodRecord<z.ZodString, V> {
  return z
    .record(z.string(), values, { error: expecting('a map', showType) })
    .superRefine(
      (value, context) => {
        if (typeof value !== 'object' || value === null) return;
        for (const name of Object.keys(value)) {
          const message = check(name);
          if (message !== undefined) {
            context.addIssue({ code: 'custom', path: [name], message, params: { atKey: true } });
          }
        }
      },
      { when: () => true },
    )
    .meta({ propertyNames: { pattern: names } });
}

/** The worker link sends durations as 32 bits of milliseconds, which is 49 days. */
export const linkDurationMaxMs = 30 * 86_400_000;

interface DurationBounds {
  readonly minMs?: number;
  readonly maxMs?: number;
}

export function duration(fallback: string, description: string, { minMs = 1, maxMs = yearMs }: DurationBounds = {}) {
  const parse = (input: unknown) => between(parseDuration(input), minMs, maxMs, formatDuration);
  return quantity(parse, { type: 'string', pattern: durationPattern })
    .prefault(fallback)
    .meta({ description, unit: `duration, ${formatDuration(minMs)} to ${formatDuration(maxMs)}` });
}

/** 0 means off. */
export function durationOrOff(
  fallback: string,
  description: string,
  { minMs = 1, maxMs = yearMs }: DurationBounds = {},
) {
  const parse = (input: unknown) =>
    orOff(input, (some) => zeroOr(parseDuration(some), (parsed) => between(parsed, minMs, maxMs, formatDuration)));
  return quantity(parse, { anyOf: [{ type: 'string', pattern: `^off$|${durationPattern}` }, { const: 0 }] })
    .prefault(fallback)
    .meta({ description, unit: `duration, ${formatDuration(minMs)} to ${formatDuration(maxMs)}, or \`off\`` });
}

export function size(fallback: string, description: string, maxBytes = pebibyte) {
  const parse = (input: unknown) => between(parseSize(input), 1, maxBytes, formatSize);
  return quantity(parse, { type: 'string', pattern: sizePattern })
    .prefault(fallback)
    .meta({ description, unit: 'size' });
}

export function sizeOrOff(fallback: string, description: string) {
  const parse = (input: unknown) => orOff(input, (some) => between(parseSize(some), 0, pebibyte, formatSize));
  return quantity(parse, { anyOf: [{ type: 'string', pattern: `^off$|${sizePattern}` }, { const: 0 }] })
    .prefault(fallback)
    .meta({ description, unit: 'size or `off`' });
}

export function whole(min: number, max: number, fallback: number, unit: string, description: string) {
  const error = expecting(`a whole number from ${min} to ${max}`);
  return z
    .int({ error })
    .min(min, { error })
    .max(max, { error })
    .prefault(fallback)
    .meta({ description, unit: `${unit}, ${min} to ${max}` });
}

export function wholeOrOff(fallback: number | 'off', unit: string, description: string) {
  const parse = (input: unknown): Parsed<number> => {
    const count = input === 'off' ? 0 : input;
    if (typeof count === 'number' && Number.isSafeInteger(count) && count >= 0) return { ok: true, value: count };
    return failed(`expected a whole number or off, got ${show(input)}`);
  };
  return quantity(parse, { anyOf: [{ type: 'integer', minimum: 0 }, { const: 'off' }] })
    .prefault(fallback)
    .meta({ description, unit: `${unit} or \`off\`` });
}

export function share(max: number, fallback: number, description: string) {
  const error = expecting(`a share from 0 to ${max}`);
  return z
    .number({ error })
    .min(0, { error })
    .max(max, { error })
    .prefault(fallback)
    .meta({ description, unit: `share, 0 to ${max}` });
}

export function choice<const T extends readonly string[]>(words: T) {
  return z.enum(words, { error: expecting(words.join(' or ')) });
}

export function yesOrNo(fallback: boolean, description: string) {
  return z
    .boolean({ error: expecting('true or false') })
    .prefault(fallback)
    .meta({ description, unit: '`true` or `false`' });
}

/** A non-empty text. */
export function nonEmptyText() {
  const error = expecting('a text');
  return z.string({ error }).min(1, { error });
}

export function pattern(regex: string, expected: string) {
  const error = expecting(expected);
  return z.string({ error }).regex(new RegExp(regex), { error });
}

/** A value with its own parser; `json` is its JSON schema for editors. */
export function quantity<T>(parse: (input: unknown) => Parsed<T>, json: Readonly<Record<string, unknown>>) {
  return z
    .unknown()
    .transform((input, context): T => {
      const parsed = parse(input);
      if (parsed.ok) return parsed.value;
      context.issues.push({ code: 'custom', message: parsed.message, input });
      return z.NEVER;
    })
    .meta(json);
}

function orOff(input: unknown, parse: (input: unknown) => Parsed<number>): Parsed<number> {
  if (input === 'off' || input === 0 || input === '0') return { ok: true, value: 0 };
  if (input === false) return failed('expected a value or off, got false; write off');
  return parse(input);
}

/** `0s` means off, like `0`. */
function zeroOr(parsed: Parsed<number>, check: (parsed: Parsed<number>) => Parsed<number>): Parsed<number> {
  return parsed.ok && parsed.value === 0 ? parsed : check(parsed);
}

function between(parsed: Parsed<number>, min: number, max: number, format: (value: number) => string): Parsed<number> {
  if (!parsed.ok || (parsed.value >= min && parsed.value <= max)) return parsed;
  return failed(`expected from ${format(min)} to ${format(max)}, got ${format(parsed.value)}`);
}

function expecting(expected: string, describe = show) {
  return (issue: { readonly input?: unknown }): string => {
    if (issue.input === undefined) return `required: expected ${expected}`;
    return `expected ${expected}, got ${describe(issue.input)}`;
  };
}
