import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Metadata, status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { code, requestError } from '../../src/dispatch/request.ts';
import { errorReasons, reasonOfCode } from '../../src/domain/error-reason.ts';
import { encodeDetails, failedStatus } from '../../src/grpc/error-details.ts';
import { toStatus } from '../../src/grpc/status.ts';
import { fieldsOf, statusOf } from './rpc-status.ts';

const root = join(import.meta.dirname, '../..');
const proto = readFileSync(join(root, 'proto/pitwarden/v1/execution.proto'), 'utf8');
const wire = (metadata: Metadata | undefined | null, key: string) =>
  (metadata?.get(key)[0] as Buffer | undefined) ?? Buffer.alloc(0);

test('execution.proto explains every reason, and no other', () => {
  const [, comment = ''] = /((?:^ *\/\/.*\n)+)^ *string reason = 9;/m.exec(proto) ?? [];
  const words = [...comment.matchAll(/^ *\/\/ {3}([A-Z_]+) {2,}\S/gm)].map(([, word = '']) => word);
  expect(words.sort()).toEqual([...errorReasons].sort());
});

test('every reason is given somewhere, by name or by its code', () => {
  const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter(
    (path) => path.endsWith('.ts') && !path.endsWith('error-reason.ts'),
  );
  const text = sources.map((path) => readFileSync(join(root, 'src', path), 'utf8')).join('\n');
  const byCode = new Set(Array.from({ length: 17 }, (_, number) => reasonOfCode(number)));
  expect(errorReasons.filter((word) => !text.includes(`'${word}'`) && !byCode.has(word))).toEqual([]);
  for (const word of errorReasons) expect(word).toMatch(/^[A-Z][A-Z_]{1,62}[A-Z]$/);
});

test('a refusal says its reason, when to come back and which field is wrong, as google.rpc has it', () => {
  const full = toStatus(
    requestError(code.resourceExhausted, 'the queue is full', { reason: 'QUEUE_FULL', retryAfterMs: 1_250 }),
  );
  expect(statusOf(wire(full.metadata, 'grpc-status-details-bin'))).toEqual({
    code: status.RESOURCE_EXHAUSTED,
    message: 'the queue is full',
    details: {
      ErrorInfo: { reason: 'QUEUE_FULL', domain: 'pitwarden', metadata: {} },
      RetryInfo: { seconds: 1, nanos: 250_000_000 },
    },
  });
  const wrong = failedStatus(status.INVALID_ARGUMENT, 'size: expected 0 to 1000, got none', 'INVALID_REQUEST');
  expect(statusOf(wire(wrong.metadata, 'grpc-status-details-bin')).details).toEqual({
    ErrorInfo: { reason: 'INVALID_REQUEST', domain: 'pitwarden', metadata: {} },
    BadRequest: [{ field: 'size', description: 'expected 0 to 1000, got none' }],
  });
});

test('a request that may have begun is not offered for a retry, and its worker is named', () => {
  const error = requestError(code.unavailable, 'worker w-1 ended', {
    ...{ reason: 'WORKER_ENDED', workerId: 'w-1', exitReason: 'signal', retryAfterMs: 100, mayHaveBegun: true },
  });
  expect(statusOf(wire(toStatus(error).metadata, 'grpc-status-details-bin')).details).toEqual({
    ErrorInfo: { reason: 'WORKER_ENDED', domain: 'pitwarden', metadata: { worker_id: 'w-1', exit_reason: 'signal' } },
  });
});

test.each([
  ['plain', 'x'],
  ['of three bytes a character', '€'],
  ['of four', '😀'],
  ['of control characters', '\u0007'],
  ['of lone surrogates', '\ud800'],
])(
  'however long its texts are (%s), the trailers of an error fit into 8 KiB, and its status repeats grpc-message',
  (_, unit) => {
    const long = unit.repeat(20_000);
    const error = requestError(code.unknown, long, {
      ...{
        reason: 'COMMAND_FAILED',
        type: long,
        traceback: long,
        workerId: 'w'.repeat(300),
        exitReason: 'memory_hard',
      },
    });
    const sent = toStatus(error);
    const details = sent.details ?? '';
    const told = statusOf(wire(sent.metadata, 'grpc-status-details-bin'));
    expect(told.message).toBe(details);
    expect(told.code).toBe(sent.code);
    const onWire = Object.entries(sent.metadata?.getMap() ?? {}).map(
      ([name, value]) => name.length + 32 + (Buffer.isBuffer(value) ? Math.ceil(value.length / 3) * 4 : value.length),
    );
    expect(onWire.reduce((sum, bytes) => sum + bytes) + encodeURI(details).length + 64).toBeLessThanOrEqual(8 * 1024);
  },
);

test('a short error keeps the last 3,000 bytes of its traceback', () => {
  const error = requestError(code.unknown, 'no', { type: 'builtins.ValueError', traceback: 'abc'.repeat(5_000) });
  const traceback = fieldsOf(wire(toStatus(error).metadata, 'pitwarden-error-bin')).find(({ number }) => number === 4);
  expect(traceback?.bytes.length).toBeGreaterThan(2_990);
});

test('bounds what it is given', () => {
  const bytes = encodeDetails({
    ...{ code: 3, message: `${'a'.repeat(64)}: ${'b'.repeat(1_400)}`, reason: 'INVALID_REQUEST' },
    metadata: { worker_id: 'x'.repeat(10_000) },
  });
  expect(bytes.length).toBeLessThan(2_200);
});
