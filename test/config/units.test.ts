import fc from 'fast-check';
import { expect, test } from 'vitest';
import { expandEnv, parseEnvValue } from '../../src/config/env.ts';
import { nearest } from '../../src/config/suggest.ts';
import { formatDuration, formatSize, parseDuration, parseSize } from '../../src/config/units.ts';

test.each([
  ['1ms', 1],
  ['30s', 30_000],
  ['1.5m', 90_000],
  ['2h', 7_200_000],
  ['1d', 86_400_000],
])('the duration %s is parsed', (text, ms) => expect(parseDuration(text)).toEqual({ ok: true, value: ms }));

test.each([
  ['512B', 512],
  ['64KiB', 65_536],
  ['400MiB', 419_430_400],
  ['1GB', 1_000_000_000],
  ['0.5GiB', 536_870_912],
])('the size %s is parsed', (text, bytes) => expect(parseSize(text)).toEqual({ ok: true, value: bytes }));

test.each(['', '5', 's', '-5s', '5 s', '5S', '1e3s', '5min', null, [], {}, true])('%j is not a duration', (input) => {
  expect(parseDuration(input)).toMatchObject({ ok: false, message: expect.stringContaining('expected a duration') });
});

test('a formatted duration or size parses to the same value', () => {
  const property = fc.property(fc.nat(), (value) => {
    expect(parseDuration(formatDuration(value))).toEqual({ ok: true, value });
    expect(parseSize(formatSize(value))).toEqual({ ok: true, value });
  });
  fc.assert(property);
});

test('placeholders in an environment are replaced, and unknown ones refused', () => {
  const env = { A: '{pool}-{slot}', B: '{{slot}} {{}}', C: '' };
  expect(expandEnv({ name: 'text', env }, 3)).toEqual({ A: 'text-3', B: '{slot} {}', C: '' });
  expect(parseEnvValue(1)).toMatchObject({ ok: false });
});

test.each([
  ['maxAge', 'max_age'],
  ['sise', 'size'],
  ['heartbaet', 'heartbeat'],
  ['zzzzz', undefined],
])('the closest known key to %s is %s', (word, expected) => {
  expect(nearest(word, ['max_age', 'size', 'heartbeat', 'app'])).toBe(expected);
});
