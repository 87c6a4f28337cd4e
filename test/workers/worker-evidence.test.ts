import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { Evidence, KeptExit } from '../../src/domain/evidence.ts';
import type { InspectedWorker } from '../../src/workers/evidence.ts';
import { finishEvidence, logStacksAtShutdown } from '../../src/workers/evidence.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const stacks =
  'Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n  File "/a.py", line 1 in f\n';
const request = { command: 'c', requestId: 'r', ageMs: 1, cancelled: false, progress: null };
const options = { dispatch: { requestsOf: () => [request] }, log: { error: () => undefined }, nowMs: () => 7 };

function worker(patch: Partial<InspectedWorker> = {}): InspectedWorker {
  const stacksPath = join(dir, 'w.stacks');
  writeFileSync(stacksPath, stacks);
  const process = { lastLines: () => ['a last word'] };
  return {
    workerId: 'w',
    identity: null,
    hello: null,
    process,
    stacksPath,
    evidence: null,
    inspection: null,
    ...patch,
  };
}

test.each([
  ['SIGABRT', 'it crashed with SIGABRT'],
  // A worker that an earlier agent started: only that agent learned how it ended.
  [null, 'it crashed'],
])('a crash (%s) leaves stacks, requests and last lines as evidence', async (signal, because) => {
  const its = worker();
  expect(await finishEvidence(options, its, { code: null, signal })).toBe('f (/a.py, line 1)');
  expect(its.evidence).toMatchObject({
    because,
    stacks,
    requests: [request],
    lastLines: ['a last word'],
    takenAtMs: 7,
  });
});

test.each([
  ['that is killed', { code: null, signal: 'SIGKILL' }],
  ['that exits', { code: 1, signal: null }],
])('a worker %s has not crashed, whatever its stacks file says', async (_, exit) => {
  const its = worker();
  expect(await finishEvidence(options, its, exit)).toBe('');
  expect(its.evidence).toBeNull();
});

test('the end of a worker waits for its inspection and keeps the result', async () => {
  const seen: Evidence = {
    ...{ takenAtMs: 1, because: 'did not exit when asked', state: 'S', threads: [], stacksMissing: '' },
    ...{ stacks: stacks.slice(stacks.indexOf('Current')), requests: [], lastLines: [] },
  };
  const its = worker();
  its.inspection = new Promise((resolve) =>
    setImmediate(() => {
      its.evidence = seen;
      resolve();
    }),
  );
  expect(await finishEvidence(options, its, { code: null, signal: 'SIGKILL' })).toBe('f (/a.py, line 1)');
  expect(its.evidence).toBe(seen);
});

test('a shutdown logs the stacks of one worker of each pool', () => {
  const lines: string[] = [];
  const keep = logStacksAtShutdown({ warn: (line) => lines.push(line) });
  const exit = (pool: string, reason: string, evidence: object | null) =>
    ({ workerId: `${pool}-0`, pool, reason, evidence }) as KeptExit;
  const evidence = { because: 'did not exit when asked', stacks };
  for (const reason of ['operator', 'shutdown', 'shutdown']) keep(exit('p', reason, evidence));
  keep(exit('q', 'shutdown', null));
  keep(exit('r', 'shutdown', evidence));
  expect(lines).toEqual(['p-0', 'r-0'].map((id) => `${id} did not exit when asked; its stacks:\n${stacks}`));
});
