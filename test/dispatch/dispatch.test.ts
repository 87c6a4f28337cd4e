import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { prefetchMaxBytes } from '../../src/dispatch/command-stats.ts';
import { run } from '../../src/dispatch/run.ts';
import type { FakeWorker, HostCall } from './host.ts';
import { DispatchHost, poolLimits } from './host.ts';

const [linkIds, first] = [
  (worker: { running: Map<number, unknown> }) => [...worker.running.keys()],
  (worker: { running: Map<number, unknown> }) => [...worker.running.keys()][0] ?? -1,
];

describe('admission', () => {
  test('a request to an unknown pool is refused with the names of the pools, and is not counted', () => {
    const host = new DispatchHost();
    expect(host.submit({ pool: 'q' }).error).toMatchObject({
      code: 5,
      message: 'pool: expected one of this node\'s pools (p), got "q"',
    });
    // Names that callers make up must not become labels of a metric.
    expect(host.outcomes).toEqual([]);
  });

  test('a request for an unknown command is refused with the names of the commands', () => {
    const host = new DispatchHost();
    host.addWorker({ commands: ['c', 'b'] });
    expect(host.submit({ command: 'x' }).error).toMatchObject({
      code: 5,
      message: 'command: expected one that pool p offers (b, c), got "x"',
    });
  });

  test('a request for an unknown command waits while the pool has no worker, and is refused once it has one', () => {
    const host = new DispatchHost();
    const call = host.submit({ command: 'x' });
    expect(call.ends).toBe(0);
    host.addWorker();
    expect(call.error?.code).toBe(5);
  });

  test('a plain call of a command that streams is refused, and leaves all numbers at 0', () => {
    const host = new DispatchHost();
    const worker = host.addWorker({ commands: ['stream'] });
    expect(host.submit({ command: 'stream' }).error).toMatchObject({
      code: 3,
      message: expect.stringContaining('ExecuteStream'),
    });
    expect(host.dispatch.poolStats('p')).toMatchObject({ queued: 0, queuedBytes: 0, inFlight: 0 });
    host.submit({ command: 'stream', streams: true });
    expect(worker.running.size).toBe(1);
  });

  test('a closed pool refuses requests with its reason', () => {
    const host = new DispatchHost();
    host.addWorker();
    host.dispatch.setPoolOpen('p', { open: false, reason: 'pool p is draining', refuseQueued: false });
    expect(host.submit().error).toMatchObject({ code: 14, message: 'pool p is draining' });
  });

  test('a full queue refuses requests, with a retry time from how long requests take', () => {
    const host = new DispatchHost();
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

  test('a queue with too many bytes refuses requests', () => {
    const host = new DispatchHost();
    expect(host.submit({ payload: Buffer.alloc(101) }).error).toMatchObject({
      code: 8,
      message: 'the queue of pool p is full: queue.max_bytes: expected at most 100 bytes waiting, got 101',
      retryAfterMs: 250,
    });
  });
});

describe('measurements', () => {
  test('a refused request counts no waiting time, and the oldest waiting and running requests have their ages', () => {
    const host = new DispatchHost();
    const worker = host.addWorker();
    expect(host.dispatch.oldestRequest('p')).toEqual({ queuedMs: 0, runningMs: 0 });
    expect(host.dispatch.oldestRequest('none')).toEqual({ queuedMs: 0, runningMs: 0 });
    host.submit();
    host.pass(200);
    host.submit();
    host.pass(30);
    host.submit();
    expect(host.dispatch.poolStats('p').capacity).toBe(1);
    expect(host.dispatch.oldestRequest('p')).toEqual({ queuedMs: 30, runningMs: 230 });
    host.submit({ command: 'x' });
    expect(host.outcomes).toMatchObject([{ code: 5, refused: true }]);
    host.answer(worker, first(worker));
    expect(host.outcomes[1]).toMatchObject({ code: 0, refused: false, queuedMs: 0 });
    expect(host.dispatch.oldestRequest('p')).toEqual({ queuedMs: 0, runningMs: 0 });
  });
});

describe('choice of a worker', () => {
  test('the worker with the fewest requests gets the next one', () => {
    const host = new DispatchHost();
    const [a, b] = [host.addWorker({ concurrency: 3 }), host.addWorker({ concurrency: 3 })];
    const sent = [1, 2, 3, 4].map(() => host.submit().sentTo[0]);
    expect(sent).toEqual([a.id, b.id, a.id, b.id]);
    host.answer(b, first(b));
    expect(host.submit().sentTo).toEqual([b.id]);
  });

  test('among equal workers the one that answered last gets the next request, unless it failed', () => {
    const host = new DispatchHost();
    const [a, b] = [host.addWorker(), host.addWorker()];
    expect(host.submit().sentTo).toEqual([a.id]);
    host.answer(a, first(a));
    expect(host.submit().sentTo).toEqual([a.id]);
    host.answer(a, first(a), { code: 2, message: 'alas' });
    expect(host.submit().sentTo).toEqual([b.id]);
  });

  test('requests are served in order of arrival, but a request that no free worker offers does not block others', () => {
    const host = new DispatchHost();
    const [c, d] = [host.addWorker({ commands: ['c'] }), host.addWorker({ commands: ['d'] })];
    host.submit({ command: 'd' });
    host.submit({ command: 'c' });
    const waiting = [host.submit({ command: 'd' }), host.submit({ command: 'c' })];
    host.answer(c, first(c));
    expect(waiting.map((call) => call.sentTo)).toEqual([[], [c.id]]);
    host.answer(d, first(d));
    expect(waiting[0]?.sentTo).toEqual([d.id]);
  });
});

describe('end of a worker', () => {
  test('a request that may have begun fails when its worker ends, with the reason', () => {
    const host = new DispatchHost();
    const worker = host.addWorker();
    const call = host.submit();
    host.remove(worker, 'memory_hard');
    expect(call.error).toMatchObject({
      code: 14,
      message: 'worker w0 ended (memory_hard) while it had the request: ended by SIGKILL',
      exitReason: 'memory_hard',
      workerId: 'w0',
    });
  });

  test('requests that were not written when their worker ended go to another one, before later requests', () => {
    const host = new DispatchHost();
    const worker = host.addWorker({ concurrency: 2 });
    const [a, b, later] = [host.submit(), host.submit(), host.submit()];
    for (const linkId of linkIds(worker)) worker.unwritten.add(linkId);
    host.remove(worker);
    const second = host.addWorker();
    expect([...second.running.values()].map(({ call }) => call)).toEqual([a]);
    host.answer(second, first(second));
    host.answer(second, first(second));
    host.answer(second, first(second));
    expect([a, b, later].map((call) => call.result)).toEqual(['done', 'done', 'done']);
  });

  test('an idempotent request whose worker ends runs again, at most maxAttempts times', () => {
    const host = new DispatchHost();
    const call = host.submit({ idempotent: true });
    for (let death = 0; death < 3; death += 1) {
      expect(call.ends).toBe(0);
      host.remove(host.addWorker());
    }
    expect(call).toMatchObject({ ends: 1, error: { code: 14 }, sentTo: ['w0', 'w1', 'w2'] });
  });
});

describe('deadlines', () => {
  test('a request without a deadline ends after the pool’s timeout, with the name of the queue in which it waited', () => {
    const host = new DispatchHost();
    const call = host.submit();
    host.pass(999);
    expect(call.ends).toBe(0);
    host.pass(25);
    expect(call.error).toMatchObject({
      code: 4,
      message: 'the deadline passed after 1024 ms in the queue of pool p, which has no ready worker',
    });
  });

  test('a running request is cancelled at its deadline, and keeps its place until the worker answers', () => {
    const host = new DispatchHost();
    const worker = host.addWorker();
    const call = host.submit({ deadlineMs: host.nowMs + 100 });
    host.pass(130);
    expect(call.error).toMatchObject({ code: 4, workerId: 'w0' });
    expect(worker.cancelled).toEqual(linkIds(worker));
    const next = host.submit();
    expect(next.sentTo).toEqual([]);
    host.answer(worker, first(worker), { code: 1, message: 'cancelled' });
    expect(next.sentTo).toEqual(['w0']);
    expect(call.ends).toBe(1);
  });

  test('the timer is set for the earliest deadline, and is not set when nothing is due', () => {
    const host = new DispatchHost();
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

test('a paused worker is reported when it is idle, and a spent max_requests is reported once', () => {
  const host = new DispatchHost();
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

describe('sending ahead', () => {
  /** Workers that run one request at a time and have run command c once, so that its run time is known. */
  function hostThatKnows(ranMs: number, workers = 1): DispatchHost {
    const host = new DispatchHost();
    for (let i = 0; i < workers; i += 1) {
      const worker = host.addWorker({ marksBegun: true });
      host.submit();
      host.answer(worker, first(worker), null, ranMs);
    }
    return host;
  }

  const sentTo = (call: readonly { readonly sentTo: readonly string[] }[]) => call.map((one) => one.sentTo.join(' '));

  test.each([
    { ranMs: 0, ahead: 0, what: 'are not sent ahead while their run time is unknown' },
    { ranMs: 0.3, ahead: 2, what: 'that are short are sent ahead, up to a millisecond in all' },
    { ranMs: 5, ahead: 0, what: 'that are long are not sent ahead' },
  ])('requests $what', ({ ranMs, ahead }) => {
    const host = hostThatKnows(ranMs);
    const call = Array.from({ length: 4 }, () => host.submit());
    expect(call.filter((one) => one.sentTo.length > 0)).toHaveLength(1 + ahead);
  });

  test('nothing is sent ahead to a worker that does not mark what began, and no async command is sent ahead', () => {
    const host = new DispatchHost();
    host.dispatch.setPool('q', poolLimits({ maxQueuedRequests: 9, maxQueuedBytes: 100 }));
    const silent = host.addWorker({ marksBegun: false });
    const marks = host.addWorker({ marksBegun: true, pool: 'q', commands: ['async'] });
    for (const [worker, ask] of [
      [silent, {}],
      [marks, { pool: 'q', command: 'async' }],
    ] as const) {
      host.submit(ask);
      host.answer(worker, first(worker), null, 0.01);
      const call = [host.submit(ask), host.submit(ask)];
      expect(sentTo(call)).toEqual([worker.id, '']);
    }
  });

  test('after one slow run of a command, nothing is sent ahead behind it for a while', () => {
    const host = hostThatKnows(0.01);
    const [worker] = host.workers;
    if (worker === undefined) return;
    host.submit();
    host.answer(worker, first(worker), null, 30);
    for (let i = 0; i < 50; i += 1) {
      host.submit();
      host.answer(worker, first(worker), null, 0.01);
    }
    expect(sentTo([host.submit(), host.submit()])).toEqual(['w0', '']);
  });

  test('a worker that answers nothing returns the requests that wait in it, and another one serves them in order', () => {
    const host = hostThatKnows(0.1, 2);
    const [other, stuck] = host.workers;
    if (stuck === undefined || other === undefined) return;
    const call = Array.from({ length: 6 }, () => host.submit());
    expect(sentTo(call)).toEqual(['w1', 'w0', 'w1', 'w0', 'w1', 'w0']);
    while (other.running.size > 0) host.answer(other, first(other), null, 0.1);
    host.pass(9);
    expect(stuck.recalled).toBe(false);
    host.pass(2);
    expect(stuck.recalled).toBe(true);
    host.giveBack(stuck);
    expect(sentTo(call.filter((one) => one.ends === 0))).toEqual(['w1', 'w1 w0', 'w1 w0']);
    expect([...other.running.values()].map(({ call: { ask } }) => ask.requestId)).toEqual(['4', '6']);
    // The worker gets no more requests until it answers.
    const more = Array.from({ length: 3 }, () => host.submit());
    expect(sentTo(more)).toEqual(['w0', 'w0', 'w0']);
  });

  test('only those requests of a killed worker fail that had begun', () => {
    const host = hostThatKnows(0.1);
    const [worker] = host.workers;
    if (worker === undefined) return;
    const call = [host.submit(), host.submit(), host.submit()];
    host.remove(worker);
    expect(call.map((one) => one.error?.code)).toEqual([14, undefined, undefined]);
    const next = host.addWorker();
    host.answer(next, first(next));
    expect(sentTo(call)).toEqual(['w0', 'w0 w1', 'w0 w1']);
  });

  test('a worker that leaves gets no more requests, and those that it returns run elsewhere', () => {
    const host = hostThatKnows(0.1);
    const [worker] = host.workers;
    if (worker === undefined) return;
    const call = [host.submit(), host.submit()];
    worker.leaving = true;
    host.dispatch.onLeaving('w0');
    host.giveBack(worker);
    host.answer(worker, first(worker), null, 0.1);
    expect(call.map((one) => one.request?.run)).toEqual([run.ended, run.queued]);
    host.addWorker();
    expect(sentTo(call)).toEqual(['w0', 'w0 w1']);
  });

  test('nothing is sent ahead to a worker that has many payload bytes', () => {
    const host = hostThatKnows(0.01);
    host.dispatch.setPool('p', poolLimits({ maxQueuedRequests: 9, maxQueuedBytes: 2 ** 30 }));
    const call = Array.from({ length: 4 }, () => host.submit({ payload: Buffer.alloc(prefetchMaxBytes / 2) }));
    expect(sentTo(call)).toEqual(['w0', 'w0', '', '']);
  });

  test('a link id that has wrapped counts as later than the last begun one', () => {
    const host = new DispatchHost();
    const worker = host.addWorker({ concurrency: 2, marksBegun: true });
    const old = host.submit();
    host.submit();
    worker.lastBegunLinkId = 2 ** 32 - 1;
    worker.waiting.push(first(worker));
    host.remove(worker);
    expect(old.request?.run).toBe(run.queued);
  });
});

describe('a caller that does not keep up with a stream', () => {
  const stream = { command: 'stream', streams: true, hasCallerId: true, requestId: 'r' };
  const linkIdOf = ({ request }: HostCall): number => request?.linkId ?? expect.fail('it was refused');

  test('makes the worker hold back chunks until the caller has read enough', () => {
    const host = new DispatchHost();
    const worker = host.addWorker({ commands: ['stream'] });
    const call = host.submit({ command: 'stream', streams: true });
    host.pause(call);
    host.pause(call);
    expect([...worker.held]).toEqual([linkIdOf(call)]);
    host.resume(call);
    expect([...worker.held]).toEqual([]);
    host.answer(worker, linkIdOf(call));
    host.pause(call);
    expect([...worker.held]).toEqual([]);
  });

  test('makes the next worker hold back chunks too, when the request runs again', () => {
    const host = new DispatchHost();
    const dies = host.addWorker({ commands: ['stream'] });
    const call = host.submit({ command: 'stream', streams: true, idempotent: true });
    host.pause(call);
    host.remove(dies);
    const next = host.addWorker({ commands: ['stream'] });
    expect([...next.held]).toEqual([linkIdOf(call)]);
  });

  test.each(['running', 'kept'])('makes the worker hold back chunks on its next link too: request %s', (state) => {
    const host = new DispatchHost();
    const worker = host.addWorker({ commands: ['stream'] });
    const call = host.submit(stream);
    const id = linkIdOf(call);
    host.dispatch.onChunk(worker.id, id, Buffer.from('0'), '');
    host.pause(call);
    const payload = Buffer.from('payload');
    const held = {
      ...{ id, request_id: 'r', command: 'stream', keep: true, ended: state === 'kept', cancelled: false },
      ...{ remaining_ms: 0, age_ms: 10, payload_bytes: payload.length, payload_crc32: crc32(payload) },
    };
    const again = host.reattach(worker, { last_id: id, completed: 0, failed: 0, held: [held] });
    expect([again.replayed, [...again.held]]).toEqual([[id], [id]]);
  });

  test.each(['reads on', 'leaves'])(
    'holds back no replay if the answer crossed the pause and the caller %s',
    (what) => {
      const host = new DispatchHost();
      const worker = host.addWorker({ commands: ['stream'] });
      const call = host.submit(stream);
      host.pause(call);
      host.answer(worker, linkIdOf(call));
      if (what === 'reads on') host.resume(call);
      host.settle(call, false);
      expect([...worker.held]).toEqual([]);
    },
  );

  test.each(['running', 'replaying'])('does not hold back chunks of a call that repeats the request: %s', (state) => {
    const host = new DispatchHost();
    const worker = host.addWorker({ commands: ['stream'] });
    let slow = host.submit(stream);
    const id = linkIdOf(slow);
    host.dispatch.onChunk(worker.id, id, Buffer.from('0'), '');
    if (state === 'replaying') {
      host.settle(slow, false);
      host.answer(worker, id);
      slow = host.submit(stream);
    }
    host.pause(slow);
    expect([...worker.held]).toEqual([id]);
    const next = host.submit(stream);
    expect([...worker.held]).toEqual([]);
    host.pause(next);
    // The earlier caller may still read what it had received.
    host.resume(slow);
    expect([...worker.held]).toEqual([id]);
  });
});

describe('deadlines that cannot be met', () => {
  /** One worker that answers every 10 ms, with two requests waiting. */
  function steady(): DispatchHost {
    const host = new DispatchHost();
    const worker = host.addWorker();
    host.submit();
    host.submit();
    for (let i = 0; i < 25; i += 1) {
      host.submit();
      host.pass(10);
      host.answer(worker, first(worker));
    }
    return host;
  }

  test('a request that the pool would serve after its deadline is refused on arrival', () => {
    const host = steady();
    expect(host.submit({ deadlineMs: host.nowMs + 15 }).error).toMatchObject({
      code: 8,
      message: expect.stringMatching(
        /^\d requests wait in the queue of pool p: expected a deadline of at least \d+ ms, got 15 ms$/,
      ),
      retryAfterMs: 50,
    });
    expect(host.submit({ deadlineMs: host.nowMs + 100 }).error).toBeUndefined();
  });

  test('no deadline is refused on arrival while the pool’s pace is unknown or nothing waits', () => {
    const host = new DispatchHost();
    const worker = host.addWorker();
    host.submit();
    host.submit();
    expect(host.submit({ deadlineMs: host.nowMs + 1 }).error).toBeUndefined();
    while (worker.running.size > 0) host.answer(worker, first(worker));
    expect(host.submit({ deadlineMs: host.nowMs + 1 }).error).toBeUndefined();
  });
});

describe('requests that run on after their deadline', () => {
  const killing = (patch = {}): DispatchHost => {
    const host = new DispatchHost();
    host.dispatch.setPool('p', poolLimits({ killAfterMs: 500, ...patch }));
    return host;
  };

  test('a request that its worker does not end is reported as overdue once, kill_after after its deadline', () => {
    const host = killing();
    const worker = host.addWorker({ marksBegun: true });
    expect(host.submit({ deadlineMs: host.nowMs + 100 }).sentTo).toEqual(['w0']);
    host.pass(120);
    expect(worker.cancelled).toHaveLength(1);
    host.pass(480);
    expect(host.overdue).toEqual([]);
    host.pass(60);
    expect(host.overdue).toEqual(['w0']);
    host.pass(10_000);
    expect(host.overdue).toEqual(['w0']);
  });

  test('a request whose caller left is reported as overdue kill_after after its deadline too', () => {
    const host = killing();
    host.addWorker();
    host.cancel(host.submit({ deadlineMs: host.nowMs + 100 }));
    host.pass(580);
    expect(host.overdue).toEqual([]);
    host.pass(40);
    expect(host.overdue).toEqual(['w0']);
  });

  test('a request that ends, or whose worker ends, after its deadline is not reported as overdue', () => {
    const host = killing();
    const [a, b] = [host.addWorker(), host.addWorker()];
    host.submit({ deadlineMs: host.nowMs + 100 });
    host.submit({ deadlineMs: host.nowMs + 100 });
    host.pass(120);
    host.answer(a, first(a));
    host.remove(b);
    host.pass(10_000);
    expect(host.overdue).toEqual([]);
  });

  test('a request that has not begun is not reported as overdue', () => {
    const host = killing();
    const worker = host.addWorker({ marksBegun: true });
    const call = host.submit({ deadlineMs: host.nowMs + 100 });
    worker.lastBegunLinkId = (call.request?.linkId ?? 0) - 1;
    host.pass(5_000);
    host.pass(5_000);
    expect(host.overdue).toEqual([]);
  });
});

describe('requests that crash their workers', () => {
  const poisoned = { payload: Buffer.from('poison'), idempotent: true };

  test('a request that crashed poison.after workers is reported, and refused for poison.for', () => {
    const host = new DispatchHost();
    host.dispatch.setPool('p', poolLimits({ poison: { after: 2, forMs: 60_000 } }));
    host.addWorker();
    const call = host.submit(poisoned);
    host.addWorker();
    host.remove(host.workers[0] as FakeWorker);
    expect(call.sentTo).toEqual(['w0', 'w1']);
    host.addWorker();
    host.remove(host.workers[1] as FakeWorker);
    const message = 'this request to c was running in 2 workers when they crashed; it is refused for now (poison.for)';
    expect(call.error).toMatchObject({ code: 9, message });
    expect(host.poisoned).toEqual([
      'request 0 (c, 6 bytes) was running in 2 workers that crashed: refused from now on',
    ]);
    expect(host.submit(poisoned).error).toMatchObject({ code: 9 });
    expect(host.submit({ payload: Buffer.from('other') }).error).toBeUndefined();
    host.pass(60_000);
    expect(host.submit(poisoned).error).toBeUndefined();
  });

  test('a request that is answered in between is not refused, however many workers crash with it', () => {
    const host = new DispatchHost();
    host.dispatch.setPool('p', poolLimits({ poison: { after: 2, forMs: 60_000 } }));
    for (let round = 0; round < 3; round += 1) {
      const crashes = host.addWorker();
      host.submit(poisoned);
      host.remove(crashes);
      const answers = host.addWorker();
      host.answer(answers, first(answers), null, 1);
      host.remove(answers, 'ttl', false);
    }
    expect(host.poisoned).toEqual([]);
  });

  test('planned ends of workers, and requests that had not begun, do not count as crashes of a request', () => {
    const host = new DispatchHost();
    host.dispatch.setPool('p', poolLimits({ poison: { after: 1, forMs: 60_000 } }));
    const stopped = host.addWorker();
    host.submit(poisoned);
    host.remove(stopped, 'operator', false);
    const unbegun = host.addWorker();
    unbegun.unwritten.add(first(unbegun));
    host.remove(unbegun);
    expect(host.poisoned).toEqual([]);
  });
});

describe('sessions', () => {
  const twoWorkers = (affinity: 'hint' | 'strict'): [DispatchHost, FakeWorker, FakeWorker] => {
    const host = new DispatchHost();
    host.dispatch.setPool('p', poolLimits({ affinity }));
    return [host, host.addWorker(), host.addWorker()];
  };

  test.each(['hint', 'strict'] as const)(
    'a session stays with its worker although another is less loaded: affinity %s',
    (affinity) => {
      const [host, a, b] = twoWorkers(affinity);
      expect(host.submit({ sessionId: 's' }).sentTo).toEqual([a.id]);
      host.submit();
      host.answer(b, first(b));
      host.answer(a, first(a));
      host.submit();
      host.answer(a, first(a));
      expect(host.submit({ sessionId: 's' }).sentTo).toEqual([a.id]);
    },
  );

  test('when its worker has no place, a session moves to another worker with affinity hint, and waits with strict', () => {
    const [hint, a, b] = twoWorkers('hint');
    hint.submit({ sessionId: 's' });
    expect(hint.submit({ sessionId: 's' }).sentTo).toEqual([b.id]);
    hint.answer(a, first(a));
    hint.answer(b, first(b));
    expect(hint.submit({ sessionId: 's' }).sentTo).toEqual([b.id]);

    const [strict, c] = twoWorkers('strict');
    strict.submit({ sessionId: 's' });
    const waits = strict.submit({ sessionId: 's' });
    expect(waits.sentTo).toEqual([]);
    expect(strict.submit().sentTo).toEqual(['w1']);
    strict.answer(c, first(c));
    expect(waits.sentTo).toEqual([c.id]);
  });

  test('waiting requests of one strict session keep their order, and keep no other request from an idle worker', () => {
    const [host, a, b] = twoWorkers('strict');
    host.dispatch.setPool('p', poolLimits({ affinity: 'strict', maxQueuedRequests: 200, maxQueuedBytes: 10_000 }));
    host.submit({ sessionId: 'hot' });
    host.submit();
    const hot = Array.from({ length: 100 }, () => host.submit({ sessionId: 'hot' }));
    const other = host.submit();
    expect(other.sentTo).toEqual([]);
    host.answer(b, first(b));
    expect(other.sentTo).toEqual([b.id]);
    host.answer(b, first(b));
    // A queue in which only requests of the session wait does not refuse other requests.
    expect(host.dispatch.poolStats('p').queued).toBe(100);
    expect(host.submit().sentTo).toEqual([b.id]);
    host.answer(a, first(a));
    expect(hot.map(({ sentTo }) => sentTo.length)).toEqual([1, ...Array(99).fill(0)]);
    // The session's worker ends, so any worker may take its requests, the oldest first.
    host.answer(b, first(b));
    host.remove(a);
    expect(hot.map(({ sentTo }) => sentTo.at(-1)).slice(0, 3)).toEqual([a.id, b.id, undefined]);
    while (b.running.size > 0) host.answer(b, first(b));
    expect(hot.every(({ ends }) => ends === 1)).toBe(true);
    expect(host.dispatch.poolStats('p')).toMatchObject({ queued: 0, queuedBytes: 0, inFlight: 0 });
  });

  test('a queue full of requests of one strict session refuses only requests of that session', () => {
    const [host] = twoWorkers('strict');
    for (let i = 0; i < 4; i += 1) host.submit({ sessionId: 'hot' });
    expect(host.submit({ sessionId: 'hot' }).error).toMatchObject({ code: 8 });
    expect(host.submit().sentTo).toEqual(['w1']);
  });

  test('requests that waited for one worker go to any worker when a reload ends strict affinity', () => {
    const [host, , b] = twoWorkers('strict');
    host.submit({ sessionId: 's' });
    const waits = host.submit({ sessionId: 's' });
    host.dispatch.setPool('p', poolLimits({ affinity: 'off' }));
    expect(waits.sentTo).toEqual([b.id]);
  });

  test('requests of a strict session go to another worker when their worker is paused', () => {
    const [host, a, b] = twoWorkers('strict');
    host.submit({ sessionId: 's' });
    const waits = host.submit({ sessionId: 's' });
    host.dispatch.pauseWorker(a.id);
    expect(waits.sentTo).toEqual([b.id]);
  });

  test('requests of a strict session go to another worker when their worker ends', () => {
    const [host, a, b] = twoWorkers('strict');
    host.submit({ sessionId: 's' });
    const waits = host.submit({ sessionId: 's' });
    host.remove(a);
    expect(waits.sentTo).toEqual([b.id]);
  });
});

describe('roll-out of a new version', () => {
  test('requests that only busy workers offer keep no other request from an idle worker', () => {
    const host = new DispatchHost();
    host.dispatch.setPool('p', poolLimits({ maxQueuedRequests: 200, maxQueuedBytes: 10_000 }));
    const fresh = host.addWorker({ commands: ['c', 'fresh'] });
    const old = host.addWorker();
    host.submit({ command: 'fresh' });
    host.submit();
    const waiting = Array.from({ length: 100 }, () => host.submit({ command: 'fresh' }));
    const other = host.submit();
    host.answer(old, first(old));
    expect(other.sentTo).toEqual([old.id]);
    host.answer(fresh, first(fresh));
    expect(waiting[0]?.sentTo).toEqual([fresh.id]);
    // No worker offers the command any more.
    host.remove(fresh);
    host.answer(old, first(old));
    expect(waiting.at(-1)?.error).toMatchObject({ code: 5 });
    expect(host.dispatch.poolStats('p').queued).toBe(0);
  });
});

describe('may_have_begun of errors', () => {
  const death = { reason: 'signal', message: 'ended by SIGKILL', crashed: true };
  const failed = (ran_us: number, code = 13) => ({
    ...{ payload: Buffer.alloc(0), content_type: '', ran_us },
    error: { code, type: '', message: 'm', traceback: '' },
  });
  const cases: [string, boolean, (host: DispatchHost) => HostCall][] = [
    ['the pool is unknown', false, (host) => host.submit({ pool: 'q' })],
    [
      'the command is unknown',
      false,
      (host) => {
        host.addWorker();
        return host.submit({ command: 'other' });
      },
    ],
    [
      'the queue is full',
      false,
      (host) => {
        for (let i = 0; i < 3; i += 1) host.submit();
        return host.submit();
      },
    ],
    [
      'the pool closes',
      false,
      (host) => {
        const call = host.submit();
        host.dispatch.setPoolOpen('p', { open: false, reason: 'r', refuseQueued: true });
        return call;
      },
    ],
    [
      'the pool closes while a worker of an earlier agent may have the request',
      true,
      (host) => {
        host.dispatch.expectWorker('p', 'old');
        const call = host.submit({ hasCallerId: true });
        host.dispatch.setPoolOpen('p', { open: false, reason: 'r', refuseQueued: true });
        return call;
      },
    ],
    [
      'the deadline passes in the queue',
      false,
      (host) => {
        const call = host.submit({ deadlineMs: host.nowMs + 50 });
        host.pass(100);
        return call;
      },
    ],
    [
      'the deadline passes in the worker',
      true,
      (host) => {
        host.addWorker();
        const call = host.submit({ deadlineMs: host.nowMs + 50 });
        host.pass(100);
        return call;
      },
    ],
    [
      'the worker dies with the request',
      true,
      (host) => {
        const worker = host.addWorker();
        const call = host.submit();
        host.remove(worker);
        return call;
      },
    ],
    [
      'the worker dies before the command begins and then the pool closes',
      false,
      (host) => {
        const worker = host.addWorker({ marksBegun: true });
        const call = host.submit();
        host.dispatch.removeWorker(worker.id, { ...death, lastBegunLinkId: 0 });
        host.dispatch.setPoolOpen('p', { open: false, reason: 'r', refuseQueued: true });
        return call;
      },
    ],
    [
      'an idempotent request was lost with its worker and then the pool closes',
      true,
      (host) => {
        const worker = host.addWorker();
        const call = host.submit({ idempotent: true });
        host.remove(worker);
        host.dispatch.setPoolOpen('p', { open: false, reason: 'r', refuseQueued: true });
        return call;
      },
    ],
    [
      'another call repeats the request',
      true,
      (host) => {
        host.addWorker();
        const call = host.submit({ requestId: 'a', hasCallerId: true });
        host.submit({ requestId: 'a', hasCallerId: true });
        return call;
      },
    ],
    [
      'the command raises',
      true,
      (host) => {
        host.addWorker();
        const call = host.submit();
        host.dispatch.onResult('w0', 1, failed(5));
        return call;
      },
    ],
    [
      'the worker refuses the request',
      false,
      (host) => {
        host.addWorker();
        const call = host.submit();
        host.dispatch.onResult('w0', 1, failed(0, 3));
        return call;
      },
    ],
    [
      'its worker has dropped the answer',
      true,
      (host) => {
        host.addWorker();
        const call = host.submit({ hasCallerId: true });
        host.dispatch.onResult('w0', 1, failed(0, 15));
        return call;
      },
    ],
  ];
  test.each(cases)('an error because %s says whether the command may have begun: %s', (_what, may, act) => {
    expect(act(new DispatchHost()).error).toMatchObject({ mayHaveBegun: may });
  });

  test('an error that is kept for a caller says whether the command may have begun', () => {
    const host = new DispatchHost();
    const worker = host.addWorker();
    host.settle(host.submit({ requestId: 'a', hasCallerId: true }), false);
    host.remove(worker);
    expect(host.submit({ requestId: 'a', hasCallerId: true }).error).toMatchObject({ code: 14, mayHaveBegun: true });
  });
});

test('a request that a dying worker returns to a pool whose starts fail is refused with that cause', () => {
  const host = new DispatchHost();
  const worker = host.addWorker();
  const runs = host.submit({ idempotent: true });
  const waits = host.submit();
  host.dispatch.setPoolOpen('p', { open: false, reason: 'pool p: its starts fail', refuseQueued: true });
  expect(waits.error).toMatchObject({ code: 14, message: 'pool p: its starts fail', retryAfterMs: 1_000 });
  host.remove(worker);
  expect(runs.error).toMatchObject({ code: 14, message: 'pool p: its starts fail', mayHaveBegun: true });
});

test('a reload may change poison.after up and down, and requests are refused by the new value', () => {
  const host = new DispatchHost();
  const poison = (after: number) => host.dispatch.setPool('p', poolLimits({ poison: { after, forMs: 60_000 } }));
  const crash = (payload: string) => {
    const worker = host.addWorker();
    const call = host.submit({ payload: Buffer.from(payload) });
    host.remove(worker);
    return call.error?.code;
  };
  poison(2);
  expect([crash('a'), crash('a')]).toEqual([14, 9]);
  poison(3);
  // `a` is no longer refused, until its third crash.
  expect([crash('a'), crash('b')]).toEqual([9, 14]);
  poison(4);
  // `a` is only suspected now, and answered, so it is forgiven.
  const worker = host.addWorker();
  host.submit({ payload: Buffer.from('a') });
  host.answer(worker, first(worker), null, 1);
  host.submit({ payload: Buffer.from('b') });
  host.answer(worker, first(worker), null, 1);
  host.dispatch.removeWorker(worker.id, { reason: 'operator', message: 'm', lastBegunLinkId: null, crashed: false });
  expect([crash('a'), crash('a'), crash('a'), crash('b')]).toEqual([14, 14, 14, 14]);
  poison(3);
  expect(host.submit({ payload: Buffer.from('a') }).error).toMatchObject({ code: 9 });
  poison(1);
  expect(host.submit({ payload: Buffer.from('a') }).error).toMatchObject({ code: 9 });
  poison(0);
  expect(host.submit({ payload: Buffer.from('a') }).error).toBeUndefined();
});

test('requests that fail in workers are reported once, and refused or cancelled ones are not', () => {
  const host = new DispatchHost();
  const worker = host.addWorker();
  host.submit({ requestId: 'fails', hasCallerId: true });
  host.answer(worker, first(worker), { code: 2, message: 'm' });
  host.cancel(host.submit({ requestId: 'cancelled' }));
  host.answer(worker, first(worker), { code: 1, message: 'm' });
  host.submit({ requestId: 'refused', pool: 'q' });
  host.submit({ requestId: 'lost' });
  host.remove(worker);
  expect(host.failed).toEqual(['fails', 'lost']);
});

test('the progress that a command reports is shown with its request', () => {
  const host = new DispatchHost();
  const worker = host.addWorker();
  host.submit();
  const id = first(worker);
  const seen = () => host.dispatch.requestsOf(worker.id)[0]?.progress;
  expect(seen()).toBeNull();
  host.dispatch.onProgress(worker.id, [
    { id, fraction: 0.5, message: 'half' },
    { id: id + 1, fraction: 1, message: 'of nobody' },
  ]);
  expect(seen()).toEqual({ fraction: 0.5, message: 'half' });
});

test('a caller gets reports of progress while its command runs, and a call that repeats the request gets the newest', () => {
  const host = new DispatchHost();
  const worker = host.addWorker();
  const [half, most] = [
    { fraction: 0.5, message: 'half' },
    { fraction: 0.9, message: 'most' },
  ];
  const call = host.submit({ requestId: 'r', hasCallerId: true });
  const id = first(worker);
  expect(host.dispatch.progressOf(worker.id)).toBeNull();
  host.dispatch.onProgress(worker.id, [{ id, ...half }]);
  expect(call.reports).toEqual([half]);
  expect(host.dispatch.progressOf(worker.id)).toEqual(half);

  host.settle(call, false);
  host.dispatch.onProgress(worker.id, [{ id, ...most }]);
  const again = host.submit({ requestId: 'r', hasCallerId: true });
  expect([call.reports, again.reports]).toEqual([[half], [most]]);

  host.cancel(again);
  host.dispatch.onProgress(worker.id, [{ id, ...half }]);
  expect(again.reports).toEqual([most]);
  host.answer(worker, id);
  expect(host.dispatch.progressOf(worker.id)).toBeNull();
});
