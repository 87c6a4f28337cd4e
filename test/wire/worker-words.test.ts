import { expect, it } from 'vitest';
import { refusal } from '../../src/dispatch/request.ts';
import { toStatus } from '../../src/wire/status.ts';
import type { WorkerFrame, WorkerHello } from '../../src/wire/worker-link.ts';
import { checkHello, mendFrame } from '../../src/wire/worker-words.ts';

const payload = Buffer.from('1');
const error = { code: 2, type: 'builtins.ValueError', message: 'm', traceback: 't' };

function frameOf(results: readonly object[], chunks: readonly object[] = []): WorkerFrame {
  return { results, chunks } as unknown as WorkerFrame;
}

it.each([0, 17, 999, 2 ** 32 - 1])('takes the code %i of a worker for UNKNOWN', (code) => {
  const frame = frameOf([{ error: { ...error, code } }]);
  mendFrame(frame);
  expect(frame.results[0]?.error?.code).toBe(2);
});

it('leaves what callers expect as it is', () => {
  const results = ['', 'application/json', 'application/octet-stream'].map((content_type) => ({
    payload,
    content_type,
    error: { ...error, code: 16 },
  }));
  const before = results.map((result) => ({ ...result, error: { ...result.error } }));
  mendFrame(frameOf(results, results));
  expect(results).toEqual(before);
});

it('gives callers no content type that is unknown, and no text that is longer than they expect', () => {
  const frame = frameOf(
    [
      { payload, content_type: 'text/html\r\nx: y', error: null },
      { error: { code: 2, type: 'T'.repeat(1e6), message: 'ü'.repeat(1e6), traceback: `${'t'.repeat(1e6)}end` } },
    ],
    [{ payload, content_type: 'c'.repeat(1e6) }],
  );
  mendFrame(frame);
  expect([frame.results[0]?.content_type, frame.chunks[0]?.content_type]).toEqual([
    'application/octet-stream',
    'application/octet-stream',
  ]);
  const { type = '', message = '', traceback = '' } = frame.results[1]?.error ?? {};
  expect(Buffer.byteLength(type)).toBeLessThan(300);
  expect(Buffer.byteLength(message)).toBeLessThan(17_000);
  expect(Buffer.byteLength(traceback)).toBeLessThan(17_000);
  expect(traceback.endsWith('end')).toBe(true);
});

it.each([['n'.repeat(8_000)], ['üüü'.repeat(60)], [''], ['a\u001b[2J'], ['a\nb']])(
  'refuses a hello with the command name %j',
  (name) => {
    const hello = { commands: [{ name }], sdk_version: '1', python_version: '3' } as unknown as WorkerHello;
    expect(checkHello(hello)).toMatch(/^commands: expected names of 1 to 200 bytes without control characters, got /);
  },
);

it('shows the versions of a hello without control characters, and cut', () => {
  const hello = { commands: [], sdk_version: 'evil\u001b[31m\r\n', python_version: '9'.repeat(1_000) };
  expect(checkHello(hello as unknown as WorkerHello)).toBeUndefined();
  expect(hello.sdk_version).toBe('evil[31m');
  expect(hello.python_version).toHaveLength(64);
});

// gRPC's C core refuses trailers over 8 KiB.
it.each(['x', 'ü', '語', '😀', '%', ' '])(
  'a failure in %j alone fits into trailers as they are written',
  (character) => {
    const text = character.repeat(20_000);
    const { details, metadata } = toStatus(refusal(2, text, { type: text, traceback: text, workerId: 'w'.repeat(80) }));
    const trailers = Object.entries({ ...metadata.toHttp2Headers(), 'grpc-message': encodeURI(details ?? '') });
    const bytes = trailers.reduce((sum, [name, value]) => sum + name.length + String(value).length + 32, 0);
    expect(bytes).toBeLessThan(8_192);
    expect(details?.isWellFormed()).toBe(true);
  },
);
