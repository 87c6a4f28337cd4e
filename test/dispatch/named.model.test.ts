import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { newCounters } from '../../src/dispatch/counters.ts';
import { code } from '../../src/dispatch/request.ts';
import type { LinkRequest, Resumed } from '../../src/dispatch/worker.ts';
import { timeLimit } from '../time-limit.ts';
import type { HostCall } from './host.ts';
import { DispatchHost, poolLimits } from './host.ts';

// Named requests while callers, links, workers and agents come and go. docs/delivery.md says what must hold.

const keepMs = 500;
const never = Number.POSITIVE_INFINITY;
/** The chunks of a command that streams, in order. */
const said = ['0', '1', '2'];
const names = ['a', 'b', 'stream-a', 'stream-b'];

/** A request in a worker: on its way to it, running, or answered and kept. */
interface Run {
  readonly request: LinkRequest;
  readonly arrivesAtMs: number;
  chunks: number;
  cancelled: boolean;
  state: 'coming' | 'running' | 'kept';
}

/** A worker's process, which outlives its links and its agents. */
interface Worker {
  readonly id: string;
  readonly runs: Map<number, Run>;
  /** Link ids of requested replays. */
  replays: number[];
  lastId: number;
  completed: number;
  alive: boolean;
  attached: boolean;
}

interface Asked {
  readonly name: string;
  readonly call: HostCall;
  isOpen: boolean;
}

class World {
  host = this.#newHost();
  readonly workers: Worker[] = [];
  calls: Asked[] = [];
  /** By name: how often the request began since it could last be forgotten, and when its last caller left. */
  readonly begun = new Map<string, number>();
  readonly left = new Map<string, { atMs: number; deadlineMs: number }>();
  #nextWorker = 0;

  #newHost(): DispatchHost {
    const host = new DispatchHost();
    host.dispatch.setPool('p', poolLimits({ affinity: 'strict', killAfterMs: 90, keepMs, maxQueuedBytes: 1_000 }));
    return host;
  }

  /** The name may be used for a new request from now on. */
  mayForget(name: string): void {
    this.begun.set(name, 0);
  }

  ask(name: string, timeoutMs: number, sessionId: string, isSame: boolean): void {
    const { host } = this;
    const left = this.left.get(name);
    if (left !== undefined && host.nowMs >= Math.min(left.deadlineMs, left.atMs + keepMs)) this.mayForget(name);
    const call = host.submit({
      ...{ requestId: name, hasCallerId: true, sessionId, command: name.startsWith('stream') ? 'stream' : 'c' },
      ...{ payload: Buffer.from(isSame ? name : 'another'), streams: true, deadlineMs: host.nowMs + timeoutMs },
    });
    // A caller whose payload differs from the request's is refused, and has no request.
    if (call.request === undefined) return same(call.ends, 1, 'ends of a refused call');
    this.left.delete(name);
    this.calls.push({ name, call, isOpen: true });
  }

  /** The call is over. `delivered`: the caller has read the answer. */
  settle(asked: Asked, delivered: boolean): void {
    asked.isOpen = false;
    const { call, name } = asked;
    const isCurrent = call.request?.currentSink === call.sink && !isAnother(call);
    this.host.settle(call, delivered && call.ends === 1);
    if (!isCurrent) return;
    const isRead = call.ends === 1 && (delivered || call.error?.code === code.deadlineExceeded);
    if (isRead) this.mayForget(name);
    else this.left.set(name, { atMs: this.host.nowMs, deadlineMs: call.request?.deadlineMs ?? 0 });
  }

  cancel(asked: Asked): void {
    asked.isOpen = false;
    const isCurrent = asked.call.request?.currentSink === asked.call.sink && !isAnother(asked.call);
    this.host.cancel(asked.call);
    if (isCurrent) this.mayForget(asked.name);
  }

  start(): void {
    const id = `w${this.#nextWorker++}`;
    const worker = { id, runs: new Map(), replays: [], lastId: 0, completed: 0, alive: true, attached: false };
    this.workers.push(worker);
    this.attach(worker, null);
  }

  /** The worker dials. `resumed`: what it holds, if this is not its first link. */
  attach(worker: Worker, resumed: Resumed | null): void {
    const { host } = this;
    worker.attached = true;
    worker.replays = [];
    const runOf = (linkId: number): Run => worker.runs.get(linkId) ?? expect.fail(`${worker.id} has no ${linkId}`);
    host.dispatch.addWorker({
      ...{ workerId: worker.id, pool: 'p', concurrency: 2, maxRequests: 0, marksBegun: false, paused: false, resumed },
      ...{ lastBegunLinkId: () => null, counters: newCounters() },
      commands: new Map([
        ['c', { streams: false, isAsync: false }],
        ['stream', { streams: true, isAsync: false }],
      ]),
      link: {
        request: (request) => {
          const run: Run = { request, arrivesAtMs: host.nowMs, chunks: 0, cancelled: false, state: 'coming' };
          worker.runs.set(request.id, run);
        },
        cancel: (linkId) => {
          const run = worker.runs.get(linkId);
          if (run !== undefined) run.cancelled = true;
        },
        ack: (linkId) => this.#acked(worker, linkId),
        replay: (linkId) => {
          expect(runOf(linkId).state, 'a replay of what has come').not.toBe('coming');
          worker.replays.push(linkId);
        },
        ...{ pause: () => undefined, resume: () => undefined, recall: () => [] },
        unwritten: () => new Set([...worker.runs].filter(([, { state }]) => state === 'coming').map(([id]) => id)),
      },
    });
  }

  /** The worker drops an answer. No caller may be waiting for it. */
  #acked(worker: Worker, linkId: number): void {
    for (const { call, isOpen } of this.calls) {
      const { request } = call;
      const waits = isOpen && call.ends === 0 && request?.currentSink === call.sink;
      const isIts = request?.workerId === worker.id && request.linkId === linkId;
      same(waits && isIts, false, 'an answer that a caller waits for is let go');
    }
    if (worker.runs.get(linkId)?.state === 'kept') worker.runs.delete(linkId);
  }

  /** The worker does one thing: it replays an answer, reads a request, or sends a chunk or an end. */
  work(worker: Worker, which: number): void {
    if (!worker.attached) return;
    const replay = worker.replays.shift();
    if (replay !== undefined) return this.#replay(worker, replay);
    const [linkId, run] =
      pick(
        [...worker.runs].filter(([, { state }]) => state !== 'kept'),
        which,
      ) ?? [];
    if (linkId === undefined || run === undefined) return;
    if (run.state === 'coming') return this.#begin(worker, linkId, run);
    if (run.request.command === 'stream' && run.chunks < said.length && !run.cancelled) {
      this.#chunk(worker, linkId, run.chunks);
      run.chunks += 1;
    } else this.#end(worker, linkId, run);
  }

  #begin(worker: Worker, linkId: number, run: Run): void {
    // Requests arrive in the order in which they were sent.
    for (const [earlier, { state }] of worker.runs) {
      if (earlier < linkId && state === 'coming') return this.work(worker, 0);
    }
    worker.lastId = linkId;
    run.state = 'running';
    if (run.cancelled) return this.#end(worker, linkId, run);
    const name = run.request.request_id;
    this.begun.set(name, (this.begun.get(name) ?? 0) + 1);
    same(this.begun.get(name) ?? 0, 1, `runs of ${name}`);
  }

  #end(worker: Worker, linkId: number, run: Run): void {
    worker.completed += 1;
    run.state = 'kept';
    this.#result(worker, linkId, run);
  }

  #replay(worker: Worker, linkId: number): void {
    const run = worker.runs.get(linkId);
    if (run === undefined) return;
    this.host.dispatch.onReplayed(worker.id, [linkId]);
    for (let at = 0; at < run.chunks; at += 1) this.#chunk(worker, linkId, at);
    if (run.state === 'kept') this.#result(worker, linkId, run);
  }

  #chunk(worker: Worker, linkId: number, at: number): void {
    this.host.dispatch.onChunk(worker.id, linkId, Buffer.from(said[at] ?? ''), '');
  }

  #result(worker: Worker, linkId: number, { request, cancelled }: Run): void {
    this.host.dispatch.onResult(worker.id, linkId, {
      ...{ payload: Buffer.from(request.request_id), content_type: '', ran_us: 1_000 },
      error: cancelled ? { code: code.cancelled, type: '', message: 'cancelled', traceback: '' } : null,
    });
  }

  /** The link breaks, and requests that have not arrived are lost. */
  #loseLink(worker: Worker): void {
    worker.attached = false;
    for (const [linkId, { state }] of worker.runs) if (state === 'coming') worker.runs.delete(linkId);
  }

  redial(worker: Worker): void {
    this.#loseLink(worker);
    this.attach(worker, this.#resumed(worker));
  }

  #resumed({ runs, lastId, completed }: Worker): Resumed {
    const { nowMs } = this.host;
    const held = [...runs].map(([id, { request, arrivesAtMs, cancelled, state }]) => ({
      ...{ id, request_id: request.request_id, command: request.command, keep: request.keep, ended: state === 'kept' },
      remaining_ms: request.timeout_ms > 0 ? Math.max(1, arrivesAtMs + request.timeout_ms - nowMs) : 0,
      ...{ age_ms: nowMs - arrivesAtMs, payload_bytes: request.payload.length, payload_crc32: crc32(request.payload) },
      cancelled,
    }));
    return { last_id: lastId, completed, failed: 0, held };
  }

  die(worker: Worker): void {
    worker.alive = false;
    const end = { reason: 'signal', message: 'ended by SIGKILL', crashed: true, lastBegunLinkId: null };
    this.host.dispatch.removeWorker(worker.id, end);
    // The current agent never learned what the worker had.
    if (!worker.attached) for (const { request } of worker.runs.values()) this.mayForget(request.request_id);
    worker.attached = false;
    worker.runs.clear();
  }

  /**
   * The agent is killed, and all calls break. The next one waits for its workers, except those that the ledger does not have as
   * ready: of these it learns when they dial in.
   */
  restart(unrecorded: number): void {
    const { nowMs } = this.host;
    for (const worker of this.workers) this.#loseLink(worker);
    this.host = this.#newHost();
    this.host.nowMs = nowMs;
    this.calls = [];
    this.left.clear();
    const alive = this.workers.filter((worker) => worker.alive);
    const expected = alive.filter((_, at) => at !== unrecorded);
    for (const { id } of expected) this.host.dispatch.expectWorker('p', id);
    const held = new Set(expected.flatMap(({ runs }) => [...runs.values()].map(({ request }) => request.request_id)));
    for (const name of names) {
      // The request is not forgotten before its worker has dialled in.
      if (held.has(name)) this.left.set(name, { atMs: never, deadlineMs: never });
      else this.mayForget(name);
    }
  }

  dialIn(worker: Worker): void {
    if (!worker.alive || worker.attached) return;
    const resumed = this.#resumed(worker);
    for (const { request_id: name, remaining_ms: remainingMs, cancelled } of resumed.held) {
      if (cancelled) this.mayForget(name);
      const left = this.left.get(name);
      const { nowMs } = this.host;
      if (left?.atMs === never) {
        this.left.set(name, { atMs: nowMs, deadlineMs: remainingMs === 0 ? never : nowMs + remainingMs });
      }
    }
    this.attach(worker, resumed);
    for (const { name, call, isOpen } of this.calls) {
      // This call waited for the worker, whose request of that name differs. The worker's request has no caller now.
      const isItsName = resumed.held.some(({ request_id }) => request_id === name);
      if (!isOpen || !isItsName || !isAnother(call) || this.left.has(name)) continue;
      this.left.set(name, { atMs: this.host.nowMs, deadlineMs: this.host.nowMs });
    }
  }

  check(): void {
    for (const { name, call, isOpen } of this.calls) {
      if (!isOpen) continue;
      same(call.ends <= 1, true, `one end for ${name}`);
      same(call.chunks.join(), said.slice(0, call.chunks.length).join(), `chunks of ${name}`);
      // Calls that cancelled are over, so no open call may be cancelled.
      same(call.error?.code === code.cancelled, false, `${name} is cancelled`);
      // A later call sets another deadline.
      const isCurrent = call.request?.currentSink === call.sink;
      const isDue = (call.request?.deadlineMs ?? 0) <= this.host.nowMs;
      const isEarly = isCurrent && call.error?.code === code.deadlineExceeded && !isDue;
      same(isEarly, false, `${name} is ended before its deadline`);
      if (call.result === undefined) continue;
      same(call.result, name, 'the result');
      same(call.chunks.length, name.startsWith('stream') ? said.length : 0, `chunks of ${name} with its result`);
    }
  }

  /** All workers and the pool end: each waiting call gets an error, and nothing is left in memory. */
  end(): void {
    const waiting = this.calls.filter(({ isOpen }) => isOpen);
    for (const worker of this.workers) if (worker.alive) this.die(worker);
    this.host.dispatch.removePool('p');
    for (const { name, call } of waiting) same(call.ends, 1, `ends of ${name}`);
    for (const asked of waiting) this.settle(asked, false);
    // The farthest deadline is over.
    this.host.pass(1e16);
    same(this.host.dispatch.expire(), never, 'nothing is left to be timed');
    same(this.host.unclaimed.usedBytes, 0, 'bytes held for callers who have left');
  }
}

interface Move {
  play(world: World): void;
  toString(): string;
}

const move = (what: string, play: Move['play']): Move => ({ play, toString: () => what });
const pick = <T>(items: readonly T[], at: number): T | undefined => items[at % Math.max(1, items.length)];
const index = fc.nat({ max: 20 });

/** The call was refused, because an adopted worker has a different request of its name. */
const isAnother = ({ error }: HostCall): boolean => error?.code === code.invalidArgument;

/** `expect` takes microseconds, and this is called a million times. */
function same<T>(actual: T, expected: T, what: string): void {
  if (actual !== expected) expect(actual, what).toBe(expected);
}

const asks = fc
  .tuple(
    fc.constantFrom(...names),
    fc.constantFrom(1, 50, 2 ** 31, 1e15, never),
    fc.constantFrom('', 's', 't'),
    fc.integer({ min: 0, max: 9 }),
  )
  .map(([name, timeoutMs, sessionId, wrong]) =>
    move(`ask ${name} ${timeoutMs} ${sessionId} ${wrong > 0}`, (world) =>
      world.ask(name, timeoutMs, sessionId, wrong > 0),
    ),
  );

const ofCall = (what: string, play: (world: World, asked: Asked) => void) =>
  index.map((at) =>
    move(`${what} ${at}`, (world) => {
      const open = world.calls.filter(({ isOpen }) => isOpen);
      const asked = pick(open, at);
      if (asked !== undefined) play(world, asked);
    }),
  );

const ofWorker = (what: string, play: (world: World, worker: Worker, which: number) => void) =>
  fc.tuple(index, index).map(([at, which]) =>
    move(`${what} ${at} ${which}`, (world) => {
      const living = world.workers.filter(({ alive }) => alive);
      const worker = pick(living, at);
      if (worker !== undefined) play(world, worker, which);
    }),
  );

const anyMove = fc.oneof(
  { weight: 8, arbitrary: asks },
  { weight: 14, arbitrary: ofWorker('work', (world, worker, which) => world.work(worker, which)) },
  { weight: 4, arbitrary: ofCall('read', (world, asked) => asked.call.ends === 1 && world.settle(asked, true)) },
  { weight: 3, arbitrary: ofCall('break', (world, asked) => world.settle(asked, false)) },
  { weight: 1, arbitrary: ofCall('cancel', (world, asked) => world.cancel(asked)) },
  { weight: 2, arbitrary: ofWorker('redial', (world, worker) => worker.attached && world.redial(worker)) },
  { weight: 3, arbitrary: ofWorker('dial in', (world, worker) => world.dialIn(worker)) },
  { weight: 1, arbitrary: ofWorker('die', (world, worker) => world.die(worker)) },
  { weight: 1, arbitrary: fc.constant(move('start', (world) => world.start())) },
  { weight: 1, arbitrary: fc.nat({ max: 3 }).map((at) => move(`restart without ${at}`, (world) => world.restart(at))) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(1, 20, 100, 600, 1e10).map((ms) => move(`wait ${ms}`, ({ host }) => host.pass(ms))),
  },
);

test('named requests run once, and their answers reach the callers that repeat them, whatever breaks and comes back', () => {
  const property = fc.property(fc.array(anyMove, { maxLength: 80, size: 'max' }), (moves) => {
    const world = new World();
    world.start();
    world.start();
    for (const { play } of moves) {
      play(world);
      world.check();
    }
    world.end();
  });
  fc.assert(property, { numRuns: 500, ...timeLimit });
});
