import { expect, test } from 'vitest';
import { simulate } from './simulate.ts';

test('forty hosts, two virtual minutes of trouble each: every invariant holds; npm run simulate does more', async () => {
  const failed: string[] = [];
  for (let seed = 1; seed <= 40; seed += 1) {
    const { failure } = await simulate(seed, 1 / 30);
    if (failure !== '') failed.push(`seed ${seed}: ${failure}`);
  }
  expect(failed).toEqual([]);
}, 60_000);

test('a seed is the same run each time, and another seed another one', async () => {
  const [first, again, other] = [await simulate(7, 0.05), await simulate(7, 0.05), await simulate(8, 0.05)];
  expect(again).toEqual(first);
  expect(other.digest).not.toBe(first.digest);
});
