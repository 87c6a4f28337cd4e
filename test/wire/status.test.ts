import { expect, test } from 'vitest';
import { code, refusal } from '../../src/dispatch/request.ts';
import { toStatus } from '../../src/wire/status.ts';

test.each([
  ['may have begun', { mayHaveBegun: true }, ['-1']],
  ['may have begun, whatever the advice', { mayHaveBegun: true, retryAfterMs: 100 }, ['-1']],
  ['has not begun, and may be tried later', { retryAfterMs: 100 }, ['100']],
  ['has not begun', {}, []],
])('what %s says to a retry policy of gRPC', (_what, more, pushback) => {
  expect(toStatus(refusal(code.unavailable, 'm', more)).metadata?.get('grpc-retry-pushback-ms')).toEqual(pushback);
});
