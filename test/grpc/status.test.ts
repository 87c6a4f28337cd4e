import { Metadata } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { code, refusal } from '../../src/dispatch/request.ts';
import { errorMessage } from '../../src/grpc/proto.ts';
import { fromMetadata, toStatus } from '../../src/grpc/status.ts';

test.each([
  ['may have begun', { mayHaveBegun: true }, ['-1']],
  ['may have begun, whatever the advice', { mayHaveBegun: true, retryAfterMs: 100 }, ['-1']],
  ['has not begun, and may be tried later', { retryAfterMs: 100 }, ['100']],
  ['has not begun', {}, []],
])('what %s says to a retry policy of gRPC', (_what, more, pushback) => {
  expect(toStatus(refusal(code.unavailable, 'm', more)).metadata?.get('grpc-retry-pushback-ms')).toEqual(pushback);
});

test.each([true, false])('a client reads from an error that may_have_begun is %j', (mayHaveBegun) => {
  const { metadata } = toStatus(refusal(code.unavailable, 'm', { mayHaveBegun }));
  expect(fromMetadata(metadata ?? new Metadata())?.may_have_begun).toBe(mayHaveBegun);
});

test('an error that does not say so counts as one whose command may have begun', () => {
  const metadata = new Metadata();
  metadata.set('pitwarden-error-bin', errorMessage.encode({ code: code.unavailable, message: 'm' }));
  const told = fromMetadata(metadata);
  expect(told?.may_have_begun).toBe(true);
  expect(JSON.stringify(told)).not.toContain('_may_have_begun');
});
