import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import type { ProcessIdentity } from '../../src/os/process/identity.ts';
import { hasProc, identify } from '../../src/os/process/identity.ts';
import { markOf } from '../../src/os/process/tree-mark.ts';
import { needs } from '../needs.ts';

const folder = mkdtempSync(join(tmpdir(), 'pw-'));
const sleepers = hasProc ? [sleeper(), sleeper()] : [];
afterAll(() => {
  for (const { pid } of sleepers) process.kill(pid, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

function sleeper(): ProcessIdentity {
  const child = spawn('sleep', ['1000'], { stdio: 'ignore', detached: true });
  const identity = identify(child.pid ?? 0);
  if (identity === undefined) throw new Error('sleep did not start');
  return identity;
}

const script = join(import.meta.dirname, '../../bin/guardian.sh');
/** One round of the guardian that records its signals instead of sending them. */
const rehearsal = `
  kill() { printf '%s\\n' "$*" >>"$SIGNALS"; }
  sleep() { return 1; }
  . "$SCRIPT"`;

async function signalsFor(lines: readonly string[]): Promise<string[]> {
  const signals = join(mkdtempSync(join(folder, 'run-')), 'signals');
  writeFileSync(signals, '');
  const env = { PATH: process.env['PATH'] ?? '', SIGNALS: signals, SCRIPT: script };
  await new Promise<void>((resolve) => {
    const child = execFile('/bin/sh', ['-c', rehearsal, 'sh', join(folder, 'agent.lock')], { env }, () => resolve());
    child.stdin?.end(lines.map((line) => `${line}\n`).join(''));
  });
  return readFileSync(signals, 'utf8').split('\n').filter(Boolean);
}

interface Line {
  readonly pid: string;
  readonly start: string;
  readonly limit: string;
}

function drawLine(): fc.Arbitrary<Line> {
  const named = [...sleepers, identify(1)].filter((each) => each !== undefined);
  const pid = fc.constantFrom(
    '0',
    '1',
    '-1',
    '01',
    '00',
    '-0',
    '1 ',
    '9'.repeat(30),
    ...named.map((each) => `${each.pid}`),
  );
  const start = fc.constantFrom('0', '1', '', '-1', ...named.map((each) => each.startTime));
  const limit = fc.constantFrom('0', '0', '1', '00', '-1', 'x', '9'.repeat(10), '9'.repeat(30));
  const right = fc.constantFrom(...sleepers).map((each) => ({ pid: `${each.pid}`, start: each.startTime, limit: '0' }));
  const exact = fc.constantFrom(...named).map((each) => ({ pid: `${each.pid}`, start: each.startTime }));
  const exactly = fc.tuple(exact, limit).map(([one, seconds]) => ({ ...one, limit: seconds }));
  return fc.oneof(right, exactly, fc.record({ pid, start, limit }));
}

test('whatever a guardian reads from its input, it signals only workers that match exactly and whose limit has passed', {
  ...needs('/proc', hasProc),
  timeout: 60_000,
}, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(drawLine(), { minLength: 1, maxLength: 6 }), async (lines) => {
      /** Of several valid lines about one process the last one counts. */
      const limits = new Map<string, string>();
      for (const { pid, start, limit } of lines) {
        const known = sleepers.some((each) => `${each.pid}` === pid && each.startTime === start);
        if (known && /^(0|[1-9]\d{0,15})$/.test(limit)) limits.set(pid, limit);
      }
      const due = [...limits].filter(([, limit]) => limit === '0').map(([pid]) => `-s KILL -- -${pid} ${pid}`);
      const signals = await signalsFor(
        lines.map(({ pid, start, limit }) => `${pid} ${start} ${limit} ${markOf('w')} -`),
      );
      expect(signals.sort()).toEqual(due.sort());
    }),
    { numRuns: 60 },
  );
});
