/** Durations and sizes as users write them: `30s`, `400MiB`. */

/** A value, or a message that says what was expected and what was found. */
export type Parsed<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly message: string };

const durationUnitsMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

const sizeUnitsBytes: Readonly<Record<string, number>> = {
  B: 1,
  KB: 1_000,
  MB: 1_000_000,
  GB: 1_000_000_000,
  TB: 1_000_000_000_000,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

export const durationPattern = '^[0-9]+(\\.[0-9]+)?(ms|s|m|h|d)$';
export const sizePattern = '^[0-9]+(\\.[0-9]+)?(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$';

export function parseDuration(input: unknown): Parsed<number> {
  return parseQuantity(input, durationUnitsMs, 'a duration such as 500ms, 30s, 5m, 2h or 1d', 's');
}

export function parseSize(input: unknown): Parsed<number> {
  return parseQuantity(input, sizeUnitsBytes, 'a size such as 512B, 64KiB, 400MiB or 2GiB', 'MiB');
}

/** Uses the largest unit that divides the value. */
export function formatDuration(ms: number): string {
  return formatQuantity(ms, durationUnitsMs, 'ms');
}

/** Uses the largest power-of-two or decimal unit that divides the value. */
export function formatSize(bytes: number): string {
  return formatQuantity(bytes, sizeUnitsBytes, 'B');
}

/** A value for a message: short, and with its type visible. */
export function show(input: unknown): string {
  if (input === undefined || input === null) return 'nothing';
  if (Array.isArray(input)) return 'a list';
  if (typeof input === 'object') return 'a map';
  if (typeof input !== 'string') return String(input);
  return JSON.stringify(shorten(input));
}

const typeNames: Readonly<Record<string, string>> = { string: 'a text', number: 'a number', boolean: 'true or false' };

/** The type of a value that may be a secret. */
export function showType(input: unknown): string {
  return typeNames[typeof input] ?? show(input);
}

export function shorten(text: string): string {
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

export function failed(message: string): { readonly ok: false; readonly message: string } {
  return { ok: false, message };
}

function parseQuantity(
  input: unknown,
  units: Readonly<Record<string, number>>,
  wanted: string,
  usualUnit: string,
): Parsed<number> {
  const bare = typeof input === 'number' || (typeof input === 'string' && /^[0-9]+(\.[0-9]+)?$/.test(input));
  if (bare) return failed(`expected ${wanted}, got ${input} without a unit; did you mean ${input}${usualUnit}?`);
  if (typeof input !== 'string') return failed(`expected ${wanted}, got ${show(input)}`);
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)$/i.exec(input);
  const [count, unit] = [match?.[1], match?.[2]];
  if (count === undefined || unit === undefined) return failed(`expected ${wanted}, got ${show(input)}`);
  const factor = Object.hasOwn(units, unit) && input === count + unit ? units[unit] : undefined;
  if (factor === undefined) {
    const meant = Object.keys(units).find((known) => sameUnit(known, unit));
    const hint = meant === undefined ? '' : `; did you mean ${count}${meant}?`;
    return failed(`expected ${wanted}, got ${show(input)}${hint}`);
  }
  // A value such as 1.1s is only approximately whole in binary floating point.
  const value = Math.round(Number(count) * factor);
  if (!Number.isSafeInteger(value)) return failed(`expected ${wanted}, got ${show(input)}, which is too large`);
  return { ok: true, value };
}

/** `kb`, `k` and `sec` are close enough to suggest the unit, but not to accept it. */
function sameUnit(known: string, written: string): boolean {
  const [a, b] = [known.toLowerCase(), written.toLowerCase()];
  return a === b || a === `${b}ib` || (b.length > 1 && a.length === 1 && b.startsWith(a) && a !== 'b' && b !== 'ms');
}

function formatQuantity(value: number, units: Readonly<Record<string, number>>, smallest: string): string {
  const fitting = Object.entries(units)
    .filter(([, factor]) => value !== 0 && value % factor === 0)
    .sort(([, a], [, b]) => b - a)[0];
  const [unit, factor] = fitting ?? [smallest, 1];
  return `${value / factor}${unit}`;
}
