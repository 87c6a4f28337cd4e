import fc from 'fast-check';
import { expect, test } from 'vitest';
import { prefetchMax } from '../../src/dispatch/command-stats.ts';
import { isRunning, isRunOver, isWaiting, run } from '../../src/dispatch/run.ts';
import { timeLimit } from '../time-limit.ts';
import type { FakeWorker, HostCall } from './host.ts';
import { DispatchHost, poolLimits } from './host.ts';

interface Move {
  play(host: DispatchHost): void;
  toString(): string;
}

const move = (what: string, play: Move['play']): Move => ({ play, toString: () => what });
const index = fc.nat({ max: 20 });
const pick = <T>(items: readonly T[], at: number): T | undefined => items[at % Math.max(1, items.length)];
const alive = (host: DispatchHost) => host.workers.filter((worker) => !worker.removed);

const submit = fc
  .record({
    command: fc.constantFrom('c', 'c', 'c', 'd', 'stream', 'async', 'nobody knows'),
    idempotent: fc.boolean(),
    streams: fc.boolean(),
    bytes: fc.constantFrom(0, 10, 60, 200),
    sessionId: fc.constantFrom('', '', 's', 't'),
    timeoutMs: fc.constantFrom(-1, 5, 100, 5_000, 2 ** 31, 2 ** 32 + 1, Number.POSITIVE_INFINITY),
  })
  .map(({ bytes, timeoutMs, ...ask }) =>
    move(`submit ${fc.stringify({ bytes, timeoutMs, ...ask })}`, (host) => {
      host.submit({ ...ask, payload: Buffer.alloc(bytes), deadlineMs: host.nowMs + timeoutMs });
    }),
  );

const add = fc
  .record({
    concurrency: fc.integer({ min: 1, max: 3 }),
    commands: fc.constantFrom(['c', 'stream', 'async'], ['c', 'd', 'stream', 'async'], ['d']),
    marksBegun: fc.boolean(),
    maxRequests: fc.constantFrom(0, 2),
  })
  .map((worker) => move(`add ${fc.stringify(worker)}`, (host) => void host.addWorker(worker)));

/** Answers with a link id that may be running, over, or never used. */
const answer = fc
  .tuple(index, index, fc.boolean(), fc.boolean(), fc.constantFrom(0, 0.01, 0.01, 0.01, 0.4, 30))
  .map(([at, which, fails, bogus, ranMs]) =>
    move(`answer ${at} ${which} ${fails} ${bogus} ${ranMs}`, (host) => {
      const worker = pick(host.workers, at);
      if (worker === undefined) return;
      const begun = [...worker.running.keys()].filter((linkId) => !worker.waiting.includes(linkId));
      const linkId = bogus ? which : pick(begun, which);
      if (linkId === undefined || (bogus && worker.running.has(linkId))) return;
      if (worker.unwritten.has(linkId)) return;
      host.answer(worker, linkId, fails ? { code: 2, message: 'alas' } : null, ranMs);
    }),
  );

/** A recalled worker returns its waiting requests. An answer may have crossed the recall. */
const giveBack = index.map((at) =>
  move(`give back ${at}`, (host) => {
    const worker = pick(
      alive(host).filter(({ recalled }) => recalled),
      at,
    );
    if (worker !== undefined) host.giveBack(worker);
  }),
);

/** Another process told the worker to leave. It announces that, and returns the requests that it has not begun. */
const leave = index.map((at) =>
  move(`leave ${at}`, (host) => {
    const worker = pick(alive(host), at);
    if (worker === undefined) return;
    worker.leaving = true;
    host.dispatch.onLeaving(worker.id);
    host.giveBack(worker);
  }),
);

const chunk = fc.tuple(index, index).map(([at, which]) =>
  move(`chunk ${at} ${which}`, (host) => {
    const worker = pick(host.workers, at);
    const linkId = pick([...(worker?.running.keys() ?? [])], which) ?? which;
    if (worker !== undefined) host.dispatch.onChunk(worker.id, linkId, Buffer.from('x'), 'application/json');
  }),
);

const remove = fc.tuple(index, fc.boolean()).map(([at, written]) =>
  move(`remove ${at} ${written}`, (host) => {
    const worker = pick(alive(host), at);
    if (worker === undefined) return;
    if (!written) for (const linkId of worker.running.keys()) worker.unwritten.add(linkId);
    host.remove(worker);
  }),
);

const pause = fc.tuple(index, fc.boolean()).map(([at, paused]) =>
  move(`${paused ? 'pause' : 'resume'} ${at}`, (host) => {
    const worker = pick(alive(host), at);
    if (worker === undefined) return;
    worker.paused = paused;
    if (paused) host.dispatch.pauseWorker(worker.id);
    else host.dispatch.resumeWorker(worker.id);
  }),
);

const cancel = index.map((at) =>
  move(`cancel ${at}`, (host) => {
    const call = pick(host.calls, at);
    if (call !== undefined) host.cancel(call);
  }),
);

const gate = fc.tuple(fc.boolean(), fc.boolean()).map(([open, refuseQueued]) =>
  move(`gate ${open} ${refuseQueued}`, (host) => {
    host.dispatch.setPoolOpen('p', { open, reason: 'closed', refuseQueued: !open && refuseQueued });
  }),
);

const wait = fc.constantFrom(1, 10, 99, 1_000).map((ms) => move(`wait ${ms}`, (host) => host.pass(ms)));

const anyMove: fc.Arbitrary<Move> = fc.oneof(
  { weight: 9, arbitrary: submit },
  { weight: 5, arbitrary: answer },
  { weight: 1, arbitrary: add },
  { weight: 1, arbitrary: remove },
  { weight: 2, arbitrary: giveBack },
  { weight: 1, arbitrary: leave },
  { weight: 2, arbitrary: pause },
  { weight: 2, arbitrary: cancel },
  { weight: 1, arbitrary: chunk },
  { weight: 1, arbitrary: gate },
  { weight: 2, arbitrary: wait },
);

test('in any order of events each request has one end, no worker exceeds its concurrency, and all numbers are true', () => {
  const kills = fc.constantFrom(90, 90, 0, 2 ** 31);
  const property = fc.property(kills, fc.array(anyMove, { maxLength: 80, size: 'max' }), (killAfterMs, moves) => {
    const host = hostInTheMiddle(killAfterMs);
    for (const { play } of moves) {
      play(host);
      check(host);
    }
    checkOverdue(host, killAfterMs);
    for (const worker of alive(host)) host.remove(worker);
    host.dispatch.removePool('p');
    for (const call of host.calls) expect(call.ends, `ends of request ${call.ask.requestId}`).toBe(1);
    // Past the farthest deadline.
    host.nowMs += 1e16;
    expect(host.dispatch.expire(), 'nothing is left to be timed').toBe(Number.POSITIVE_INFINITY);
  });
  fc.assert(property, { numRuns: 2000, ...timeLimit });
});

/** Two workers that have run command c quickly, so that requests are sent ahead. */
function hostInTheMiddle(killAfterMs: number): DispatchHost {
  const host = new DispatchHost();
  host.dispatch.setPool('p', poolLimits({ affinity: 'hint', killAfterMs, poison: { after: 2, forMs: 500 } }));
  for (const concurrency of [1, 2]) {
    const worker = host.addWorker({ concurrency, commands: ['c', 'stream'], marksBegun: true });
    host.submit();
    for (const linkId of [...worker.running.keys()]) host.answer(worker, linkId, null, 0.01);
  }
  return host;
}

/** What a worker has begun and goes on with, past its deadline and `kill_after`, is reported once each. */
function checkOverdue(host: DispatchHost, killAfterMs: number): void {
  // An agent that was held up looks again a little later.
  for (const ms of [7_000, ...Array(10).fill(100)]) host.pass(ms);
  for (const worker of alive(host)) {
    let due = 0;
    for (const [linkId, { call }] of worker.running) {
      const dueAtMs = (call.request?.deadlineMs ?? 0) + killAfterMs;
      if (call.ends === 1 && dueAtMs < host.nowMs - 500 && !worker.waiting.includes(linkId)) due += 1;
    }
    const reports = host.overdue.filter((id) => id === worker.id).length;
    same(reports >= (killAfterMs > 0 ? due : 0), true, `${worker.id} is reported ${reports} times for ${due} requests`);
    same(killAfterMs > 0 || reports === 0, true, `${worker.id} may go on for ever`);
  }
}

function check(host: DispatchHost): void {
  const waiting = host.calls.filter(({ request }) => request !== undefined && isWaiting(request));
  const held = alive(host).flatMap((worker) => [...worker.running.values()]);
  const holders = new Map<HostCall, number>();
  for (const { call } of held) holders.set(call, (holders.get(call) ?? 0) + 1);
  for (const worker of alive(host)) checkWorker(worker, waiting);
  for (const call of host.calls) {
    const request = call.request ?? { run: run.ended };
    const isOver = isRunOver(request);
    same(call.ends, isOver ? 1 : 0, 'ends');
    same(request.run === run.arrived, false, 'it moves');
    // At most once: a request survives its worker only if it is idempotent, was never written, or had not begun.
    same(call.mayHaveRun && !call.ask.idempotent && !isOver, false, 'it may run twice');
    if (!isOver) same(holders.get(call) ?? 0, isRunning(request) ? 1 : 0, 'holders');
  }
  const stats = host.dispatch.poolStats('p');
  same(stats.queued, waiting.length, 'queued');
  same(
    stats.queuedBytes,
    waiting.reduce((total, call) => total + call.ask.payload.length, 0),
    'queued bytes',
  );
  same(stats.inFlight, held.length, 'in flight');
  same(stats.completed, sum(host, 'completed'), 'completed');
  same(stats.failed, sum(host, 'failed'), 'failed');
}

/** `expect` takes microseconds, and this is called a million times. */
function same(actual: number | boolean, expected: number | boolean, what: string): void {
  if (actual !== expected) expect(actual, what).toBe(expected);
}

function checkWorker(worker: FakeWorker, waiting: readonly HostCall[]): void {
  const most = worker.concurrency + (worker.marksBegun ? prefetchMax : 0);
  same(worker.running.size <= most, true, `${worker.id} has at most ${most}`);
  for (const linkId of worker.waiting) {
    same(worker.running.get(linkId)?.request.command === 'async', false, 'async commands do not wait in a worker');
  }
  same(worker.counters.inFlight, worker.running.size, `in flight of ${worker.id}`);
  const free = !worker.paused && !worker.leaving && worker.running.size < worker.concurrency;
  const could = waiting.filter((call) => worker.commands.includes(call.ask.command));
  if (free) same(could.length, 0, `${worker.id} is free, yet requests that it could serve wait`);
}

function sum(host: DispatchHost, key: 'completed' | 'failed'): number {
  return host.workers.reduce((total, worker) => total + worker.counters[key], 0);
}
