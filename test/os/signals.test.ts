import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { expect, test } from 'vitest';
import { signalEffects } from '../../src/os/process/signals.ts';

const docs = readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8');

test('it is decided and documented what each signal of the system does to the agent', () => {
  expect(Object.keys(signalEffects)).toEqual(expect.arrayContaining(Object.keys(constants.signals)));
  const section = docs.slice(docs.indexOf('## Signals'));
  const rows = [...section.matchAll(/^\| (SIG[^|]*) \|/gm)].map((match) => match[1] ?? '');
  const documented = rows.flatMap((row) => row.split(', ')).sort();
  expect(documented).toEqual(Object.keys(signalEffects).sort());
});
