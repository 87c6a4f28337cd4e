import {
  isAlias,
  isMap,
  isNode,
  isPair,
  isScalar,
  LineCounter,
  type Pair,
  parseDocument,
  visit,
  type YAMLMap,
  type Document as YamlDocument,
} from 'yaml';
import { isJsonNumber, SpelledNumber } from './arguments.ts';
import type { Problem } from './problem.ts';

/** A YAML text as plain data, with the location of every path and its syntax errors. */
export interface SourceDocument {
  readonly data: unknown;
  readonly problems: readonly Problem[];
  /** The location of a value or of its key; for an absent path the nearest known location. */
  locate(path: readonly PropertyKey[], at: 'key' | 'value'): { readonly line: number; readonly column: number };
}

type Place = Pick<Problem, 'line' | 'column'>;

/** An error at an offset of the text. */
interface Fault {
  readonly offset: number;
  readonly path: string;
  readonly message: string;
  /** The text cannot be converted to data. */
  readonly fatal: boolean;
}

/** Reads any YAML text: never throws, and takes time linear in the text's length. */
export function readDocument(file: string, text: string): SourceDocument {
  const lines = new LineCounter();
  const place = (offset: number): Place => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  try {
    // No pretty errors: the location is reported as numbers, not drawn into the message. Duplicate keys are found
    // below, because the library compares every pair of keys. The library's warnings are reported as faults instead of
    // printed.
    const document = parseDocument(text, {
      lineCounter: lines,
      prettyErrors: false,
      merge: true,
      uniqueKeys: false,
      logLevel: 'error',
    });
    const faults = [...syntaxFaults(document), ...keyFaults(document)];
    keepSpellingOfEnv(document);
    keepSpellingOfArguments(document);
    const locate = (path: readonly PropertyKey[], at: 'key' | 'value'): Place => place(offsetOf(document, path, at));
    const problems = faults.map(({ offset, path, message }) => ({ file, ...place(offset), path, message }));
    if (faults.some(({ fatal }) => fatal)) return { data: undefined, problems, locate };
    const data: unknown = document.toJS();
    const circle = findCircle(data);
    if (circle === undefined) return { data, problems, locate };
    const message = 'not valid here: an alias is inside the value that it refers to';
    return { data: undefined, problems: [...problems, { file, ...locate(circle, 'key'), path: '', message }], locate };
  } catch (error) {
    // Aliases that expand without end or have no anchor, or nesting too deep for the stack.
    const start = { line: 1, column: 1 };
    return {
      data: undefined,
      problems: [{ file, ...start, path: '', message: syntaxMessage(error) }],
      locate: () => start,
    };
  }
}

function syntaxFaults(document: YamlDocument): Fault[] {
  return [...document.errors, ...document.warnings].map((error) => ({
    ...{ offset: error.pos[0], path: '', message: syntaxMessage(error) },
    fatal: document.errors.length > 0,
  }));
}

/** Drops what follows a colon: there the library quotes the text, which may contain a secret. */
function syntaxMessage(error: unknown): string {
  if (error instanceof RangeError || /call stack/.test(String(error))) return 'not valid here: nested too deeply';
  const [what = ''] = (error instanceof Error ? error.message : String(error)).split(': ');
  return `not valid YAML: ${what}`;
}

/** Duplicate keys, keys that are not plain words, and keys that JavaScript objects cannot have. */
function keyFaults(document: YamlDocument): Fault[] {
  const faults: Fault[] = [];
  visit(document, {
    Map(_, map, ancestors) {
      const pathOf = (pair: Pair): string =>
        [...ancestors.filter((each) => isPair(each)), pair].map((each) => keyOf(each as Pair)).join('.');
      faults.push(...keyFaultsOf(map, pathOf));
    },
  });
  return faults;
}

function keyFaultsOf(map: YAMLMap, pathOf: (pair: Pair) => string): Fault[] {
  const faults: Fault[] = [];
  const seen = new Set<string>();
  for (const pair of map.items) {
    const offset = startOf(pair.key) ?? startOf(map) ?? 0;
    if (!isScalar(pair.key)) {
      const message = 'expected a plain word as a key, got a list, a map or an alias';
      faults.push({ offset, path: '', message, fatal: true });
      continue;
    }
    const key = keyOf(pair);
    if (key === '__proto__') {
      faults.push({ offset, path: pathOf(pair), message: 'expected another key, got __proto__', fatal: true });
    } else if (key !== '<<' && seen.has(key)) {
      const message = 'duplicate key: the map has this key already';
      faults.push({ offset, path: pathOf(pair), message, fatal: false });
    }
    seen.add(key);
  }
  return faults;
}

/** The path of a value that contains itself. */
function findCircle(data: unknown): PropertyKey[] | undefined {
  const above = new Set<object>();
  const done = new Set<object>();
  const search = (value: unknown, path: readonly PropertyKey[]): PropertyKey[] | undefined => {
    if (typeof value !== 'object' || value === null || done.has(value)) return undefined;
    if (above.has(value)) return [...path];
    above.add(value);
    for (const [key, inner] of Object.entries(value)) {
      const found = typeof inner === 'object' ? search(inner, [...path, key]) : undefined;
      if (found !== undefined) return found;
    }
    above.delete(value);
    done.add(value);
    return undefined;
  };
  return search(data, []);
}

/** Environment variables are texts: `1.10`, `0x1F` and `true` reach the worker as they were written. */
function keepSpellingOfEnv(document: YamlDocument): void {
  visit(document, {
    Pair(_, pair) {
      if (!isScalar(pair.key) || pair.key.value !== 'env' || !isMap(pair.value)) return;
      for (const { value } of pair.value.items) {
        if (isScalar(value) && ['number', 'boolean'].includes(typeof value.value)) value.value = value.source;
      }
    },
  });
}

/** Arguments are sent as JSON with the numbers as they were written. */
function keepSpellingOfArguments(document: YamlDocument): void {
  visit(document, {
    Pair(_, pair) {
      if (!isScalar(pair.key) || pair.key.value !== 'warm_up_args' || !isNode(pair.value)) return undefined;
      visit(pair.value, {
        Scalar(key, scalar) {
          const { source = '' } = scalar;
          if (key !== 'key' && typeof scalar.value === 'number' && isJsonNumber(source))
            scalar.value = new SpelledNumber(source);
        },
      });
      return visit.SKIP;
    },
  });
}

function offsetOf(document: YamlDocument, path: readonly PropertyKey[], at: 'key' | 'value'): number {
  let node: unknown = document.contents;
  let offset = startOf(node) ?? 0;
  for (const [depth, key] of path.entries()) {
    const map = isAlias(node) ? node.resolve(document) : node;
    const pair = isMap(map) ? map.items.find((item) => keyOf(item) === String(key)) : undefined;
    if (pair === undefined) return offset;
    const last = depth === path.length - 1;
    const keyOffset = startOf(pair.key) ?? offset;
    // A map starts at its first key, so an absent key is better reported at the key of the map.
    offset = last && at === 'value' && !isMap(pair.value) ? (startOf(pair.value) ?? keyOffset) : keyOffset;
    node = pair.value;
  }
  return offset;
}

function keyOf(pair: Pair): string {
  return isScalar(pair.key) ? String(pair.key.value) : String(pair.key);
}

function startOf(node: unknown): number | undefined {
  return isNode(node) ? node.range?.[0] : undefined;
}
