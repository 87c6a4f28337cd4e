import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { boundsOf } from '../../src/domain/app-telemetry.ts';
import { readSpans, readTelemetry } from '../../src/grpc/worker-link/telemetry.ts';
import type { Words } from '../telemetry/app-telemetry.ts';
import { counter, gauge, histogram, report, spansOf } from '../telemetry/app-telemetry.ts';

const label = (name: string, value = 'x') => ({ name, value });

const wrong: readonly (readonly [what: string, series: Words, reason: string])[] = [
  ['no name', counter('', 1), 'malformed'],
  ['a name that Prometheus refuses', counter('a-b', 1), 'malformed'],
  ['a line break in a name', counter('a\n', 1), 'malformed'],
  ['a name of 101 characters', counter('a'.repeat(101), 1), 'malformed'],
  ['an ending that the agent adds itself', gauge('a_total', 1), 'malformed'],
  ['an ending of a histogram', gauge('a_bucket', 1), 'malformed'],
  ['an unknown kind', { ...counter('a', 1), kind: 'summary' }, 'malformed'],
  ['no kind', { ...counter('a', 1), kind: '' }, 'malformed'],
  ['a count of 0', { ...counter('a', 1), count: 0 }, 'malformed'],
  ['NaN', counter('a', Number.NaN), 'value'],
  ['an infinite gauge', gauge('a', Number.NEGATIVE_INFINITY), 'value'],
  ['a negative counter', counter('a', -1), 'value'],
  ['9 labels', counter('a', 1, Object.fromEntries([...'abcdefghi'].map((name) => [name, ''])) as never), 'malformed'],
  ['the label pool', counter('a', 1, { pool: 'other' }), 'malformed'],
  ['the label slot', counter('a', 1, { slot: '1' }), 'malformed'],
  ['the label le', counter('a', 1, { le: '1' }), 'malformed'],
  ['a label that begins with __', counter('a', 1, { __name__: 'b' }), 'malformed'],
  ['a label with a quote', counter('a', 1, { 'b="': 'c' }), 'malformed'],
  ['a label without a name', counter('a', 1, { '': 'c' }), 'malformed'],
  ['a label twice', { ...counter('a', 1), labels: [label('b'), label('b')] }, 'malformed'],
  ['labels that are not sorted', { ...counter('a', 1), labels: [label('c'), label('b')] }, 'malformed'],
  ['a value of 129 bytes', counter('a', 1, { b: `${'x'.repeat(127)}é` }), 'malformed'],
  [
    'labels of 513 bytes',
    counter('a', 1, { b: 'x'.repeat(128), c: 'x'.repeat(128), d: 'x'.repeat(128), e: 'x'.repeat(125) }),
    'malformed',
  ],
  ['buckets that do not add up', { ...histogram('a', 1, [1]), count: 2 }, 'malformed'],
  ['a histogram without buckets', histogram('a', 1, []), 'malformed'],
  ['more buckets than there are', histogram('a', 1, [...new Array(26).fill(0), 1]), 'malformed'],
  ['buckets of a counter', { ...counter('a', 1), buckets: [1] }, 'malformed'],
];

test.each(wrong)('%s is dropped, and the rest of the report is taken', (_, series, reason) => {
  const { measured, drops } = readTelemetry(report([series, counter('b', 1)]));
  expect(measured.map(({ name }) => name)).toEqual(['b']);
  expect(drops).toEqual([[reason, Math.max(1, Number(series['count']))]]);
});

test('what keeps to the rules is taken as it is', () => {
  const labels = { b: 'x'.repeat(128), c: 'x'.repeat(128), d: 'x'.repeat(128), e: 'é'.repeat(62) };
  const all = [
    counter('a'.repeat(100), 0),
    gauge('_b', -1.5, labels),
    histogram('c', -5, [...new Array(25).fill(0), 7]),
  ];
  const { measured, drops } = readTelemetry(report(all, [{ reason: 'value', count: 3 }]));
  expect(drops).toEqual([['value', 3]]);
  expect(measured).toMatchObject([
    { name: 'a'.repeat(100), kind: 'counter', value: 0, count: 1 },
    { name: '_b', kind: 'gauge', value: -1.5, labels: Object.entries(labels) },
    { name: 'c', kind: 'histogram', value: -5, count: 7 },
  ]);
});

test('control characters of values become visible escapes, within the bound', () => {
  const { measured } = readTelemetry(report([counter('a', 1, { b: 'x\ny\x1b', c: '\x00'.repeat(128) })]));
  const [[, shown = ''] = [], [, cut = ''] = []] = measured[0]?.labels ?? [];
  expect(shown).toBe('x\\ny\\x1b');
  expect(Buffer.byteLength(cut)).toBeLessThanOrEqual(128);
});

test('reasons of drops that no worker gives, and bytes that are no Telemetry, count as malformed', () => {
  expect(readTelemetry(report([], [{ reason: 'max_series', count: 9 }])).drops).toEqual([['malformed', 9]]);
  expect(readTelemetry(Buffer.from([0xff, 0xff])).drops).toEqual([['malformed', 1]]);
  const many = Array.from({ length: 2_001 }, () => counter('a', 1));
  expect(readTelemetry(report(many)).drops).toEqual([['malformed', 1]]);
});

test('spans keep their rules; what breaks them is left out, and texts are bounded', () => {
  const span = { name: 'load_seconds', labels: [label('outcome', 'ok')], began_at_ms: 5, duration_us: 7 };
  const long = { ...span, request_id: 'é'.repeat(500), error_type: `E${'\n'.repeat(500)}`, began_at_ms: -1 };
  const read = readSpans(spansOf([span, { ...span, name: 'a b' }, { ...span, labels: [label('pool')] }, long], 9));
  expect(read.leftOut).toBe(9);
  const [first, second] = read.spans;
  expect(first).toEqual({
    ...{ name: 'load_seconds', labels: [['outcome', 'ok']], requestId: '' },
    ...{ beganAtMs: 5, durationUs: 7, errorType: '' },
  });
  expect(second?.beganAtMs).toBe(0);
  expect(Buffer.byteLength(second?.requestId ?? '')).toBeLessThanOrEqual(128);
  expect(second?.errorType).toMatch(/^E(\\n)+.?…$/);
  expect(Buffer.byteLength(second?.errorType ?? '')).toBeLessThanOrEqual(128);
  expect(read.spans).toHaveLength(2);
  const many = spansOf(Array.from({ length: 33 }, () => span));
  expect(readSpans(many).spans).toEqual([]);
});

test('no bytes make it throw, or pass a value that is not finite', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const { measured } = readTelemetry(Buffer.from(bytes));
      readSpans(Buffer.from(bytes));
      for (const { value, count } of measured) expect(Number.isFinite(value) && count > 0).toBe(true);
    }),
  );
});

test('the bounds of buckets in link.proto and in the SDK are those of the agent', () => {
  const text = (path: string) => readFileSync(join(import.meta.dirname, '../..', path), 'utf8');
  const proto = text('proto/pitwarden/v1/link.proto').replace(/\n\s*\/\/ /g, ' ');
  const [, listed = ''] = /ends in _seconds are ([\d., ]+)\. /.exec(proto) ?? [];
  expect(listed.split(', ').map(Number)).toEqual(boundsOf('a_seconds'));
  const sdk = text('python/src/pitwarden/_measurements.py');
  const numbersOf = (name: string) => {
    const [, tuple = ''] = new RegExp(`\\n${name} = \\(\\n([\\s\\S]*?)\\n\\)\\n`).exec(sdk) ?? [];
    return [...tuple.matchAll(/\d[\d.e]*/g)].map(([number]) => Number(number));
  };
  expect(numbersOf('SECONDS_BOUNDS')).toEqual(boundsOf('a_seconds'));
  expect(numbersOf('OTHER_BOUNDS')).toEqual(boundsOf('a'));
});
