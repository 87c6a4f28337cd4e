import { afterEach, expect, test, vi } from 'vitest';
import { longestTimerMs, setWakeUp } from '../../src/os/timer.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

test('a wake-up that is a year away is set for the longest time that Node has, and never for a millisecond', () => {
  const timeout = vi.spyOn(globalThis, 'setTimeout');
  for (const delayMs of [365 * 86_400_000, longestTimerMs + 1, longestTimerMs]) {
    clearTimeout(setWakeUp(() => undefined, delayMs));
    expect(timeout).toHaveBeenLastCalledWith(expect.any(Function), longestTimerMs);
  }
});

test('a fraction is rounded up, and what is past is due now', () => {
  const timeout = vi.spyOn(globalThis, 'setTimeout');
  clearTimeout(setWakeUp(() => undefined, 1.2));
  expect(timeout).toHaveBeenLastCalledWith(expect.any(Function), 2);
  clearTimeout(setWakeUp(() => undefined, -5));
  expect(timeout).toHaveBeenLastCalledWith(expect.any(Function), 0);
});
