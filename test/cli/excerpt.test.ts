import { expect, test } from 'vitest';
import { excerpt, shortLine } from '../../src/cli/excerpt.ts';
import { table } from '../../src/cli/table.ts';

test('of a long text the first line and the last ones are shown, each of bounded length', () => {
  const lines = Array.from({ length: 160 }, (_, index) => `${index} ${'x'.repeat(1_000)}`);
  const shown = excerpt(`p-0-id: exited with code 1; its last lines:\n${lines.join('\n')}`);
  expect(shown.length).toBeLessThan(3_000);
  expect(shown).toMatch(/^p-0-id: exited with code 1; its last lines:\n {4}… 150 lines …\n {4}150 x+…\n/);
  expect(shown).toMatch(/\n {4}159 x+…$/);
});

test("a worker's text can be mistaken neither for the command line's own nor for terminal commands", () => {
  expect(excerpt('p: ended\n\rq: all is well\x1b[1A\n')).toBe('p: ended\n    \\rq: all is well\\x1b[1A\n    ');
  expect(shortLine('a\nb\tc')).toBe('a\\nb\\tc');
});

test('a table cell has a bounded length', () => {
  const drawn = table(['NAME', 'HOW'], [['p', `${'☃'.repeat(5_000)}`]]);
  expect(Math.max(...drawn.split('\n').map((line) => line.length))).toBeLessThan(260);
});
