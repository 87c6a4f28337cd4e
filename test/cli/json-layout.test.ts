import fc from 'fast-check';
import { expect, test } from 'vitest';
import { layOut } from '../../src/cli/json-layout.ts';

test('numbers, the order of keys and repeated keys are unchanged', () => {
  const sent = '{"id": 9007199254740993, "10": "ten", "2": "two", "ratio": 1.0, "e":1E400, "2":null}';
  expect(layOut(sent)).toBe(
    '{\n  "id": 9007199254740993,\n  "10": "ten",\n  "2": "two",\n  "ratio": 1.0,\n  "e": 1E400,\n  "2": null\n}',
  );
  expect(layOut('12345678901234567890')).toBe('12345678901234567890');
});

test('the layout is the same as that of JSON.stringify', () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.constantFrom(undefined, 1, '\t'), (value, indent) => {
      const once: unknown = JSON.parse(JSON.stringify(value));
      expect(layOut(JSON.stringify(once, null, indent))).toBe(JSON.stringify(once, null, 2));
    }),
  );
});

test('invalid or deeply nested JSON causes neither an error nor excessive output', () => {
  for (const text of ['', '}', ']]]', '"open', '"\\', '{"a":', '\u0000']) expect(() => layOut(text)).not.toThrow();
  const deep = '['.repeat(100_000) + ']'.repeat(100_000);
  expect(layOut(deep).length).toBeLessThan(50_000_000);
});
