import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { newCounters } from '../../src/dispatch/counters.ts';
import { code } from '../../src/dispatch/request.ts';
import type { LinkRequest, Resumed } from '../../src/dispatch/worker.ts';
import { timeLimit } from '../time-limit.ts';
import type { Told } from './host.ts';
import { Host, poolLimits } from './host.ts';

// Named requests, whose callers, links, workers and agents come and go: docs/delivery.md says what must hold.

const keepMs = 500;
const never = Number.POSITIVE_INFINITY;
/** What a command that streams says, in this order. */
const said = ['0', '1', '2'];
const names = ['a', 'b', 'stream-a', 'stream-b'];

/** A request in a worker: on its way there, running, or answered and kept. */
interface Run {
  readonly request: LinkRequest;
  readonly arrivesAtMs: number;
  chunks: number;
  cancelled: boolean;
  state: 'coming' | 'running' | 'kept';
}

/** A process, which outlives its links and its agents. */
interface Worker {
  readonly id: string;
  readonly runs: Map<number, Run>;
  /** Answers that it was asked for again. */
  replays: number[];
  lastId: number;
  completed: number;
  alive: boolean;
  attached: boolean;
}

interface Call {
  readonly name: string;
  readonly told: Told;
  isOpen: boolean;
}

class World {
  host = this.#newHost();
  readonly workers: Worker[] = [];
  calls: Call[] = [];
  /** How often each name was begun since it could last be forgotten, and when its last caller left. */
  readonly begun = new Map<string, number>();
  readonly left = new Map<string, { atMs: number; deadlineMs: number }>();
  #nextWorker = 0;

  #newHost(): Host {
    const host = new Host();
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
    const told = host.submit({
      ...{ requestId: name, hasCallerId: true, sessionId, command: name.startsWith('stream') ? 'stream' : 'c' },
      ...{ payload: Buffer.from(isSame ? name : 'another'), streams: true, deadlineMs: host.nowMs + timeoutMs },
    });
    // A caller that named another payload than the request has is refused, and has nothing.
    if (told.request === undefined) return same(told.ends, 1, 'ends of a refused call');
    this.left.delete(name);
    this.calls.push({ name, told, isOpen: true });
  }

  /** The call is over: its caller has read the answer, or may not have. */
  settle(call: Call, delivered: boolean): void {
    call.isOpen = false;
    const { told, name } = call;
    const isCurrent = told.request?.currentSink === told.answers && !isAnother(told);
    this.host.settle(told, delivered && told.ends === 1);
    if (!isCurrent) return;
    const isRead = told.ends === 1 && (delivered || told.error?.code === code.deadlineExceeded);
    if (isRead) this.mayForget(name);
    else this.left.set(name, { atMs: this.host.nowMs, deadlineMs: told.request?.deadlineMs ?? 0 });
  }

  cancel(call: Call): void {
    call.isOpen = false;
    const isCurrent = call.told.request?.currentSink === call.told.answers && !isAnother(call.told);
    this.host.cancel(call.told);
    if (isCurrent) this.mayForget(call.name);
  }

  start(): void {
    const id = `w${this.#nextWorker++}`;
    const worker = { id, runs: new Map(), replays: [], lastId: 0, completed: 0, alive: true, attached: false };
    this.workers.push(worker);
    this.attach(worker, null);
  }

  /** With the first link of its life, or one after a break or with another agent, to which it says what it has. */
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

  /** Whoever waits for an answer must not lose it. */
  #acked(worker: Worker, linkId: number): void {
    for (const { told, isOpen } of this.calls) {
      const { request } = told;
      const waits = isOpen && told.ends === 0 && request?.currentSink === told.answers;
      const isIts = request?.workerId === worker.id && request.linkId === linkId;
      same(waits && isIts, false, 'an answer that a caller waits for is let go');
    }
    if (worker.runs.get(linkId)?.state === 'kept') worker.runs.delete(linkId);
  }

  /** The next thing that it has to do: to read a request, to repeat an answer, to say one thing more. */
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
    // What was sent before it comes before it.
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

  /** Its link is gone, and with it what has not come. */
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
    // This agent never heard of what it had.
    if (!worker.attached) for (const { request } of worker.runs.values()) this.mayForget(request.request_id);
    worker.attached = false;
    worker.runs.clear();
  }

  /** The agent is killed, and the next one waits for these workers. All calls break. */
  restart(): void {
    const { nowMs } = this.host;
    for (const worker of this.workers) this.#loseLink(worker);
    this.host = this.#newHost();
    this.host.nowMs = nowMs;
    this.calls = [];
    this.left.clear();
    const alive = this.workers.filter((worker) => worker.alive);
    for (const { id } of alive) this.host.dispatch.expectWorker('p', id);
    const held = new Set(alive.flatMap(({ runs }) => [...runs.values()].map(({ request }) => request.request_id)));
    for (const name of names) {
      // It is not forgotten before its worker has dialled in.
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
    for (const { name, told, isOpen } of this.calls) {
      // It waited for that worker, which has another payload under the name, and nobody who asks for it.
      const isItsName = resumed.held.some(({ request_id }) => request_id === name);
      if (!isOpen || !isItsName || !isAnother(told) || this.left.has(name)) continue;
      this.left.set(name, { atMs: this.host.nowMs, deadlineMs: this.host.nowMs });
    }
  }

  check(): void {
    for (const { name, told, isOpen } of this.calls) {
      if (!isOpen) continue;
      same(told.ends <= 1, true, `one end for ${name}`);
      same(told.chunks.join(), said.slice(0, told.chunks.length).join(), `chunks of ${name}`);
      // Nobody has cancelled it: those calls are over.
      same(told.error?.code === code.cancelled, false, `${name} is cancelled`);
      // Whoever asks again sets another deadline.
      const isCurrent = told.request?.currentSink === told.answers;
      const isDue = (told.request?.deadlineMs ?? 0) <= this.host.nowMs;
      const isEarly = isCurrent && told.error?.code === code.deadlineExceeded && !isDue;
      same(isEarly, false, `${name} is ended before its deadline`);
      if (told.result === undefined) continue;
      same(told.result, name, 'the result');
      same(told.chunks.length, name.startsWith('stream') ? said.length : 0, `chunks of ${name} with its result`);
    }
  }

  /** Everything goes: whoever still waits is told, and nothing is left in memory. */
  end(): void {
    const waiting = this.calls.filter(({ isOpen }) => isOpen);
    for (const worker of this.workers) if (worker.alive) this.die(worker);
    this.host.dispatch.removePool('p');
    for (const { name, told } of waiting) same(told.ends, 1, `ends of ${name}`);
    for (const call of waiting) this.settle(call, false);
    // Past the farthest deadline.
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

/** The call was refused: a worker from before has another request of its name. */
const isAnother = ({ error }: Told): boolean => error?.code === code.invalidArgument;

/** `expect` costs microseconds, and this is asked a million times. */
function same<T>(actual: T, expected: T, what: string): void {
  if (actual !== expected) expect(actual, what).toBe(expected);
}

const asks = fc
  .tuple(
    fc.constantFrom(...names),
    fc.constantFrom(1, 50, 1e15, never),
    fc.constantFrom('', 's', 't'),
    fc.integer({ min: 0, max: 9 }),
  )
  .map(([name, timeoutMs, sessionId, wrong]) =>
    move(`ask ${name} ${timeoutMs} ${sessionId} ${wrong > 0}`, (world) =>
      world.ask(name, timeoutMs, sessionId, wrong > 0),
    ),
  );

const ofCall = (what: string, play: (world: World, call: Call) => void) =>
  index.map((at) =>
    move(`${what} ${at}`, (world) => {
      const open = world.calls.filter(({ isOpen }) => isOpen);
      const call = pick(open, at);
      if (call !== undefined) play(world, call);
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
  { weight: 4, arbitrary: ofCall('read', (world, call) => call.told.ends === 1 && world.settle(call, true)) },
  { weight: 3, arbitrary: ofCall('break', (world, call) => world.settle(call, false)) },
  { weight: 1, arbitrary: ofCall('cancel', (world, call) => world.cancel(call)) },
  { weight: 2, arbitrary: ofWorker('redial', (world, worker) => worker.attached && world.redial(worker)) },
  { weight: 3, arbitrary: ofWorker('dial in', (world, worker) => world.dialIn(worker)) },
  { weight: 1, arbitrary: ofWorker('die', (world, worker) => world.die(worker)) },
  { weight: 1, arbitrary: fc.constant(move('start', (world) => world.start())) },
  { weight: 1, arbitrary: fc.constant(move('restart', (world) => world.restart())) },
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
