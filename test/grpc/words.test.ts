import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { recordKinds } from '../../src/domain/action.ts';
import { reasons } from '../../src/domain/reason.ts';

const proto = readFileSync(new URL('../../proto/pitwarden/v1/control.proto', import.meta.url), 'utf8');

/** The words that the comment above a field lists, one on each line with its meaning. */
function wordsAt(message: string, field: string): string[] {
  const body = new RegExp(`^message ${message} \\{\\n(.*?)^\\}`, 'ms').exec(proto)?.[1] ?? '';
  const comment = new RegExp(`((?:^ *//.*\\n)+)^ *string ${field} = `, 'm').exec(body)?.[1] ?? '';
  return [...comment.matchAll(/^ *\/\/ {3}(\w+) {2,}\S/gm)].map(([, word = '']) => word);
}

test('control.proto explains every kind of event, and no other', () => {
  expect(wordsAt('NodeEvent', 'kind').sort()).toEqual([...recordKinds].sort());
});

test('control.proto explains every reason for which a worker ends, and no other', () => {
  expect(wordsAt('Worker', 'reason').sort()).toEqual([...reasons].sort());
});
