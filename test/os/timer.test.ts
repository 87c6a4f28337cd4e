import { afterEach, expect, test, vi } from 'vitest';
import { longestTimerMs, setWakeUp } from '../../src/os/timer.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

test("a wake-up a year away is set for Node's longest timer instead of a millisecond", () => {
  const timeout = vi.spyOn(globalThis, 'setTimeout');
  for (const delayMs of [365 * 86_400_000, longestTimerMs + 1, longestTimerMs]) {
    clearTimeout(setWakeUp(() => undefined, delayMs));
    expect(timeout).toHaveBeenLastCalledWith(expect.any(Function), longestTimerMs);
  }
});

test('a fraction of a millisecond is rounded up, and a time in the past is due at once', () => {
  const timeout = vi.spyOn(globalThis, 'setTimeout');
  clearTimeout(setWakeUp(() => undefined, 1.2));
  expect(timeout).toHaveBeenLastCalledWith(expect.any(Function), 2);
  clearTimeout(setWakeUp(() => undefined, -5));
  expect(timeout).toHaveBeenLastCalledWith(expect.any(Function), 0);
});
