import { failed, formatSize, type Parsed, showType } from './units.ts';

/** The arguments are sent to each new worker in one frame. */
const argumentsMaxBytes = 1024 * 1024;

/** A number as the file spells it. A JavaScript number would turn 1.0 into 1 and change 9007199254740993. */
export class SpelledNumber {
  readonly source: string;
  constructor(source: string) {
    this.source = source;
  }
}

/** Whether a number's spelling means the same in JSON. `0x1F`, `.5` and `+1` exist only in YAML. */
export function isJsonNumber(source: string): boolean {
  return /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(source);
}

/**
 * Parses a command's arguments into the JSON text that is sent: a map of keyword arguments, or a list of positional
 * ones. They may be secrets.
 */
export function parseArguments(input: unknown): Parsed<string> {
  if (typeof input !== 'object' || input === null || input instanceof SpelledNumber) {
    return failed(`expected a map or a list, got ${input instanceof SpelledNumber ? 'a number' : showType(input)}`);
  }
  if (hasNonFiniteNumber(input)) return failed('expected numbers that JSON can express, got .inf or .nan');
  const value = encode(input);
  const bytes = Buffer.byteLength(value);
  if (bytes <= argumentsMaxBytes) return { ok: true, value };
  return failed(`expected at most ${formatSize(argumentsMaxBytes)} as JSON, got ${bytes} bytes`);
}

function hasNonFiniteNumber(value: unknown): boolean {
  if (typeof value === 'number') return !Number.isFinite(value);
  return typeof value === 'object' && value !== null && Object.values(value).some(hasNonFiniteNumber);
}

function encode(value: unknown): string {
  if (value instanceof SpelledNumber) return value.source;
  if (Array.isArray(value)) return `[${value.map(encode).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value ?? null);
  return `{${Object.entries(value)
    .map(([key, each]) => `${JSON.stringify(key)}:${encode(each)}`)
    .join(',')}}`;
}
