import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createProgressRelay } from '../../src/grpc/execution/progress-relay.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function relay() {
  const messages: string[] = [];
  const written: (() => void)[] = [];
  const made = createProgressRelay((report, whenWritten) => {
    messages.push(report.message);
    written.push(whenWritten);
  });
  return {
    messages,
    report: (message: string) => made.report({ fraction: 0.5, message }),
    taken: () => written.shift()?.(),
    close: made.close,
  };
}

test('the first report is written at once, and of those within the next 100 ms only the newest', () => {
  const { messages, report, taken } = relay();
  for (let step = 0; step < 1_000; step += 1) report(`step ${step}`);
  expect(messages).toEqual(['step 0']);
  taken();
  vi.advanceTimersByTime(99);
  expect(messages).toEqual(['step 0']);
  vi.advanceTimersByTime(1);
  expect(messages).toEqual(['step 0', 'step 999']);
  taken();
  vi.advanceTimersByTime(1_000);
  report('later');
  expect(messages).toEqual(['step 0', 'step 999', 'later']);
});

test('while a report is not taken, only the newest of the next reports waits', () => {
  const { messages, report, taken } = relay();
  report('first');
  vi.advanceTimersByTime(10_000);
  for (const message of ['second', 'third']) report(message);
  vi.advanceTimersByTime(10_000);
  expect(messages).toEqual(['first']);
  taken();
  expect(messages).toEqual(['first', 'third']);
});

test('a closed relay writes nothing and leaves no timer', () => {
  const { messages, report, taken, close } = relay();
  report('first');
  report('second');
  taken();
  close();
  expect(vi.getTimerCount()).toBe(0);
  report('third');
  expect(messages).toEqual(['first']);
});
