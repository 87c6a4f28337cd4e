import { expect, test } from 'vitest';
import { createClock, systemClock } from '../../src/os/clock.ts';

/** A host on which reading a clock takes `readMs`, and whose wall clock has whole milliseconds. */
function host() {
  const its = { atMs: 5_000.3, readMs: 0.01, wallAheadMs: 1_700_000_000_000.9 };
  const read = (): number => {
    its.atMs += its.readMs;
    return its.atMs;
  };
  const clock = createClock(read, () => Math.floor(read() + its.wallAheadMs));
  return { its, clock };
}

test('the same monotonic time converts to the same unix time at each call', () => {
  const { its, clock } = host();
  const told = new Set<number>();
  for (let i = 0; i < 2_000; i += 1) {
    its.atMs += 0.37;
    told.add(Math.round(clock.toUnixMs(4_000)));
  }
  expect(told.size).toBe(1);
});

test('a delay between two clock readings is not mistaken for a wall clock that was set', () => {
  const { its, clock } = host();
  const before = clock.toUnixMs(4_000);
  its.readMs = 80;
  expect(clock.toUnixMs(4_000)).toBe(before);
});

test('when the wall clock is set, unix times follow it', () => {
  const { its, clock } = host();
  const before = clock.toUnixMs(4_000);
  its.wallAheadMs += 3_600_000;
  expect(Math.abs(clock.toUnixMs(4_000) - before - 3_600_000)).toBeLessThan(2);
  its.wallAheadMs -= 7_200_000;
  expect(Math.abs(clock.toUnixMs(4_000) - before + 3_600_000)).toBeLessThan(2);
});

test('the system clock agrees with the wall clock', () => {
  expect(Math.abs(systemClock.toUnixMs(systemClock.nowMs()) - Date.now())).toBeLessThan(20);
});
