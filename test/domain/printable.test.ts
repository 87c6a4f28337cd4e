import fc from 'fast-check';
import { expect, test } from 'vitest';
import { printable, printableEntry, printableJson, printableLine } from '../../src/domain/printable.ts';

/** Characters that control a terminal, except tab and newline. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be left
const acts = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/;

test('control characters are shown as escapes, and text in any language is unchanged', () => {
  const cases: [string, string][] = [
    ['all is well', 'all is well'],
    ['größer, 更大, 👍🏽', 'größer, 更大, 👍🏽'],
    ['a\tb\nc', 'a\tb\nc'],
    ['x\r12:00:00 pool safe added', 'x\\r12:00:00 pool safe added'],
    ['\x1b[K\x1b]0;title\x07', '\\x1b[K\\x1b]0;title\\x07'],
    ['\x9b8m', '\\x9b8m'],
    ['user\u202etxt.exe', 'user\\u202etxt.exe'],
  ];
  for (const [text, shown] of cases) expect(printable(text)).toBe(shown);
});

test('a table cell stays on one line, and the further lines of an entry are indented', () => {
  expect(printableLine('a\nb\tc')).toBe('a\\nb\\tc');
  expect(printableEntry('it failed\n12:00:00 pool safe added')).toBe('it failed\n    12:00:00 pool safe added');
});

test('printable text has no control characters, and printable JSON has the same value', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(printable(text)).not.toMatch(acts);
      const json = printableJson(JSON.stringify({ text }));
      expect(json).not.toMatch(acts);
      expect(JSON.parse(json)).toEqual({ text });
    }),
  );
});
