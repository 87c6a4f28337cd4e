import fc from 'fast-check';
import { expect, test } from 'vitest';
import { delivery, deliveryStates } from '../../src/dispatch/delivery.ts';
import type { Request } from '../../src/dispatch/request.ts';
import { isGivenUp, isInWorker, isRunning, isRunOver, isWaiting, run, runStates } from '../../src/dispatch/run.ts';
import { hold } from '../domain/invariants.ts';
import { timeLimit } from '../time-limit.ts';
import { Model, ModelWorker } from './delivery-model.ts';

/**
 * Draws orders of events for both tables of a request, through dispatch's own interface: callers come back, links break, workers
 * and agents die. An event that is illegal in its state throws, and fails the test with the order that led to it.
 */

type Play = (model: Model) => void;
interface Move {
  play: Play;
  toString(): string;
}

const move = (what: string, play: Play): Move => ({ play, toString: () => what });
const index = fc.nat({ max: 12 });
const pick = <T>(items: readonly T[], at: number): T | undefined => items[at % Math.max(1, items.length)];

const submit = fc
  .tuple(
    fc.constantFrom('', 'a', 'a', 'b', 'b', 'c', 'd'),
    fc.boolean(),
    fc.constantFrom(30, 200, 1_000),
    fc.constantFrom(10, 10, 10, 7, 11, 30_000),
  )
  .map(([id, idempotent, deadlineMs, size]) => {
    // An id always stands for the same command and payload.
    const command = id === 'a' || id === 'c' || (id === '' && size === 11) ? 'stream' : 'c';
    const bytes = id === 'd' ? 14 : size;
    return move(`submit ${id} ${idempotent} ${deadlineMs} ${bytes}`, (model) => {
      model.submit(id, command, idempotent, deadlineMs, bytes);
    });
  });

const onCall = (what: string, play: (model: Model, call: Model['calls'][number]) => void): fc.Arbitrary<Move> =>
  index.map((at) =>
    move(`${what} ${at}`, (model) => {
      const open = model.calls.filter(({ isOver }) => !isOver);
      const call = pick(open.slice(-6), at);
      if (call !== undefined) play(model, call);
    }),
  );

const onWorker = (what: string, play: (worker: ModelWorker, which: number) => void): fc.Arbitrary<Move> =>
  fc.tuple(index, index).map(([at, which]) =>
    move(`${what} ${at} ${which}`, (model) => {
      const living = model.workers.filter(({ isAlive }) => isAlive);
      const worker = pick(living, at);
      if (worker !== undefined) play(worker, which);
    }),
  );

const moves: fc.Arbitrary<Move> = fc.oneof(
  { weight: 8, arbitrary: submit },
  { weight: 3, arbitrary: onCall('break', (model, call) => model.settle(call, false)) },
  { weight: 3, arbitrary: onCall('read', (model, call) => call.ends > 0 && model.settle(call, true)) },
  { weight: 1, arbitrary: onCall('cancel', (model, call) => model.cancel(call)) },
  { weight: 2, arbitrary: onCall('pause', (model, call) => model.pause(call)) },
  { weight: 1, arbitrary: onCall('resume', (model, call) => model.resume(call)) },
  {
    weight: 1,
    arbitrary: onCall('drop', ({ dispatch }, { request, sink }) => request && dispatch.dropPayload(request, sink)),
  },
  { weight: 14, arbitrary: onWorker('work', (worker, which) => worker.work(which)) },
  { weight: 12, arbitrary: onWorker('flow', (worker, which) => worker.flow(which % 4, which >> 1)) },
  { weight: 1, arbitrary: onWorker('report', (worker) => worker.report()) },
  { weight: 2, arbitrary: onWorker('lose link', (worker) => worker.loseLink()) },
  { weight: 4, arbitrary: onWorker('dial', (worker) => worker.dial()) },
  { weight: 1, arbitrary: onWorker('die', (worker, which) => worker.die(which % 2 === 0)) },
  { weight: 1, arbitrary: onWorker('leave', (worker) => worker.leave()) },
  { weight: 2, arbitrary: index.map((at) => move(`add ${at}`, (model) => void new ModelWorker(model, 1 + (at % 2)))) },
  { weight: 2, arbitrary: fc.constantFrom(1, 15, 80, 200).map((ms) => move(`wait ${ms}`, (model) => model.pass(ms))) },
  { weight: 1, arbitrary: fc.constant(move('next agent', (model) => model.nextAgent())) },
);

test.each([true, false])(
  'in any order of events of callers, links, workers and agents each call has one end: strict %s',
  (isStrict) => {
    const property = fc.property(
      fc.array(moves, { maxLength: 90, size: 'max' }),
      fc.constantFrom(0, 60),
      (drawn, killAfterMs) => {
        const model = new Model(isStrict, killAfterMs);
        for (const { play } of drawn) {
          play(model);
          check(model);
        }
        finish(model);
      },
    );
    fc.assert(property, { numRuns: 2_000, ...timeLimit });
  },
);

/** Each request is in those lists of dispatch that its two states require. */
function check({ dispatch, workers, calls }: Model): void {
  const requests = new Set<Request>();
  for (const { request, isOver, ends } of calls) {
    if (request === undefined || (isOver && request.currentSink === null && request.run === run.ended)) continue;
    requests.add(request);
    if (!isOver && ends === 0) hold(request.currentSink !== null, `${name(request)}: its caller waits`);
  }
  let [kept, inFlight, queued] = [0, 0, 0];
  const current = [...requests].filter((request) => isHere(dispatch, request));
  for (const request of current) {
    hold(request.run !== run.arrived, `${name(request)} is nowhere`);
    hold((request.queue !== null) === isWaiting(request), `${name(request)}: in a queue`);
    if (isWaiting(request)) queued += 1;
    const { attached, replaying, detached, unproven } = delivery;
    const waits = request.delivery === attached || request.delivery === replaying;
    hold(!waits || request.currentSink !== null, `${name(request)}: somebody waits`);
    hold(request.delivery !== detached || request.currentSink === null, `${name(request)}: nobody is there`);
    hold(request.delivery !== attached || !isRunOver(request), `${name(request)}: its run is over`);
    hold(request.delivery !== unproven || isRunOver(request), `${name(request)}: its run goes on`);
    hold(!isGivenUp(request) || request.delivery >= detached, `${name(request)}: it was given up`);
  }
  for (const worker of workers) {
    kept += worker.counters.kept;
    inFlight += worker.counters.inFlight;
  }
  const stats = dispatch.poolStats('p');
  hold(stats.queued === queued, `${queued} wait, its numbers say ${stats.queued}`);
  const seenInFlight = current.filter(isInWorker).length;
  hold(seenInFlight <= stats.inFlight, `${seenInFlight} in workers, its numbers say ${stats.inFlight}`);
  const seenKept = current.filter((request) => request.run === run.kept).length;
  hold(seenKept <= kept, `${seenKept} are kept, its numbers say ${kept}`);
  hold(inFlight >= stats.inFlight, `${inFlight} in flight of workers, ${stats.inFlight} of the pool`);
}

/** Whether the request belongs to the current agent, and not to an earlier one. */
const agents = new WeakMap<Request, Model['dispatch']>();
function isHere(dispatch: Model['dispatch'], request: Request): boolean {
  const known = agents.get(request) ?? dispatch;
  agents.set(request, known);
  return known === dispatch;
}

function name({ requestId, run: state, delivery: delivering }: Request): string {
  return `${requestId} (${runStates[state]}, ${deliveryStates[delivering]})`;
}

/** All links come back and all requests run: each call ends, and in the end nothing is left of any request. */
function finish(model: Model): void {
  const settleAll = (): void => {
    for (const call of model.calls) if (!call.isOver && call.ends > 0) model.settle(call, true);
  };
  new ModelWorker(model, 2);
  for (let round = 0; round < 40; round += 1) {
    for (const call of model.calls) if (!call.isOver) model.resume(call);
    for (const worker of model.workers) {
      worker.dial();
      worker.flow(100, 100);
      for (let at = 0; at < 4; at += 1) worker.work(at);
    }
    settleAll();
    check(model);
  }
  for (const call of model.calls) {
    if (!call.isOver) expect(call.ends, `ends of ${call.ask.requestId}`).toBe(1);
  }
  // All graces are over, and so is the time in which cancelled requests are watched.
  for (let times = 0; times < 4; times += 1) {
    model.pass(2e9);
    for (const worker of model.workers) {
      worker.flow(100, 100);
      for (let at = 0; at < 4; at += 1) worker.work(at);
      worker.flow(100, 100);
    }
  }
  for (const request of model.requests()) {
    if (!isHere(model.dispatch, request)) continue;
    hold(request.delivery === delivery.forgotten && request.run === run.ended, `${name(request)} is left`);
    hold(request.currentSink === null && !isRunning(request), `${name(request)} keeps its caller`);
  }
  for (const { counters, isAlive } of model.workers) {
    if (isAlive) expect(counters).toMatchObject({ kept: 0, inFlight: 0 });
  }
  expect(model.unclaimed.usedBytes).toBe(0);
  model.nowMs += 1e9;
  expect(model.dispatch.expire()).toBe(Number.POSITIVE_INFINITY);
}
