import { expect, test } from 'vitest';
import { requestError } from '../../src/dispatch/request.ts';
import { createFailedRequests } from '../../src/telemetry/failed-requests.ts';

const request = { requestId: 'r1', command: 'count', pool: 'p', workerId: 'p-0-x' };
const traceback =
  'Traceback (most recent call last):\n  File "/srv/app.py", line 3, in load\n    open(path)\nValueError: torn';

test('a failed request is logged in one line with its id, command, type and last frame', () => {
  const lines: [string, unknown][] = [];
  const failed = createFailedRequests({ warn: (message, fields) => lines.push([message, fields]) }, () => 0);
  failed(request, requestError(2, 'torn\nand more', { type: 'builtins.ValueError', traceback }));
  expect(lines).toEqual([
    [
      'request failed: builtins.ValueError: torn',
      {
        ...{ request_id: 'r1', pool: 'p', command: 'count', worker_id: 'p-0-x', code: 2 },
        ...{ type: 'builtins.ValueError', frame: 'File "/srv/app.py", line 3, in load' },
      },
    ],
  ]);
});

test('many failed requests are logged at a limited rate, with the number of those left out', () => {
  let nowMs = 0;
  const lines: Record<string, unknown>[] = [];
  const failed = createFailedRequests({ warn: (_message, fields) => lines.push(fields ?? {}) }, () => nowMs);
  for (let i = 0; i < 1_000; i += 1) failed(request, requestError(14, 'x'.repeat(5_000)));
  expect(lines).toHaveLength(20);
  nowMs += 1_000;
  for (let i = 0; i < 1_000; i += 1) failed(request, requestError(14, 'm'));
  expect(lines).toHaveLength(25);
  expect(lines[20]).toMatchObject({ failed_and_not_logged: 980 });
});
