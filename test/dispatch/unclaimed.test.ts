import fc from 'fast-check';
import { beforeEach, expect, test } from 'vitest';
import type { Request } from '../../src/dispatch/request.ts';
import { timeLimit } from '../time-limit.ts';
import type { HostCall } from './host.ts';
import { DispatchHost, poolLimits } from './host.ts';

const kib = 1024;
const payload = Buffer.alloc(100 * kib, 'x');
const named = (requestId: string) => ({ requestId, hasCallerId: true, payload });
let host: DispatchHost;

beforeEach(() => {
  host = new DispatchHost();
  host.dispatch.setPool('p', poolLimits({ maxQueuedRequests: 1_000, maxQueuedBytes: 1e9 }));
});

test('the payload of a named request without a caller counts as unclaimed until a caller is back', () => {
  const call = host.submit(named('a'));
  expect(host.unclaimed.usedBytes).toBe(0);
  host.settle(call, false);
  expect(host.unclaimed.usedBytes).toBeGreaterThan(payload.length);
  host.submit(named('a'));
  expect(host.unclaimed.usedBytes).toBe(0);
});

test('an ended request without a caller counts as unclaimed with its names until it is forgotten', () => {
  const worker = host.addWorker();
  host.settle(host.submit(named('a')), false);
  host.answer(worker, 1);
  expect(host.unclaimed.usedBytes).toBeGreaterThan(0);
  expect(host.unclaimed.usedBytes).toBeLessThan(4 * kib);
  host.pass(500);
  host.pass(500);
  expect(host.unclaimed.usedBytes).toBe(0);
});

test('a forgotten request keeps no payload although its worker still has it', () => {
  const worker = host.addWorker({ concurrency: 3 });
  const [late, cancelled] = [host.submit(named('a')), host.submit(named('b'))];
  host.settle(late, false);
  host.cancel(cancelled);
  host.pass(600);
  expect(worker.cancelled.toSorted()).toEqual([1, 2]);
  expect(late.request?.payload).toHaveLength(0);
  expect(cancelled.request?.payload).toHaveLength(0);
  expect(host.unclaimed.usedBytes).toBe(0);
});

test('a waiting request without a caller is dropped if there is no room for it, and runs for a call that repeats it', () => {
  const all = Array.from({ length: 12 }, (_, i) => host.submit(named(String(i))));
  for (const call of all) host.settle(call, false);
  expect(host.unclaimed.usedBytes).toBeLessThanOrEqual(host.budget.maxBytes / 2);
  expect(host.dispatch.poolStats('p').queued).toBe(5);
  expect(all.map(({ ends }) => ends)).toEqual(Array(12).fill(0));
  const worker = host.addWorker({ concurrency: 12 });
  const again = Array.from({ length: 12 }, (_, i) => host.submit(named(String(i))));
  for (const linkId of [...worker.running.keys()]) host.answer(worker, linkId);
  expect(again.map(({ result }) => result)).toEqual(Array(12).fill('done'));
  expect(host.unclaimed.usedBytes).toBe(0);
});

test('a running request without a caller is kept even if there is no room for it', () => {
  host.addWorker();
  const call = host.submit(named('a'));
  const other = host.budget.account();
  other.add(host.budget.maxBytes);
  host.settle(call, false);
  expect(host.budget.usedBytes).toBeGreaterThan(host.budget.maxBytes + payload.length);
});

const index = fc.nat({ max: 20 });
const moves = fc.array(
  fc.tuple(
    fc.constantFrom('submit', 'submit', 'leave', 'leave', 'read', 'cancel', 'answer', 'kill', 'back', 'wait', 'add'),
    index,
    index,
  ),
  { maxLength: 60 },
);

test('in any order of events each payload without a caller counts as unclaimed, and in the end nothing does', () => {
  const play = (on: DispatchHost, what: string, at: number, which: number): void => {
    const call = on.calls[at % Math.max(1, on.calls.length)];
    const living = on.workers.filter(({ removed }) => !removed);
    const worker = living[at % Math.max(1, living.length)];
    const linkId = [...(worker?.running.keys() ?? [])][which % Math.max(1, worker?.running.size ?? 0)];
    if (what === 'submit') on.submit({ ...named(`r${at % 6}`), payload: Buffer.alloc(at % 2 === 0 ? 10 : 90 * kib) });
    else if (what === 'add') on.addWorker({ concurrency: 2, marksBegun: true });
    else if (what === 'wait') on.pass(which * 40);
    else if (what === 'leave' && call !== undefined) on.settle(call, false);
    else if (what === 'read' && call !== undefined) on.settle(call, true);
    else if (what === 'cancel' && call !== undefined) on.cancel(call);
    else if (what === 'kill' && worker !== undefined) on.remove(worker);
    else if (what === 'answer' && worker !== undefined && linkId !== undefined) on.answer(worker, linkId);
    else if (what === 'back' && worker !== undefined) breakLink(on, worker);
  };
  const property = fc.property(moves, (drawn) => {
    const on = new DispatchHost();
    on.dispatch.setPool('p', poolLimits({ maxQueuedRequests: 1_000, maxQueuedBytes: 1e9, keepMax: 3 }));
    for (const [what, at, which] of drawn) {
      play(on, what, at, which);
      expect(on.unclaimed.usedBytes).toBeGreaterThanOrEqual(payloadsWithoutCaller(on.calls));
      expect(on.unclaimed.usedBytes).toBe(sum(requestsOf(on.calls), ({ unclaimedBytes }) => unclaimedBytes));
    }
    for (const call of on.calls) on.settle(call, true);
    for (let i = 0; i < 10; i += 1) on.pass(400);
    expect(on.unclaimed.usedBytes).toBe(0);
    expect(payloadsWithoutCaller(on.calls)).toBe(0);
  });
  fc.assert(property, { numRuns: 2_000, ...timeLimit });
});

/** The worker dials again, and holds all or half of the requests that it was sent. */
function breakLink(on: DispatchHost, worker: DispatchHost['workers'][number]): void {
  const held = [...worker.running].map(([id, { request }]) => ({
    ...{ id, request_id: request.request_id, command: 'c', keep: true, ended: id % 2 === 0, cancelled: false },
    ...{ remaining_ms: 900, age_ms: 100, payload_bytes: request.payload.length, payload_crc32: 0 },
  }));
  worker.removed = true;
  on.reattach(worker, { last_id: 1_000, completed: 0, failed: 0, held });
}

function requestsOf(all: readonly HostCall[]): Set<Request> {
  return new Set(all.flatMap(({ request }) => (request === undefined ? [] : [request])));
}

function payloadsWithoutCaller(all: readonly HostCall[]): number {
  return sum(
    [...requestsOf(all)].filter(({ currentSink }) => currentSink === null),
    ({ payload: held }) => held.length,
  );
}

function sum<T>(items: Iterable<T>, bytes: (item: T) => number): number {
  let total = 0;
  for (const item of items) total += bytes(item);
  return total;
}
