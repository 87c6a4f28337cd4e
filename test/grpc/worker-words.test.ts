import fc from 'fast-check';
import protobuf from 'protobufjs';
import { expect, test } from 'vitest';
import { requestError } from '../../src/dispatch/request.ts';
import { printableLine } from '../../src/domain/printable.ts';
import { services } from '../../src/grpc/proto.ts';
import { toStatus } from '../../src/grpc/status.ts';
import { boundByLife, checkHello, mendFrame } from '../../src/grpc/worker-link/sanitize.ts';
import type { WorkerFrame, WorkerHello } from '../../src/grpc/worker-link/source.ts';

const payload = Buffer.from('1');
const error = { code: 2, type: 'builtins.ValueError', message: 'm', traceback: 't' };

function frameOf(results: readonly object[], chunks: readonly object[] = []): WorkerFrame {
  return { results, chunks, progress: [], leaving_reason: '' } as unknown as WorkerFrame;
}

test.each([0, 17, 999, 2 ** 32 - 1])('an error with the unknown code %i of a worker becomes UNKNOWN', (code) => {
  const frame = frameOf([{ error: { ...error, code } }]);
  mendFrame(frame);
  expect(frame.results[0]?.error?.code).toBe(2);
});

test('results with known content types and codes stay as they are', () => {
  const results = ['', 'application/json', 'application/octet-stream'].map((content_type) => ({
    payload,
    content_type,
    error: { ...error, code: 16 },
  }));
  const before = results.map((result) => ({ ...result, error: { ...result.error } }));
  mendFrame(frameOf(results, results));
  expect(results).toEqual(before);
});

test('unknown content types of a worker become plain bytes, and its long texts are cut', () => {
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

test.each([['n'.repeat(8_000)], ['üüü'.repeat(60)], [''], ['a\u001b[2J'], ['a\nb']])(
  'a hello with the command name %j is refused',
  (name) => {
    const hello = {
      commands: [{ name }],
      sdk_version: '1',
      python_version: '3',
      resumed: null,
    } as unknown as WorkerHello;
    expect(checkHello(hello)).toMatch(/^commands: expected names of 1 to 200 bytes without control characters, got /);
  },
);

test('the versions of a hello are cut, and their control characters are escaped', () => {
  const hello = { commands: [], sdk_version: 'evil\u001b[31m\r\n', python_version: '9'.repeat(1_000), resumed: null };
  expect(checkHello(hello as unknown as WorkerHello)).toBeUndefined();
  expect(hello.sdk_version).toBe('evil\\x1b[31m\\r\\n');
  expect(hello.python_version).toHaveLength(64);
});

// gRPC's C core refuses trailers over 8 KiB.
test.each(['x', 'ü', '語', '😀', '%', ' '])(
  'an error whose texts consist of %j fits into trailers as they are written',
  (character) => {
    const text = character.repeat(20_000);
    const { details, metadata } = toStatus(
      requestError(2, text, { type: text, traceback: text, workerId: 'w'.repeat(80) }),
    );
    const trailers = Object.entries({ ...metadata.toHttp2Headers(), 'grpc-message': encodeURI(details ?? '') });
    const bytes = trailers.reduce((sum, [name, value]) => sum + name.length + String(value).length + 32, 0);
    expect(bytes).toBeLessThan(8_192);
    expect(details?.isWellFormed()).toBe(true);
  },
);

/** The type of protobufjs. */
const Long = protobuf.util.Long as unknown as {
  fromNumber(value: number, unsigned: boolean): object;
  isLong(value: unknown): boolean;
};

/** Encodes and decodes frames of workers as the agent does. */
const { requestDeserialize: decode } = services.WorkerLink['Attach'] as never as {
  requestDeserialize(bytes: Buffer): WorkerFrame;
};
const { requestSerialize: encode } = services.WorkerLink['Attach'] as never as {
  requestSerialize(frame: object): Buffer;
};

const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom(
    '',
    '\u001b[2J',
    'a\r\nb\tc',
    '\u0000',
    '\u202e',
    'x'.repeat(300),
    '語'.repeat(20_000),
    '\u0007'.repeat(20_000),
  ),
);
const uint32 = fc.oneof(fc.nat(1_000), fc.constantFrom(0, 1, 2 ** 31, 2 ** 32 - 1));
const uint64 = fc.constantFrom(
  ...[0, 1, 2 ** 53 - 1, 2 ** 53, 2 ** 63, 2 ** 64 - 2_048].map((value) => Long.fromNumber(value, true)),
);
const double = fc.oneof(
  fc.double(),
  fc.constantFrom(Number.NaN, -0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e308, 0.5),
);
const bytes = fc.constant(Buffer.from('1'));
const wellNamed = fc.constantFrom('echo', 'sleep', 'x'.repeat(200));

/** Draws messages from link.proto itself, so that fields that are added there are drawn too. */
function messageOf(type: protobuf.Type): fc.Arbitrary<object> {
  const fields = type.fieldsArray.map((field) => {
    const { name, resolvedType, repeated } = field.resolve();
    const one =
      resolvedType instanceof protobuf.Type ? messageOf(resolvedType) : valuesOf(field.type, `${type.name}.${name}`);
    return [name, repeated ? fc.array(one, { maxLength: 3 }) : one] as const;
  });
  return fc.record(Object.fromEntries(fields), { requiredKeys: [] });
}

function valuesOf(type: string, field: string): fc.Arbitrary<unknown> {
  // Half of the names are valid: a hello with an invalid name is refused as a whole, which would hide its other fields.
  if (field === 'Command.name') return fc.oneof(wellNamed, wellNamed, text);
  const values: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
    string: text,
    bytes,
    bool: fc.boolean(),
    uint32,
    uint64,
    double,
  };
  const drawn = values[type];
  if (drawn === undefined) throw new Error(`no values for ${field}, ${type}: say what a worker may write there`);
  return drawn;
}

const linkRoot = protobuf.loadSync('proto/pitwarden/v1/link.proto');
const frames = messageOf(linkRoot.lookupType('pitwarden.v1.WorkerFrame'));

/** The bounds of each text that others may get. Fields that are missing here are ids and flags, which may have any value. */
const texts: Readonly<Record<string, { readonly maxBytes: number; readonly asWritten?: boolean }>> = {
  'hello.commands.name': { maxBytes: 200 },
  'hello.commands.summary': { maxBytes: 600 },
  'hello.sdk_version': { maxBytes: 192 },
  'hello.python_version': { maxBytes: 192 },
  'chunks.content_type': { maxBytes: 24 },
  'results.content_type': { maxBytes: 24 },
  'results.error.type': { maxBytes: 256 },
  'results.error.message': { maxBytes: 16 * 1024, asWritten: true },
  'results.error.traceback': { maxBytes: 16 * 1024, asWritten: true },
  'progress.message': { maxBytes: 600 },
  leaving_reason: { maxBytes: 3 * 1024 },
};
/** Texts that are never shown: they are compared with what the agent knows, or refused if they are too long. */
const unseen = new Set([
  'hello.token',
  'hello.worker_id',
  'hello.resumed.held.request_id',
  'hello.resumed.held.command',
]);

function look(value: unknown, path: string): void {
  if (Array.isArray(value)) for (const each of value) look(each, path);
  else if (typeof value === 'string') lookAtText(value, path);
  else if (typeof value === 'number') expect(Number.isFinite(value), path).toBe(true);
  else if (typeof value === 'object' && value !== null && !Buffer.isBuffer(value) && !Long.isLong(value)) {
    for (const [name, each] of Object.entries(value)) look(each, path === '' ? name : `${path}.${name}`);
  }
}

function lookAtText(value: string, path: string): void {
  if (unseen.has(path)) return;
  const bound = texts[path];
  if (bound === undefined) throw new Error(`${path}: a text of workers without a bound`);
  expect(Buffer.byteLength(value), path).toBeLessThanOrEqual(bound.maxBytes);
  if (bound.asWritten !== true) expect(printableLine(value), path).toBe(value);
}

test("all texts and numbers of a worker's messages reach others within their bounds", () => {
  fc.assert(
    fc.property(frames, (drawn) => {
      const frame = decode(encode(drawn));
      mendFrame(frame);
      for (const { fraction } of frame.progress) expect(fraction >= -1 && fraction <= 1).toBe(true);
      for (const { error: failed } of frame.results)
        if (failed !== null) expect(failed.code >= 1 && failed.code <= 16).toBe(true);
      const { hello, ...rest } = frame;
      look(rest, '');
      if (hello === null || checkHello(hello) !== undefined) return;
      boundByLife(hello, 5_000);
      look(hello, 'hello');
      for (const ms of [hello.interpreter_ms, hello.import_ms, hello.hooks_ms]) expect(ms).toBeLessThanOrEqual(5_000);
      const { completed, failed, held } = hello.resumed ?? { completed: 0, failed: 0, held: [] };
      expect([completed, failed].every(Number.isSafeInteger)).toBe(true);
      for (const { request_id, command, age_ms } of held) {
        expect(age_ms).toBeLessThanOrEqual(5_000);
        expect([Buffer.byteLength(request_id) <= 128, Buffer.byteLength(command) <= 200]).toEqual([true, true]);
      }
    }),
    { numRuns: 500 },
  );
});
