import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Beats } from '../../src/grpc/control/beats.ts';
import { beatGapMs, createBeats } from '../../src/grpc/control/beats.ts';
import type { Listener } from '../../src/grpc/control/source.ts';
import { noReport } from './no-report.ts';

let nowMs: number;
let made: number;
let listeners: Set<Listener>;
let beats: Beats<number>;

beforeEach(() => {
  vi.useFakeTimers();
  nowMs = 1_000;
  made = 0;
  listeners = new Set();
  beats = createBeats(
    {
      nowMs: () => nowMs,
      subscribe: (listener) => {
        listeners.add(listener);
        return () => listeners.delete(listener);
      },
      report: noReport,
    },
    () => {
      made += 1;
      return made;
    },
  );
});

afterEach(() => {
  vi.useRealTimers();
});

/** Lets time pass in steps of a millisecond. */
function pass(ms: number): void {
  for (let at = 0; at < ms; at += 1) {
    nowMs += 1;
    vi.advanceTimersByTime(1);
  }
}

function change(): void {
  const changes = { revision: 1, workers: [], workersGone: [], pools: [], poolsGone: [], node: true };
  for (const listener of listeners) listener(changes, []);
}

/** A follower that always has room, and when it got its beats. */
function follow(intervalMs: number) {
  const times: number[] = [];
  const { leave } = beats.follow(intervalMs, () => {
    times.push(nowMs);
    return true;
  });
  return { times, leave };
}

test('a follower gets a beat at once and then one each interval, while nothing changes', () => {
  const { times } = follow(1_000);
  pass(5_500);
  expect(times).toHaveLength(6);
  expect((times[0] ?? 0) - 1_000).toBeLessThanOrEqual(1);
  const gaps = times.slice(1).map((time, index) => time - (times[index] ?? 0));
  // The very first timer belongs to the millisecond before.
  expect(gaps).toEqual([999, 1_000, 1_000, 1_000, 1_000]);
});

test('a change is shown within the shortest gap, and many changes share one beat', () => {
  const { times } = follow(60_000);
  pass(1_000);
  change();
  pass(beatGapMs);
  expect(times).toHaveLength(2);
  // Two seconds of a change each millisecond.
  for (let at = 0; at < 2_000; at += 1) {
    change();
    pass(1);
  }
  pass(beatGapMs);
  expect(times.length).toBeGreaterThanOrEqual(2 + 19);
  expect(times.length).toBeLessThanOrEqual(2 + 21);
});

test('a hundred followers that came at different times share each beat, and none waits longer than its interval', () => {
  const all: number[][] = [];
  for (let each = 0; each < 100; each += 1) {
    all.push(follow(1_000).times);
    pass(10);
  }
  pass(1_000);
  const before = made;
  pass(10_000);
  expect(made - before).toBeGreaterThanOrEqual(10);
  expect(made - before).toBeLessThanOrEqual(11);
  for (const times of all) {
    for (const [index, time] of times.slice(1).entries()) expect(time - (times[index] ?? 0)).toBeLessThanOrEqual(1_000);
  }
});

test('followers with other intervals keep theirs', () => {
  const [fast, slow] = [follow(200).times, follow(5_000).times];
  pass(20_000);
  expect(fast.length).toBeGreaterThanOrEqual(100);
  expect(slow.length).toBeGreaterThanOrEqual(4);
  expect(slow.length).toBeLessThanOrEqual(6);
});

test('a follower without room is asked for each beat that it misses, and gets a new one once it has room', () => {
  const got: number[] = [];
  let room = true;
  const slow = beats.follow(1_000, (beat) => {
    if (room) got.push(beat);
    return room;
  });
  pass(10);
  expect(got).toEqual([1]);
  room = false;
  pass(10_000);
  expect(got).toEqual([1]);
  room = true;
  slow.resume();
  pass(beatGapMs);
  expect(got).toEqual([1, made]);
  expect(made).toBe(12);
});

test('lateness is the longest since the last beat that a follower took', () => {
  const lates: number[] = [];
  let room = true;
  beats.follow(1_000, (_, lateMs) => {
    if (room) lates.push(lateMs);
    return room;
  });
  pass(10);
  room = false;
  // The process stands still for 3 s.
  nowMs += 3_000;
  pass(2_000);
  room = true;
  pass(1_000);
  pass(1_000);
  expect(lates).toHaveLength(3);
  expect(lates[1]).toBeGreaterThanOrEqual(2_000);
  expect(lates[2]).toBe(0);
});

test('nothing is computed or listened to while nobody follows', () => {
  const followers = [follow(1_000), follow(1_000)];
  pass(10);
  expect(listeners.size).toBe(1);
  for (const { leave } of followers) leave();
  expect(listeners.size).toBe(0);
  const before = made;
  pass(5_000);
  expect(made).toBe(before);
  expect(vi.getTimerCount()).toBe(0);
});
