import { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { LinkRequest } from '../../src/dispatch/worker.ts';
import { addWorkerLink, createLink } from '../../src/wire/worker-link.ts';

/** A call that takes a frame and writes it when it is told to. */
function fakeCall() {
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
  const link = createLink(call as unknown as Parameters<typeof createLink>[0]);
  return {
    link,
    frames,
    /** The last frame has been written; what came up meanwhile goes out. */
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

test('what one turn says is one frame; what comes up while that is written is the next', async () => {
  const { link, frames, write } = fakeCall();
  link.request(request(1));
  link.request(request(2));
  link.ping(1);
  await nextTurn();
  expect(frames).toEqual([{ ping: { sequence: 1 }, requests: [request(1), request(2)] }]);
  link.request(request(3));
  link.cancel(3);
  link.ping(2);
  await nextTurn();
  expect(frames).toHaveLength(1);
  expect([...link.unwritten()]).toEqual([3]);
  await write();
  expect(frames[1]).toEqual({ ping: { sequence: 2 }, requests: [request(3)], cancels: [3] });
  await write();
  expect(frames).toHaveLength(2);
});

test('large payloads go in frames of a MiB, pings before them, words about them after', async () => {
  const { link, frames, write } = fakeCall();
  for (const id of [1, 2, 3]) link.request(request(id, 700_000));
  link.cancel(1);
  await nextTurn();
  link.ping(1);
  await write();
  await write();
  expect(frames.map(ids)).toEqual([[1], [2], [3]]);
  expect(frames.map((frame) => [frame['ping'], frame['cancels']])).toEqual([
    [undefined, undefined],
    [{ sequence: 1 }, undefined],
    [undefined, [1]],
  ]);
});

test('of pause and resume the later word is the one that is said', async () => {
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

test('a recall gives back at once what is not written, and asks for the rest', async () => {
  const { link, frames, write } = fakeCall();
  link.request(request(1));
  await nextTurn();
  link.request(request(2));
  expect(link.recall()).toEqual([2]);
  await write();
  expect(frames[1]).toEqual({ recall: {} });
});

/** Calls of Attach; `said` is what the agent was told of them. */
function attachScene() {
  const said: string[] = [];
  let attach: ((call: unknown) => void) | undefined;
  let attached = false;
  const api = { server: { addService: (_: unknown, { Attach }: { Attach: typeof attach }) => (attach = Attach) } };
  addWorkerLink(api as never, {
    check: () => undefined,
    authenticate: ({ token }) => {
      if (token !== 'right') return { ok: false, reason: 'wrong_token', message: 'token' };
      if (attached) return { ok: false, reason: 'already_attached', message: 'second' };
      return { ok: true, welcome: {} as never };
    },
    attached: () => {
      attached = true;
      said.push('attached');
    },
    closed: () => {
      attached = false;
      said.push('closed');
    },
    refused: ({ message }) => said.push(`refused: ${message}`),
    frame: () => said.push('frame'),
  });
  const dial = () => {
    const frames: object[] = [];
    const call = Object.assign(new EventEmitter(), {
      destroyed: false,
      cancelled: false,
      end: () => undefined,
      write: (frame: object) => {
        frames.push(frame);
        return true;
      },
    });
    const errors: { readonly code: number; readonly details: string }[] = [];
    call.on('error', (error: (typeof errors)[number]) => errors.push(error));
    attach?.(call);
    const hello = (token: string) => {
      const versions = { sdk_version: '', python_version: '' };
      call.emit('data', { hello: { protocol: 1, worker_id: 'w', token, commands: [], resumed: null, ...versions } });
    };
    return { call, hello, frames, errors };
  };
  return { said, dial };
}

test('a call whose hello was refused cannot attach with another one', () => {
  const { said, dial } = attachScene();
  const { hello, errors } = dial();
  hello('wrong');
  hello('right');
  hello('right');
  expect(said).toEqual(['refused: token']);
  expect(errors).toEqual([{ code: status.UNAUTHENTICATED, details: 'token' }]);
});

test('what arrives after the end of a link is not passed on', () => {
  const { said, dial } = attachScene();
  const { call, hello } = dial();
  hello('right');
  call.emit('cancelled');
  call.emit('data', {});
  expect(said).toEqual(['attached', 'closed']);
});

describe('a second hello while the link lives', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  test('is refused after a second, and the first link goes on', () => {
    const { said, dial } = attachScene();
    const [first, second] = [dial(), dial()];
    first.hello('right');
    second.hello('right');
    vi.advanceTimersByTime(990);
    expect(second.errors).toEqual([]);
    vi.advanceTimersByTime(30);
    expect(second.errors).toEqual([{ code: status.ALREADY_EXISTS, details: 'second' }]);
    expect(second.frames).toEqual([]);
    first.call.emit('data', { chunks: [], results: [], progress: [], leaving_reason: '' });
    expect(first.errors).toEqual([]);
    expect(said).toEqual(['attached', 'refused: second', 'frame']);
  });

  test('attaches when the end of the first link comes in time: a worker may dial again before the agent knows', () => {
    const { said, dial } = attachScene();
    const [first, second] = [dial(), dial()];
    first.hello('right');
    second.hello('right');
    vi.advanceTimersByTime(500);
    first.call.emit('close');
    vi.advanceTimersByTime(30);
    expect(said).toEqual(['attached', 'closed', 'attached']);
    expect(second.frames).toHaveLength(1);
  });

  test('that goes away while it waits leaves nothing behind', () => {
    const { said, dial } = attachScene();
    const [first, second] = [dial(), dial()];
    first.hello('right');
    second.hello('right');
    second.call.emit('close');
    expect(vi.getTimerCount()).toBe(0);
    first.call.emit('close');
    expect(said).toEqual(['attached', 'closed']);
  });

  test('may say nothing before its welcome', () => {
    const { said, dial } = attachScene();
    const [first, second] = [dial(), dial()];
    first.hello('right');
    second.hello('right');
    second.hello('right');
    expect(second.errors).toMatchObject([{ code: status.INVALID_ARGUMENT }]);
    expect(said).toEqual(['attached', 'refused: expected no frame before the welcome']);
  });
});
