import { expect, test } from 'vitest';
import { suggestion } from '../../src/cli/suggestion.ts';

const known = { commands: ['status', 'exits', 'explain', 'call'], flags: ['--json', '--node', '--abort', '--pool'] };

test('a similar word is suggested if it changes nothing', () => {
  expect(suggestion("error: unknown command 'stauts'", known)).toBe('\n(Did you mean status?)');
  expect(suggestion("error: unknown option '--jsno'", known)).toBe('\n(Did you mean --json?)');
});

test('a word that stops, drains or widens is never suggested', () => {
  for (const word of ['sotp', 'stpo', 'drian', 'recylce', 'handoevr'])
    expect(suggestion(`error: unknown command '${word}'`, known)).toBe('');
  expect(suggestion("error: unknown option '--nod'", known)).toBe('');
  expect(suggestion("error: unknown option '--abrot'", known)).toBe('');
});
