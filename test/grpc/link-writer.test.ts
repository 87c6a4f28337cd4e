import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { LinkRequest } from '../../src/dispatch/worker.ts';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import type { FrameBudget } from '../../src/grpc/worker-link/frame-memory.ts';
import { LinkWriter } from '../../src/grpc/worker-link/writer.ts';

const mib = 1024 * 1024;

const sharing = (budget: MemoryBudget): FrameBudget => ({ budget, largeFrames: 0 });

/** A call that takes a frame, and has written it when `write` is called. */
function fakeCall(shared: FrameBudget = sharing(createMemoryBudget(64 * mib))) {
  const frames: Record<string, unknown>[] = [];
  let written = (): void => undefined;
  const call = {
    destroyed: false,
    cancelled: false,
    end: () => undefined,
    write: (frame: Record<string, unknown>, done: () => void) => {
      frames.push(frame);
      written = done;
      return true;
    },
  };
  const unsent: number[] = [];
  const link = new LinkWriter(shared, call as never, (ids) => unsent.push(...ids));
  return {
    link,
    unsent,
    frames,
    /** The last frame has been written, so the next one goes out. */
    write: async () => {
      written();
      await nextTurn();
    },
  };
}

const request = (id: number, bytes = 1): LinkRequest => ({
  id,
  command: 'c',
  payload: Buffer.alloc(bytes),
  content_type: '',
  request_id: '',
  session_id: '',
  timeout_ms: 0,
  keep: false,
});
const ids = (frame: Record<string, unknown> | undefined) => (frame?.['requests'] as LinkRequest[])?.map(({ id }) => id);

test('everything of one turn goes in one frame, and everything during its write goes in the next one', async () => {
  const { link, frames, write } = fakeCall();
  link.request(request(1));
  link.request(request(2));
  link.ping(1);
  await nextTurn();
  expect(frames).toEqual([{ ping: { sequence: 1 }, requests: [request(1), request(2)] }]);
  link.request(request(3));
  link.cancel(2);
  link.ping(2);
  await nextTurn();
  expect(frames).toHaveLength(1);
  expect([...link.unwritten()]).toEqual([3]);
  await write();
  expect(frames[1]).toEqual({ ping: { sequence: 2 }, requests: [request(3)], cancels: [2] });
  await write();
  expect(frames).toHaveLength(2);
});

test('large payloads go in frames of at most 1 MiB, with pings before them and their pauses after them', async () => {
  const { link, frames, write } = fakeCall();
  for (const id of [1, 2, 3]) link.request(request(id, 700_000));
  link.pause(1);
  await nextTurn();
  link.ping(1);
  await write();
  await write();
  expect(frames.map(ids)).toEqual([[1], [2], [3]]);
  expect(frames.map((frame) => [frame['ping'], frame['pauses']])).toEqual([
    [undefined, undefined],
    [{ sequence: 1 }, undefined],
    [undefined, [1]],
  ]);
});

test('of a pause and a resume in one frame only the later one is sent', async () => {
  const { link, frames, write } = fakeCall();
  link.request(request(1));
  await nextTurn();
  link.pause(1);
  link.resume(1);
  link.resume(2);
  link.pause(2);
  await write();
  expect(frames[1]).toEqual({ pauses: [2], resumes: [1] });
});

test('a recall returns unwritten requests at once, and asks the worker for the others', async () => {
  const { link, frames, write } = fakeCall();
  link.request(request(1));
  await nextTurn();
  link.request(request(2));
  expect(link.recall()).toEqual([2]);
  await write();
  expect(frames[1]).toEqual({ recall: {} });
});

test('a request that is cancelled before it is written is not written, and is reported as unsent', async () => {
  const { link, frames, write, unsent } = fakeCall();
  link.request(request(1));
  await nextTurn();
  link.request(request(2, mib));
  link.request(request(3));
  link.cancel(1);
  link.cancel(2);
  expect(unsent).toEqual([]);
  await nextTurn();
  expect(unsent).toEqual([2]);
  await write();
  expect(frames[1]).toEqual({ requests: [request(3)], cancels: [1] });
});

test('a frame counts towards the budget until it is written or its stream has ended', async () => {
  const budget = createMemoryBudget(64 * mib);
  const { link, write } = fakeCall(sharing(budget));
  link.request(request(1, 1000));
  link.request(request(2, 3 * mib));
  await nextTurn();
  expect(budget.usedBytes).toBeGreaterThan(1000);
  expect(budget.usedBytes).toBeLessThan(2000);
  await write();
  expect(budget.usedBytes).toBeGreaterThan(3 * mib);
  await write();
  expect(budget.usedBytes).toBe(0);
  link.request(request(3, mib));
  await nextTurn();
  expect(budget.usedBytes).toBeGreaterThan(mib);
  link.over();
  await write();
  expect(budget.usedBytes).toBe(0);
  link.request(request(4));
  await nextTurn();
  expect(budget.usedBytes).toBe(0);
});

test('a large payload without room waits with the requests behind it, while pings and cancels are written', async () => {
  const budget = createMemoryBudget(8 * mib);
  const shared = sharing(budget);
  const [deaf, other] = [fakeCall(shared), fakeCall(shared)];
  deaf.link.request(request(1, 6 * mib));
  other.link.request(request(1));
  await nextTurn();
  await other.write();
  other.link.request(request(2, 3 * mib));
  other.link.request(request(3));
  await nextTurn();
  other.link.ping(1);
  other.link.cancel(1);
  await nextTurn();
  await other.write();
  expect(other.frames.slice(1)).toEqual([{ ping: { sequence: 1 }, cancels: [1] }]);
  expect([...other.link.unwritten()]).toEqual([2, 3]);
  await deaf.write();
  await nextTurn();
  expect(other.frames.map(ids).slice(2)).toEqual([[2]]);
  await other.write();
  expect(other.frames.map(ids).slice(3)).toEqual([[3]]);
});

test('links that have ended give back their memory, and write nothing when there is room again', async () => {
  const budget = createMemoryBudget(8 * mib);
  const shared = sharing(budget);
  const [deaf, gone, next] = [0, 1, 2].map(() => fakeCall(shared));
  deaf?.link.request(request(1, 6 * mib));
  await nextTurn();
  gone?.link.request(request(1, 6 * mib));
  next?.link.request(request(1, 6 * mib));
  await nextTurn();
  gone?.link.over();
  deaf?.link.over();
  await nextTurn();
  expect([deaf, gone, next].map((each) => each?.frames.length)).toEqual([1, 0, 1]);
});

test('a single large frame is written however small the budget is', async () => {
  const { link, frames } = fakeCall(sharing(createMemoryBudget(mib)));
  link.request(request(1, 6 * mib));
  await nextTurn();
  expect(frames.map(ids)).toEqual([[1]]);
});
