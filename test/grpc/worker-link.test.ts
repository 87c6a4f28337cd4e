import { EventEmitter } from 'node:events';
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { addWorkerLink } from '../../src/grpc/worker-link/service.ts';
import type { WorkerLinkSource } from '../../src/grpc/worker-link/source.ts';

/** Calls of Attach. `said` lists what the agent learned of them. */
function attachScene() {
  const said: string[] = [];
  let attach: ((call: unknown) => void) | undefined;
  let attached = false;
  const api = { server: { addService: (_: unknown, { Attach }: { Attach: typeof attach }) => (attach = Attach) } };
  const source: WorkerLinkSource = {
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
    unsent: () => undefined,
  };
  addWorkerLink(api as never, source, createMemoryBudget(1));
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

test('frames that arrive after the end of a link are not passed on', () => {
  const { said, dial } = attachScene();
  const { call, hello } = dial();
  hello('right');
  call.emit('cancelled');
  call.emit('data', {});
  expect(said).toEqual(['attached', 'closed']);
});

describe('a second hello while the first link is alive', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  test('a second hello is refused after a second, and the first link goes on', () => {
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

  test('a second hello attaches if the first link ends within a second', () => {
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

  test('a second call that ends while its hello waits leaves no timer', () => {
    const { said, dial } = attachScene();
    const [first, second] = [dial(), dial()];
    first.hello('right');
    second.hello('right');
    second.call.emit('close');
    expect(vi.getTimerCount()).toBe(0);
    first.call.emit('close');
    expect(said).toEqual(['attached', 'closed']);
  });

  test('a second call that sends another frame before its welcome is refused', () => {
    const { said, dial } = attachScene();
    const [first, second] = [dial(), dial()];
    first.hello('right');
    second.hello('right');
    second.hello('right');
    expect(second.errors).toMatchObject([{ code: status.INVALID_ARGUMENT }]);
    expect(said).toEqual(['attached', 'refused: expected no frame before the welcome']);
  });
});
