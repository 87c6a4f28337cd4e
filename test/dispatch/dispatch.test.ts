import { describe, expect, test } from 'vitest';
import { Host } from './host.ts';

const [linkIds, first] = [
  (worker: { running: Map<number, unknown> }) => [...worker.running.keys()],
  (worker: { running: Map<number, unknown> }) => [...worker.running.keys()][0] ?? -1,
];

describe('refused at the door', () => {
  test('an unknown pool, and the pools there are', () => {
    const host = new Host();
    expect(host.submit({ pool: 'q' }).error).toMatchObject({
      code: 5,
      message: 'pool: expected one of this node\'s pools (p), got "q"',
    });
    // A name that a caller makes up is no label.
    expect(host.outcomes).toEqual([]);
  });

  test('an unknown command, and the commands there are', () => {
    const host = new Host();
    host.addWorker({ commands: ['c', 'b'] });
    expect(host.submit({ command: 'x' }).error).toMatchObject({
      code: 5,
      message: 'command: expected one that pool p offers (b, c), got "x"',
    });
  });

  test('while no worker is there nobody knows the commands: it waits', () => {
    const host = new Host();
    const told = host.submit({ command: 'x' });
    expect(told.ends).toBe(0);
    host.addWorker();
    expect(told.error?.code).toBe(5);
  });

  test('a plain call of a command that streams, without a miscount', () => {
    const host = new Host();
    const worker = host.addWorker({ commands: ['stream'] });
    expect(host.submit({ command: 'stream' }).error).toMatchObject({
      code: 3,
      message: expect.stringContaining('ExecuteStream'),
    });
    expect(host.dispatch.poolStats('p')).toMatchObject({ queued: 0, queuedBytes: 0, inFlight: 0 });
    host.submit({ command: 'stream', streams: true });
    expect(worker.running.size).toBe(1);
  });

  test('a closed pool says why', () => {
    const host = new Host();
    host.addWorker();
    host.dispatch.setPoolOpen('p', { open: false, reason: 'pool p is draining', refuseQueued: false });
    expect(host.submit().error).toMatchObject({ code: 14, message: 'pool p is draining' });
  });

  test('a full queue, with a hint from how long requests take', () => {
    const host = new Host();
    const worker = host.addWorker();
    host.submit();
    host.pass(400);
    host.answer(worker, first(worker));
    for (let i = 0; i < 4; i += 1) host.submit();
    expect(host.submit().error).toMatchObject({
      code: 8,
      message: 'the queue of pool p is full: queue.max_requests: expected at most 3 requests waiting',
      retryAfterMs: 1_600,
    });
  });

  test('too many bytes', () => {
    const host = new Host();
    expect(host.submit({ payload: Buffer.alloc(101) }).error).toMatchObject({
      code: 8,
      message: 'the queue of pool p is full: queue.max_bytes: expected at most 100 bytes waiting, got 101',
      retryAfterMs: 250,
    });
  });
});

describe('choosing a worker', () => {
  test('the one with the fewest requests; of equals the one that waits longest', () => {
    const host = new Host();
    const [a, b] = [host.addWorker({ concurrency: 3 }), host.addWorker({ concurrency: 3 })];
    const sent = [1, 2, 3, 4].map(() => host.submit().sentTo[0]);
    expect(sent).toEqual([a.id, b.id, a.id, b.id]);
    host.answer(b, first(b));
    expect(host.submit().sentTo).toEqual([b.id]);
  });

  test('first come, first served, save for what no free worker offers', () => {
    const host = new Host();
    const [c, d] = [host.addWorker({ commands: ['c'] }), host.addWorker({ commands: ['d'] })];
    host.submit({ command: 'd' });
    host.submit({ command: 'c' });
    const waiting = [host.submit({ command: 'd' }), host.submit({ command: 'c' })];
    host.answer(c, first(c));
    expect(waiting.map((told) => told.sentTo)).toEqual([[], [c.id]]);
    host.answer(d, first(d));
    expect(waiting[0]?.sentTo).toEqual([d.id]);
  });
});

describe('a worker that ends', () => {
  test('fails what may have begun, and says why', () => {
    const host = new Host();
    const worker = host.addWorker();
    const told = host.submit();
    host.remove(worker, 'memory_hard');
    expect(told.error).toMatchObject({
      code: 14,
      message: 'worker w0 ended (memory_hard) while it had the request: ended by SIGKILL',
      exitReason: 'memory_hard',
      workerId: 'w0',
    });
  });

  test('what was not written goes to another, before those that came later', () => {
    const host = new Host();
    const worker = host.addWorker({ concurrency: 2 });
    const [a, b, later] = [host.submit(), host.submit(), host.submit()];
    for (const linkId of linkIds(worker)) worker.unwritten.add(linkId);
    host.remove(worker);
    const second = host.addWorker();
    expect([...second.running.values()].map(({ told }) => told)).toEqual([a]);
    host.answer(second, first(second));
    host.answer(second, first(second));
    host.answer(second, first(second));
    expect([a, b, later].map((told) => told.result)).toEqual(['done', 'done', 'done']);
  });

  test('an idempotent request runs again, three times at most', () => {
    const host = new Host();
    const told = host.submit({ idempotent: true });
    for (let death = 0; death < 3; death += 1) {
      expect(told.ends).toBe(0);
      host.remove(host.addWorker());
    }
    expect(told).toMatchObject({ ends: 1, error: { code: 14 }, sentTo: ['w0', 'w1', 'w2'] });
  });
});

describe('time', () => {
  test('without a deadline the pool’s timeout holds; a queued request says where it waited', () => {
    const host = new Host();
    const told = host.submit();
    host.pass(999);
    expect(told.ends).toBe(0);
    host.pass(25);
    expect(told.error).toMatchObject({
      code: 4,
      message: 'the deadline passed after 1024 ms in the queue of pool p, which has no ready worker',
    });
  });

  test('a running one is cancelled, and keeps its place until the worker answers', () => {
    const host = new Host();
    const worker = host.addWorker();
    const told = host.submit({ deadlineMs: host.nowMs + 100 });
    host.pass(130);
    expect(told.error).toMatchObject({ code: 4, workerId: 'w0' });
    expect(worker.cancelled).toEqual(linkIds(worker));
    const next = host.submit();
    expect(next.sentTo).toEqual([]);
    host.answer(worker, first(worker), { code: 1, message: 'cancelled' });
    expect(next.sentTo).toEqual(['w0']);
    expect(told.ends).toBe(1);
  });

  test('the timer is asked for the earliest, and for nothing when nothing is due', () => {
    const host = new Host();
    host.addWorker({ concurrency: 9 });
    host.submit({ deadlineMs: host.nowMs + 500 });
    host.submit({ deadlineMs: host.nowMs + 100 });
    expect(host.armedAtMs).toBeLessThanOrEqual(host.nowMs + 120);
    host.pass(150);
    expect(host.armedAtMs).toBeGreaterThan(host.nowMs);
    host.pass(500);
    expect(host.armedAtMs).toBe(Number.POSITIVE_INFINITY);
  });
});

test('a paused worker says when it is idle; a budget is spent once', () => {
  const host = new Host();
  const worker = host.addWorker({ maxRequests: 2 });
  host.submit();
  host.dispatch.pauseWorker('w0');
  expect(host.idle).toEqual([]);
  host.answer(worker, first(worker));
  expect(host.idle).toEqual(['w0']);
  host.dispatch.resumeWorker('w0');
  for (let i = 0; i < 3; i += 1) {
    host.submit();
    host.answer(worker, first(worker), i === 0 ? { code: 2, message: 'failed, and counts' } : null);
  }
  expect(host.spent).toEqual(['w0']);
});
