import { expect, test } from 'vitest';
import { simulate } from './simulate.ts';

test('forty hosts, two virtual minutes of trouble each: every invariant holds; npm run simulate does more', () => {
  const failed = Array.from({ length: 40 }, (_, index) => simulate(index + 1, 1 / 30)).filter(
    ({ failure }) => failure !== '',
  );
  expect(failed.map(({ seed, failure }) => `seed ${seed}: ${failure}`)).toEqual([]);
}, 60_000);

test('a seed is the same run each time, and another seed another one', () => {
  const [first, again, other] = [simulate(7, 0.05), simulate(7, 0.05), simulate(8, 0.05)];
  expect(again).toEqual(first);
  expect(other.digest).not.toBe(first.digest);
});
