import { expect, test } from 'vitest';
import type { Event } from '../../src/domain/event.ts';
import { reportRefusals } from '../../src/telemetry/link-refusals.ts';

test('each refused hello is counted, and one per second and reason is reported with the number of those left out', () => {
  let nowMs = 0;
  const counted: string[] = [];
  const reported: Event[] = [];
  const report = reportRefusals({
    nowMs: () => nowMs,
    count: (reason) => counted.push(reason),
    report: (e) => reported.push(e),
  });
  const worker = { id: 'b-0-abcdefgh', pool: 'b' };
  for (let index = 0; index < 5; index += 1) report({ reason: 'wrong_token', message: 'wrong', worker });
  report({ reason: 'unknown_worker', message: 'unknown' });
  nowMs = 1_000;
  report({ reason: 'wrong_token', message: 'wrong', worker });
  expect(counted).toHaveLength(7);
  expect(reported).toEqual([
    { type: 'link-refused', worker, message: 'wrong' },
    { type: 'link-refused', worker: null, message: 'unknown' },
    {
      type: 'link-refused',
      worker,
      message: 'wrong (and 4 more refused as wrong_token since the last report)',
    },
  ]);
});
