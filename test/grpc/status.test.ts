import { Metadata } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { code, requestError } from '../../src/dispatch/request.ts';
import { errorMessage } from '../../src/grpc/proto.ts';
import { fromMetadata, toStatus } from '../../src/grpc/status.ts';

test.each([
  ['may have begun', { mayHaveBegun: true }, ['-1']],
  ['may have begun, with a retry time', { mayHaveBegun: true, retryAfterMs: 100 }, ['-1']],
  ['has not begun, with a retry time', { retryAfterMs: 100 }, ['100']],
  ['has not begun', {}, []],
])('a request that %s gives a gRPC retry policy the right pushback', (_what, more, pushback) => {
  expect(toStatus(requestError(code.unavailable, 'm', more)).metadata?.get('grpc-retry-pushback-ms')).toEqual(pushback);
});

test.each([true, false])('a client reads from an error that may_have_begun is %j', (mayHaveBegun) => {
  const { metadata } = toStatus(requestError(code.unavailable, 'm', { mayHaveBegun }));
  expect(fromMetadata(metadata ?? new Metadata())?.may_have_begun).toBe(mayHaveBegun);
});

test('an error without may_have_begun counts as one whose command may have begun', () => {
  const metadata = new Metadata();
  metadata.set('pitwarden-error-bin', errorMessage.encode({ code: code.unavailable, message: 'm' }));
  const error = fromMetadata(metadata);
  expect(error?.may_have_begun).toBe(true);
  expect(JSON.stringify(error)).not.toContain('_may_have_begun');
});
