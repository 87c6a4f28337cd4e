import { crc32 } from 'node:zlib';
import { beforeEach, describe, expect, test } from 'vitest';
import type { Resumed } from '../../src/dispatch/worker.ts';
import { DispatchHost, poolLimits } from './host.ts';

let host: DispatchHost;

beforeEach(() => {
  host = new DispatchHost();
});

const named = (requestId: string) => ({ requestId, hasCallerId: true });
const payload = Buffer.from('payload');
const ok = { payload: Buffer.from('answer'), content_type: '', error: null, ran_us: 5 };

function heldRequest(
  id: number,
  requestId: string,
  patch: Partial<Resumed['held'][number]> = {},
): Resumed['held'][number] {
  return {
    ...{ id, request_id: requestId, command: 'c', keep: true, ended: false, remaining_ms: 900, age_ms: 100 },
    ...{ payload_bytes: payload.length, payload_crc32: crc32(payload), cancelled: false },
    ...patch,
  };
}

function resumed(...held: Resumed['held'][number][]): Resumed {
  return { last_id: 7, completed: 5, failed: 1, held };
}

describe('named requests', () => {
  test('the worker keeps the answer to a named request until the caller has read it', () => {
    const worker = host.addWorker();
    const call = host.submit(named('a'));
    const [[linkId, { request }] = [0, { request: undefined }]] = worker.running;
    expect(request?.keep).toBe(true);
    host.dispatch.onResult(worker.id, linkId, ok);
    expect(call.result).toBe('answer');
    expect(worker.acked).toEqual([]);
    host.settle(call, true);
    expect(worker.acked).toEqual([linkId]);
    // The id is free, so this is a new request.
    expect(host.submit(named('a')).sentTo).toEqual([worker.id]);
  });

  test('the worker does not keep the answer to a request without a name', () => {
    const worker = host.addWorker();
    host.submit();
    expect([...worker.running.values()][0]?.request.keep).toBe(false);
  });

  test('a repeated request keeps its payload until its latest call drops it', () => {
    const worker = host.addWorker();
    const first = host.submit(named('a'));
    const { request, sink } = first;
    const again = host.submit(named('a'));
    if (request === undefined) throw new Error('refused');
    host.dispatch.dropPayload(request, sink);
    host.dispatch.dropPayload(request, again.sink);
    expect(request.payload).toEqual(payload);
    host.dispatch.onResult(worker.id, 1, ok);
    host.dispatch.dropPayload(request, sink);
    expect(request.payload).toEqual(payload);
    host.dispatch.dropPayload(request, again.sink);
    expect(request.payload).toHaveLength(0);
  });

  test('a named request goes on when its connection breaks, and the call that repeats it gets the answer', () => {
    const worker = host.addWorker();
    const first = host.submit(named('a'));
    host.settle(first, false);
    expect(worker.cancelled).toEqual([]);
    const again = host.submit(named('a'));
    expect(worker.running.size).toBe(1);
    host.dispatch.onResult(worker.id, 1, ok);
    expect([first.ends, again.result]).toEqual([0, 'answer']);
  });

  test('a call that repeats an answered request gets a replay of the answer', () => {
    const worker = host.addWorker();
    const first = host.submit(named('a'));
    host.dispatch.onResult(worker.id, 1, ok);
    host.settle(first, false);
    expect(worker.counters).toMatchObject({ inFlight: 0, kept: 1 });
    const again = host.submit(named('a'));
    expect(worker.replayed).toEqual([1]);
    host.dispatch.onReplayed(worker.id, [1]);
    host.dispatch.onResult(worker.id, 1, ok);
    expect(again.result).toBe('answer');
    host.settle(again, true);
    expect(worker.acked).toEqual([1]);
    expect(worker.counters).toMatchObject({ kept: 0, completed: 1 });
  });

  test('a call that repeats a failed request gets the same error, and the command does not run again', () => {
    const worker = host.addWorker();
    const first = host.submit(named('a'));
    host.settle(first, false);
    host.dispatch.removeWorker(worker.id, { reason: 'signal', message: 'm', lastBegunLinkId: null, crashed: true });
    host.addWorker();
    const again = host.submit(named('a'));
    expect(again.error).toMatchObject({ code: 14, exitReason: 'signal' });
    expect(again.sentTo).toEqual([]);
    host.settle(again, true);
    expect(host.submit(named('a')).sentTo).toEqual(['w1']);
  });

  test('a request whose kept answer is lost with its worker fails, and does not run again', () => {
    const worker = host.addWorker();
    const first = host.submit(named('a'));
    host.dispatch.onResult(worker.id, 1, ok);
    host.settle(first, false);
    host.dispatch.removeWorker(worker.id, { reason: 'signal', message: 'm', lastBegunLinkId: null, crashed: true });
    expect(host.submit(named('a')).error).toMatchObject({ code: 14 });
  });

  test('a named request without a caller is forgotten after keepMs, whether it runs or has ended', () => {
    const worker = host.addWorker({ concurrency: 2 });
    const ended = host.submit(named('a'));
    host.dispatch.onResult(worker.id, 1, ok);
    const runs = host.submit({ ...named('b'), deadlineMs: host.nowMs + 60_000 });
    host.settle(ended, false);
    host.settle(runs, false);
    host.pass(490);
    expect([worker.acked, worker.cancelled]).toEqual([[], []]);
    host.pass(40);
    expect([worker.acked, worker.cancelled]).toEqual([[1], [2]]);
    expect(worker.counters.kept).toBe(0);
    // The worker keeps the answer to the cancelled request, which nobody will ask for.
    host.dispatch.onResult(worker.id, 2, ok);
    expect(worker.acked).toEqual([1, 2]);
  });

  test('a second call takes over a named request, and the end of the first call does not affect it', () => {
    const worker = host.addWorker();
    const first = host.submit(named('a'));
    const second = host.submit(named('a'));
    expect(first.error).toMatchObject({ code: 10 });
    // The first call ends, and the request goes on for the second one.
    host.settle(first, false);
    host.cancel(first);
    host.dispatch.onResult(worker.id, 1, ok);
    expect(second.result).toBe('answer');
  });

  test.each([
    ['another payload', { payload: Buffer.from('another') }],
    ['another size', { payload: Buffer.from('p') }],
    ['another command', { command: 'd' }],
  ])('a request with a known id and %s is refused', (_what, patch) => {
    host.addWorker({ commands: ['c', 'd'] });
    const first = host.submit(named('a'));
    expect(host.submit({ ...named('a'), ...patch }).error).toMatchObject({ code: 3 });
    host.dispatch.onResult('w0', 1, ok);
    host.settle(first, false);
    expect(host.submit({ ...named('a'), ...patch }).error).toMatchObject({ code: 3 });
    expect(host.submit(named('a')).error).toBeUndefined();
  });

  test('a cancelled request is forgotten, and its id can be used for a new request', () => {
    const worker = host.addWorker();
    const call = host.submit(named('a'));
    host.cancel(call);
    expect(worker.cancelled).toEqual([1]);
    host.dispatch.onResult(worker.id, 1, { ...ok, error: { code: 1, type: '', message: '', traceback: '' } });
    expect(worker.acked).toEqual([1]);
    expect(host.submit(named('a')).sentTo).toEqual([worker.id]);
  });

  test('a repeated stream is replayed from its beginning, and no call gets a chunk twice', () => {
    const worker = host.addWorker({ commands: ['stream'] });
    const asks = { ...named('a'), command: 'stream', streams: true };
    const first = host.submit(asks);
    const chunk = (text: string) => host.dispatch.onChunk(worker.id, 1, Buffer.from(text), '');
    chunk('1');
    host.settle(first, false);
    chunk('2');
    const second = host.submit(asks);
    // This chunk was on the link when the replay was requested.
    chunk('3');
    host.settle(second, false);
    const third = host.submit(asks);
    expect(worker.replayed).toEqual([1, 1]);
    host.dispatch.onReplayed(worker.id, [1]);
    chunk('1');
    host.dispatch.onReplayed(worker.id, [1]);
    for (const text of ['1', '2', '3']) chunk(text);
    host.dispatch.onResult(worker.id, 1, { ...ok, payload: Buffer.alloc(0) });
    expect([first.chunks, second.chunks, third.chunks]).toEqual([['1'], [], ['1', '2', '3']]);
    expect(third.ends).toBe(1);
  });

  test('a caller that repeats a stream that runs again in another worker gets all chunks', () => {
    const first = host.addWorker({ commands: ['stream'] });
    const asks = { ...named('a'), command: 'stream', streams: true, idempotent: true };
    host.submit(asks);
    host.dispatch.onChunk(first.id, 1, Buffer.from('1'), '');
    host.remove(first);
    const second = host.addWorker({ commands: ['stream'] });
    const again = host.submit(asks);
    for (const text of ['1', '2']) host.dispatch.onChunk(second.id, 1, Buffer.from(text), '');
    expect(again.chunks).toEqual(['1', '2']);
  });

  test.each(['that waits', 'that runs', 'that has ended'])(
    'a plain call that repeats a stream %s is refused, and the stream goes on',
    (when) => {
      const worker = host.addWorker({ commands: ['stream', 'c'] });
      const asks = { ...named('a'), command: 'stream' };
      if (when === 'that waits') host.submit();
      const first = host.submit({ ...asks, streams: true });
      if (when === 'that has ended') {
        host.dispatch.onResult(worker.id, 1, { ...ok, payload: Buffer.alloc(0) });
        host.settle(first, false);
      }
      const plain = host.submit(asks);
      expect(plain.error).toMatchObject({ code: 3, message: expect.stringContaining('ExecuteStream') });
      expect(first.error).toBeUndefined();
      expect(host.submit({ ...asks, streams: true }).error).toBeUndefined();
    },
  );

  test('a result that comes before the requested replay begins does not end the repeated call', () => {
    const worker = host.addWorker({ commands: ['stream'] });
    const asks = { ...named('a'), command: 'stream', streams: true };
    const first = host.submit(asks);
    host.dispatch.onChunk(worker.id, 1, Buffer.from('1'), '');
    host.settle(first, false);
    const again = host.submit(asks);
    host.dispatch.onResult(worker.id, 1, ok);
    expect(again.ends).toBe(0);
    expect(worker.counters.inFlight).toBe(0);
    host.dispatch.onReplayed(worker.id, [1]);
    host.dispatch.onChunk(worker.id, 1, Buffer.from('1'), '');
    host.dispatch.onResult(worker.id, 1, ok);
    expect([again.chunks, again.ends]).toEqual([['1'], 1]);
  });
});

describe('adopted workers', () => {
  test('named requests wait until all workers of the earlier agent have dialled in; others do not wait', () => {
    host.dispatch.expectWorker('p', 'old');
    host.addWorker({ concurrency: 4 });
    const mine = host.submit(named('a'));
    const other = host.submit();
    expect([mine.sentTo, other.sentTo]).toEqual([[], ['w0']]);
    host.addWorker({ id: 'old', resumed: resumed() });
    expect(mine.sentTo).toHaveLength(1);
  });

  test('named requests wait no longer once the last worker of the earlier agent is known to be gone', () => {
    host.dispatch.expectWorker('p', 'old');
    host.addWorker();
    const mine = host.submit(named('a'));
    host.dispatch.removeWorker('old', { reason: 'exit_unknown', message: 'm', lastBegunLinkId: null, crashed: true });
    expect(mine.sentTo).toEqual(['w0']);
  });

  test('a request that runs in an adopted worker answers calls that repeat it before or after the worker dials in', () => {
    host.dispatch.expectWorker('p', 'old');
    const early = host.submit(named('a'));
    const worker = host.addWorker({
      id: 'old',
      concurrency: 2,
      resumed: resumed(heldRequest(3, 'a'), heldRequest(4, 'b')),
    });
    const late = host.submit(named('b'));
    expect(worker.running.size).toBe(0);
    expect(worker.counters).toMatchObject({ inFlight: 2, completed: 5, failed: 1 });
    host.dispatch.onReplayed('old', [3, 4]);
    host.dispatch.onResult('old', 3, ok);
    host.dispatch.onResult('old', 4, ok);
    expect([early.result, late.result]).toEqual(['answer', 'answer']);
    expect(early.sentTo).toEqual([]);
    // Link ids go on from those of the earlier agent.
    host.settle(early, true);
    host.submit();
    expect([...worker.running.keys()]).toEqual([8]);
  });

  test('a request that an adopted worker has answered is replayed for the call that waits for it', () => {
    host.dispatch.expectWorker('p', 'old');
    const early = host.submit(named('a'));
    const worker = host.addWorker({ id: 'old', resumed: resumed(heldRequest(3, 'a', { ended: true })) });
    expect(worker.replayed).toEqual([3]);
    host.dispatch.onReplayed('old', [3]);
    host.dispatch.onResult('old', 3, ok);
    expect(early.result).toBe('answer');
    host.settle(early, true);
    expect(worker.counters).toMatchObject({ inFlight: 0, kept: 0 });
    expect(worker.acked).toEqual([3]);
  });

  test('a caller that left before the worker dialled in does not remove the deadline of another request', () => {
    host.dispatch.expectWorker('p', 'old');
    const left = host.submit(named('a'));
    const waits = host.submit({ ...named('b'), deadlineMs: host.nowMs + 500 });
    host.settle(left, false);
    host.pass(100);
    const worker = host.addWorker({ id: 'old', resumed: resumed(heldRequest(3, 'a')) });
    host.pass(450);
    expect(waits.error).toMatchObject({ code: 4 });
    expect(worker.cancelled).not.toContain(3);
    host.pass(100);
    expect(worker.cancelled).toContain(3);
    expect(host.unclaimed.usedBytes).toBe(0);
  });

  test("a call whose payload differs from that of an adopted worker's request is refused", () => {
    host.dispatch.expectWorker('p', 'old');
    const early = host.submit({ ...named('a'), payload: Buffer.from('another') });
    host.addWorker({ id: 'old', resumed: resumed(heldRequest(3, 'a', { ended: true })) });
    expect(early.error).toMatchObject({ code: 3 });
    expect(host.submit({ ...named('a'), payload: Buffer.from('PAYLOAD') }).error).toMatchObject({ code: 3 });
  });

  test('a request without a name in an adopted worker is cancelled', () => {
    const worker = host.addWorker({ id: 'old', resumed: resumed(heldRequest(3, 'x', { keep: false })) });
    expect(worker.cancelled).toEqual([3]);
    expect(worker.counters.inFlight).toBe(1);
    host.dispatch.onResult('old', 3, ok);
    expect(worker.counters.inFlight).toBe(0);
  });

  test.each([
    ['has no name', { keep: false }],
    ['was cancelled', { cancelled: true }],
  ])(
    'a request in an adopted worker that %s and does not end is overdue as under the earlier agent',
    (_what, patch) => {
      host.dispatch.setPool('p', poolLimits({ killAfterMs: 100 }));
      const held = resumed(heldRequest(3, 'x', { ...patch, remaining_ms: 200 }));
      const worker = host.addWorker({ id: 'old', resumed: held });
      expect(worker.cancelled).toEqual([3]);
      host.pass(250);
      expect(host.overdue).toEqual([]);
      host.pass(100);
      expect(host.overdue).toEqual(['old']);
    },
  );

  test('a request without a name in an adopted worker that ends in time is not overdue', () => {
    host.dispatch.setPool('p', poolLimits({ killAfterMs: 100 }));
    host.addWorker({ id: 'old', resumed: resumed(heldRequest(3, 'x', { keep: false, remaining_ms: 0 })) });
    host.dispatch.onResult('old', 3, ok);
    host.pass(5_000);
    expect(host.overdue).toEqual([]);
  });

  test('a plain call that waits for a stream in an adopted worker is refused, and a call that streams gets it', () => {
    host.dispatch.expectWorker('p', 'old');
    const plain = host.submit({ ...named('a'), command: 'stream' });
    const held = resumed(heldRequest(3, 'a', { command: 'stream' }));
    const worker = host.addWorker({ id: 'old', commands: ['stream'], resumed: held });
    expect(plain.error).toMatchObject({ code: 3, message: expect.stringContaining('ExecuteStream') });
    host.settle(plain, true);
    const again = host.submit({ ...named('a'), command: 'stream', streams: true });
    expect([again.error, worker.replayed]).toEqual([undefined, [3]]);
  });

  test('a request that an adopted worker returns runs anew for the call that repeats it', () => {
    host.addWorker({ id: 'old', resumed: resumed(heldRequest(3, 'a')) });
    host.dispatch.onReturned('old', [3]);
    expect(host.submit(named('a')).sentTo).toEqual(['old']);
  });

  test('an adopted worker that has already answered max_requests requests is reported as spent', () => {
    host.addWorker({ id: 'old', maxRequests: 6, resumed: resumed() });
    expect(host.spent).toEqual(['old']);
  });
});

describe('a link that breaks and comes back', () => {
  test('after a new dial, lost requests are sent again, running ones go on, and answered ones are replayed', () => {
    const worker = host.addWorker({ concurrency: 3 });
    const [runs, ended, lost] = [host.submit(named('a')), host.submit(named('b')), host.submit(named('c'))];
    const held = [heldRequest(1, 'a'), heldRequest(2, 'b', { ended: true })];
    const link = host.reattach(worker, { last_id: 2, completed: 1, failed: 0, held });
    expect(link.replayed).toEqual([2]);
    expect([...link.running.values()].map(({ request }) => request.request_id)).toEqual(['c']);
    host.dispatch.onReplayed(worker.id, [2]);
    host.dispatch.onResult(worker.id, 1, ok);
    host.dispatch.onResult(worker.id, 2, ok);
    for (const linkId of link.running.keys()) host.dispatch.onResult(worker.id, linkId, ok);
    expect([runs, ended, lost].map((call) => [call.result, call.ends])).toEqual(Array(3).fill(['answer', 1]));
    expect(worker.counters.inFlight).toBe(0);
  });

  test('a request that a broken link lost on its way to the worker has used up none of its attempts', () => {
    let worker = host.addWorker();
    const call = host.submit({ idempotent: true });
    for (let lost = 0; lost < 3; lost += 1) {
      worker = host.reattach(worker, { last_id: lost, completed: 0, failed: 0, held: [] });
    }
    // The worker has it now, and its answer is lost: the first attempt of three.
    host.reattach(worker, { last_id: 4, completed: 1, failed: 0, held: [] });
    expect([call.error, call.sentTo.length]).toEqual([undefined, 5]);
  });

  test('a request without a name whose answer was lost with the link fails', () => {
    const worker = host.addWorker();
    const call = host.submit();
    host.reattach(worker, { last_id: 1, completed: 1, failed: 0, held: [] });
    expect(call.error).toMatchObject({ code: 14 });
    expect(worker.counters.inFlight).toBe(0);
  });

  const stream = { ...named('a'), command: 'stream', streams: true };
  const heldStream = (patch = {}) => ({
    ...{ last_id: 1, completed: 0, failed: 0 },
    held: [heldRequest(1, 'a', { command: 'stream', ...patch })],
  });
  const chunks = (...texts: string[]) => {
    for (const text of texts) host.dispatch.onChunk('w0', 1, Buffer.from(text), '');
  };

  test.each([
    ['runs on', {}],
    ['has ended', { ended: true }],
  ])('a stream that %s when the link breaks is replayed without the chunks that its caller has', (_what, patch) => {
    const worker = host.addWorker({ commands: ['stream'] });
    const call = host.submit(stream);
    chunks('1', '2');
    const link = host.reattach(worker, heldStream(patch));
    expect(link.replayed).toEqual([1]);
    // The link breaks again in the middle of the replay.
    host.dispatch.onReplayed('w0', [1]);
    chunks('1', '2', '3');
    const next = host.reattach(worker, heldStream({ ended: true }));
    expect(next.replayed).toEqual([1]);
    host.dispatch.onReplayed('w0', [1]);
    chunks('1', '2', '3', '4');
    host.dispatch.onResult('w0', 1, { ...ok, payload: Buffer.alloc(0) });
    expect([call.chunks, call.ends, call.error]).toEqual([['1', '2', '3', '4'], 1, undefined]);
  });

  test('a stream of which no chunk had arrived when the link broke is replayed', () => {
    const worker = host.addWorker({ commands: ['stream'] });
    host.submit(stream);
    expect(host.reattach(worker, heldStream()).replayed).toEqual([1]);
  });

  test('a stream without a name fails when the link breaks', () => {
    const worker = host.addWorker({ commands: ['stream'] });
    const call = host.submit({ command: 'stream', streams: true });
    host.reattach(worker, heldStream({ keep: false }));
    expect(call.error).toMatchObject({ code: 14 });
  });

  test('a replay that was requested on a broken link is requested again on the next link', () => {
    const worker = host.addWorker({ id: 'old', resumed: resumed(heldRequest(3, 'a')) });
    const call = host.submit(named('a'));
    expect(worker.replayed).toEqual([3]);
    const link = host.reattach(worker, resumed(heldRequest(3, 'a')));
    expect(link.replayed).toEqual([3]);
    host.dispatch.onReplayed('old', [3]);
    host.dispatch.onResult('old', 3, ok);
    expect(call.result).toBe('answer');
  });

  test.each([
    ['runs', {}],
    ['has ended', { ended: true }],
  ])('a request that %s and has no caller waits for no replay that was lost with the link', (_what, patch) => {
    const held = resumed(heldRequest(3, 'a', patch));
    const worker = host.addWorker({ id: 'old', resumed: held });
    host.settle(host.submit(named('a')), false);
    expect(worker.replayed).toEqual([3]);
    const link = host.reattach(worker, held);
    const again = host.submit(named('a'));
    expect(link.replayed).toEqual([3]);
    host.dispatch.onReplayed('old', [3]);
    host.dispatch.onResult('old', 3, ok);
    expect(again.result).toBe('answer');
  });

  test('a request that had begun and that the worker no longer holds fails, and does not run again', () => {
    const worker = host.addWorker({ marksBegun: true });
    const call = host.submit(named('a'));
    host.reattach(worker, { last_id: 1, completed: 1, failed: 0, held: [] });
    expect([call.sentTo, call.error?.code]).toEqual([['w0'], 14]);
  });

  test('acknowledgements that were lost with the link are sent again', () => {
    const worker = host.addWorker();
    const call = host.submit(named('a'));
    host.dispatch.onResult(worker.id, 1, ok);
    host.settle(call, true);
    const resumedOnce = { last_id: 1, completed: 1, failed: 0, held: [heldRequest(1, 'a', { ended: true })] };
    expect(host.reattach(worker, resumedOnce).acked).toEqual([1]);
    expect(worker.counters.kept).toBe(0);
  });

  test('a draining worker that dials again gets no new requests', () => {
    const worker = host.addWorker();
    const runs = host.submit(named('a'));
    const waits = host.submit();
    host.dispatch.pauseWorker(worker.id);
    host.reattach(worker, { last_id: 1, completed: 0, failed: 0, held: [heldRequest(1, 'a')] }, true);
    host.dispatch.onResult(worker.id, 1, ok);
    expect([runs.result, waits.sentTo]).toEqual(['answer', []]);
  });
});

describe('calls that repeat a request', () => {
  test('a call that repeats a request whose answer is on its way gets a replay, and the first call gets no second end', () => {
    const worker = host.addWorker();
    const first = host.submit(named('a'));
    host.dispatch.onResult(worker.id, 1, ok);
    const second = host.submit(named('a'));
    expect([first.ends, worker.replayed]).toEqual([1, [1]]);
    host.settle(first, true);
    host.dispatch.onReplayed(worker.id, [1]);
    host.dispatch.onResult(worker.id, 1, ok);
    host.settle(second, true);
    expect([second.result, worker.acked]).toEqual(['answer', [1]]);
    expect(host.outcomes).toHaveLength(1);
  });

  test('a call that repeats a request fails if the worker died with an answer that nobody had read', () => {
    const worker = host.addWorker();
    const first = host.submit(named('a'));
    host.dispatch.onResult(worker.id, 1, ok);
    // A planned end of the worker would wait for kept answers. A crash does not.
    expect(worker.counters.kept).toBe(1);
    host.dispatch.removeWorker(worker.id, { reason: 'signal', message: 'm', lastBegunLinkId: null, crashed: true });
    host.settle(first, false);
    expect(host.submit(named('a')).error).toMatchObject({ code: 14 });
  });

  test('a call that repeats a request after its deadline passed and its connection broke gets DEADLINE_EXCEEDED', () => {
    host.dispatch.setPool('p', poolLimits({ killAfterMs: 0 }));
    const worker = host.addWorker();
    const first = host.submit({ ...named('a'), deadlineMs: host.nowMs + 50 });
    host.pass(60);
    host.settle(first, false);
    host.dispatch.onResult(worker.id, 1, ok);
    expect(worker.acked).toEqual([1]);
    expect(host.submit(named('a')).error).toMatchObject({ code: 4 });
  });

  test('a worker keeps at most keepMax answers for callers who left', () => {
    host.dispatch.setPool('p', poolLimits({ keepMax: 2 }));
    const worker = host.addWorker();
    for (const id of ['a', 'b', 'c']) {
      const call = host.submit(named(id));
      host.dispatch.onResult(worker.id, [...worker.running.keys()].at(-1) ?? 0, ok);
      host.settle(call, false);
    }
    expect([worker.acked, worker.counters.kept]).toEqual([[1], 2]);
  });
});

test('of two workers that hold a request of the same name, the one whose request is not cancelled answers it', () => {
  host.dispatch.expectWorker('p', 'old');
  const first = host.addWorker({ id: 'other', resumed: resumed(heldRequest(3, 'a', { cancelled: true })) });
  const second = host.addWorker({ id: 'old', resumed: resumed(heldRequest(5, 'a')) });
  expect([first.cancelled, second.cancelled]).toEqual([[3], []]);
  const again = host.submit(named('a'));
  expect(second.replayed).toEqual([5]);
  host.pass(900);
  host.dispatch.onReplayed('old', [5]);
  host.dispatch.onResult('old', 5, ok);
  expect(again.result).toBe('answer');
});

test('an agent that was stopped itself does not report a request as overdue that ended meanwhile', () => {
  host.dispatch.setPool('p', poolLimits({ killAfterMs: 100 }));
  const worker = host.addWorker({ marksBegun: true });
  host.submit({ deadlineMs: host.nowMs + 50 });
  host.pass(60);
  host.nowMs += 6_000;
  host.dispatch.expire();
  expect(host.overdue).toEqual([]);
  host.dispatch.onResult(worker.id, 1, ok);
  host.pass(1_000);
  expect(host.overdue).toEqual([]);
});

test('a pool with keepMs 0 cancels a named request as soon as its caller has left', () => {
  host.dispatch.setPool('p', poolLimits({ keepMs: 0 }));
  const worker = host.addWorker();
  host.settle(host.submit(named('a')), false);
  host.pass(20);
  expect(worker.cancelled).toEqual([1]);
});
