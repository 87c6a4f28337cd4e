import { expect, test } from 'vitest';
import { createSampleFailures } from '../../src/telemetry/sample-failures.ts';

test('failed samples are logged once a minute, however many workers there are', () => {
  const lines: string[] = [];
  let nowMs = 0;
  const failed = createSampleFailures({ error: (line) => lines.push(line) }, () => nowMs);
  for (; nowMs < 90_000; nowMs += 1_000) {
    for (let worker = 0; worker < 200; worker += 1) failed(new Error('EMFILE: too many open files'));
  }
  const what = 'memory and cpu time could not be measured: EMFILE: too many open files';
  expect(lines).toEqual([what, `${what} (11999 more samples failed since the last report)`]);
});
