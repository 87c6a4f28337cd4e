import { expect, test } from 'vitest';
import { age } from '../../src/cli/table.ts';

test.each([
  [0, '0.0s'],
  [99, '0.0s'],
  [100, '0.1s'],
  [2_300, '2.3s'],
  [59_999, '59.9s'],
  [60_000, '1m00s'],
  [3_599_999, '59m59s'],
  [3_600_000, '1h00m'],
  [-5_000, '0.0s'],
])('an age of %d ms is %s', (ms, shown) => expect(age(1_000_000, 1_000_000 + ms)).toBe(shown));
