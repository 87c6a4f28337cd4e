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
  type Document as YamlDocument,
} from 'yaml';
import { isJsonNumber, SpelledNumber } from './arguments.ts';
import type { Problem } from './problem.ts';

/** A YAML text as plain data, with the place of every path in it and what is wrong with its syntax. */
export interface SourceDocument {
  readonly data: unknown;
  readonly problems: readonly Problem[];
  /** The place of a value, or of its key; the nearest known place for what is absent. */
  locate(path: readonly PropertyKey[], at: 'key' | 'value'): { readonly line: number; readonly column: number };
}

export function readDocument(file: string, text: string): SourceDocument {
  const lines = new LineCounter();
  // No pretty errors: the place is reported as numbers, not drawn into the message.
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, merge: true });
  keepSpellingOfEnv(document);
  keepSpellingOfArguments(document);
  const place = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  const problems: Problem[] = [...document.errors, ...document.warnings].map((error) => ({
    file,
    ...place(error.pos[0]),
    path: error.code === 'DUPLICATE_KEY' ? pathAt(document, error.pos[0]) : '',
    message:
      error.code === 'DUPLICATE_KEY' ? 'duplicate key: the same key stands above' : `not valid YAML: ${error.message}`,
  }));
  const readable = document.errors.every(({ code }) => code === 'DUPLICATE_KEY');
  const { data, failure } = readable ? toData(document) : { data: undefined, failure: undefined };
  if (failure !== undefined) problems.push({ file, line: 1, column: 1, path: '', message: failure });
  return { data, problems, locate: (path, at) => place(offsetOf(document, path, at)) };
}

function toData(document: YamlDocument): { data: unknown; failure: string | undefined } {
  try {
    return { data: document.toJS(), failure: undefined };
  } catch (error) {
    // Aliases that multiply without end, or that name no anchor.
    return { data: undefined, failure: `not valid YAML: ${error instanceof Error ? error.message : String(error)}` };
  }
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

/** Arguments go to a command as JSON, with the numbers that were written. */
function keepSpellingOfArguments(document: YamlDocument): void {
  visit(document, {
    Pair(_, pair) {
      if (!isScalar(pair.key) || pair.key.value !== 'warm_up_args' || !isNode(pair.value)) return;
      visit(pair.value, {
        Scalar(key, scalar) {
          const { source = '' } = scalar;
          if (key !== 'key' && typeof scalar.value === 'number' && isJsonNumber(source))
            scalar.value = new SpelledNumber(source);
        },
      });
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
    // A map's own start is its first key, so what is absent from it is better reported at the key above.
    offset = last && at === 'value' && !isMap(pair.value) ? (startOf(pair.value) ?? keyOffset) : keyOffset;
    node = pair.value;
  }
  return offset;
}

function pathAt(document: YamlDocument, offset: number): string {
  let found = '';
  visit(document, {
    Pair(_, pair, ancestors) {
      if (startOf(pair.key) !== offset) return undefined;
      found = [...ancestors.filter((each) => isPair(each)), pair].map((each) => keyOf(each as Pair)).join('.');
      return visit.BREAK;
    },
  });
  return found;
}

function keyOf(pair: Pair): string {
  return isScalar(pair.key) ? String(pair.key.value) : String(pair.key);
}

function startOf(node: unknown): number | undefined {
  return isNode(node) ? node.range?.[0] : undefined;
}
