import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { signalEffects } from '../../src/os/process/signals.ts';

const docs = readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8');

test('the effect of every signal is defined and documented', () => {
  expect(Object.keys(signalEffects)).toEqual(expect.arrayContaining(Object.keys(constants.signals)));
  const section = docs.slice(docs.indexOf('## Signals'));
  const rows = [...section.matchAll(/^\| (SIG[^|]*) \|/gm)].map((match) => match[1] ?? '');
  const documented = rows.flatMap((row) => row.split(', ')).sort();
  expect(documented).toEqual(Object.keys(signalEffects).sort());
});

test('an agent under node --cpu-prof leaves SIGPROF to the profiler', () => {
  const folder = mkdtempSync(join(tmpdir(), 'pw-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const signals = new URL('../../dist/os/process/signals.js', import.meta.url).href;
  const busy = `import { ignoreSignals } from '${signals}';
    ignoreSignals(() => undefined);
    for (const fromMs = performance.now(); performance.now() - fromMs < 500; );`;
  spawnSync(process.execPath, ['--cpu-prof', '--cpu-prof-dir', folder, '--input-type=module', '--eval', busy]);
  const profile = JSON.parse(readFileSync(join(folder, readdirSync(folder)[0] ?? ''), 'utf8'));
  // Every 10 ms at worst. With a listener of ours they end within the first milliseconds.
  expect(profile.samples.length).toBeGreaterThan(30);
});
