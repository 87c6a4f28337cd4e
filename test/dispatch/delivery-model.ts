import { crc32 } from 'node:zlib';
import { newCounters } from '../../src/dispatch/counters.ts';
import type { Dispatch, PoolLimits } from '../../src/dispatch/dispatch.ts';
import { createDispatch } from '../../src/dispatch/dispatch.ts';
import type { Request, RequestError, RequestSpec, ResponseSink } from '../../src/dispatch/request.ts';
import type { HeldRequest, LinkRequest, Resumed } from '../../src/dispatch/worker.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { hold } from '../domain/invariants.ts';
import { poolLimits, silentOptions } from './host.ts';

/** Callers, one agent after another, and workers whose links lose messages: for delivery.property.test.ts. */

/** One call. Several calls may ask for one request. */
export interface ModelCall {
  readonly ask: RequestSpec;
  readonly sink: ResponseSink;
  request: Request | undefined;
  chunks: number;
  isResult: boolean;
  error: RequestError | undefined;
  ends: number;
  /** The caller does not keep up with the chunks. */
  isPaused: boolean;
  /** The caller has cancelled or settled the call. */
  isOver: boolean;
}

interface Held {
  readonly linkId: number;
  readonly request: LinkRequest;
  /** How often the request's id had been freed when the request was sent. */
  readonly epoch: number;
  state: 'waiting' | 'running' | 'ended';
  /** How many chunks the command has made, and how many of them were sent on this link. */
  chunks: number;
  sent: number;
  /** After a broken link: only the end is sent, until a replay is requested. */
  isSilent: boolean;
  /** The agent asked the worker to hold back chunks. */
  isPaused: boolean;
  /** A replay of the answer waits until chunks may be sent. */
  isReplayDue: boolean;
  isCancelled: boolean;
  fails: boolean;
}

const chunksOfStream = 3;
const empty = Buffer.alloc(0);

export class Model {
  nowMs = 1_000;
  readonly calls: ModelCall[] = [];
  readonly workers: ModelWorker[] = [];
  readonly budget = createMemoryBudget(64 * 1024);
  unclaimed = this.budget.account();
  dispatch: Dispatch;
  /** Nothing is forgotten by time or for want of room, so no id may begin twice before its caller frees it. */
  readonly isStrict: boolean;
  readonly limits: PoolLimits;
  readonly #epochs = new Map<string, number>();
  readonly #begun = new Map<string, number>();
  #armedAtMs = Number.POSITIVE_INFINITY;
  #nextId = 0;

  constructor(isStrict: boolean, killAfterMs: number) {
    this.isStrict = isStrict;
    const bounds = { maxQueuedRequests: 50, maxQueuedBytes: 1e6 };
    this.limits = isStrict
      ? poolLimits({ ...bounds, requestTimeoutMs: 1e9, keepMs: 1e9, keepMax: 1e6, killAfterMs })
      : poolLimits({ ...bounds, requestTimeoutMs: 400, keepMs: 150, keepMax: 2, killAfterMs });
    this.dispatch = this.#newDispatch();
  }

  #newDispatch(): Dispatch {
    this.#armedAtMs = Number.POSITIVE_INFINITY;
    const dispatch = createDispatch({
      ...silentOptions(this.unclaimed),
      nowMs: () => this.nowMs,
      onDeadline: (atMs) => {
        this.#armedAtMs = atMs;
      },
    });
    dispatch.setPool('p', this.limits);
    return dispatch;
  }

  /** `id` '': the caller gives the request no id. */
  submit(id: string, command: string, idempotent: boolean, deadlineInMs: number, size: number): ModelCall {
    const requestId = id === '' ? `own-${this.#nextId++}` : id;
    const ask: RequestSpec = {
      ...{
        pool: 'p',
        command,
        payload: Buffer.alloc(size, requestId),
        contentType: '',
        requestId,
        hasCallerId: id !== '',
      },
      // Now and then a plain call asks for a command that streams, and is refused.
      ...{ sessionId: '', idempotent, streams: command === 'stream' && size !== 11 },
      deadlineMs: this.isStrict ? Number.POSITIVE_INFINITY : this.nowMs + deadlineInMs,
    };
    const call: ModelCall = {
      ask,
      request: undefined,
      chunks: 0,
      isResult: false,
      error: undefined,
      ends: 0,
      isPaused: false,
      isOver: false,
      sink: {
        chunk: (payload) => {
          hold(call.ends === 0, `${requestId}: a chunk after the end`);
          hold(!call.isOver, `${requestId}: a chunk after its call`);
          hold(payload.toString() === String(call.chunks), `${requestId}: chunk ${call.chunks}, got ${payload}`);
          call.chunks += 1;
        },
        result: () => {
          this.#ends(call);
          call.isResult = true;
          const all = command === 'stream' ? chunksOfStream : 0;
          hold(call.chunks === all, `${requestId}: ended with ${call.chunks} chunks of ${all}`);
          return 0;
        },
        error: (error) => {
          this.#ends(call);
          call.error = error;
        },
      },
    };
    this.calls.push(call);
    call.request = this.dispatch.submit(ask, call.sink);
    if (call.request === undefined) call.isOver = true;
    return call;
  }

  #ends(call: ModelCall): void {
    call.ends += 1;
    hold(call.ends === 1, `${call.ask.requestId}: one end, got ${call.ends}`);
    hold(!call.isOver, `${call.ask.requestId}: an end after its call`);
  }

  cancel(call: ModelCall): void {
    if (call.request === undefined) return;
    this.dispatch.cancel(call.request, call.sink);
    call.isOver = true;
    this.letGo(call.ask.requestId);
  }

  /** As a sink does: only during the call, and while chunks may come. */
  pause(call: ModelCall): void {
    if (call.request === undefined || call.isPaused || call.ends > 0 || call.ask.command !== 'stream') return;
    call.isPaused = true;
    this.dispatch.pause(call.request, call.sink);
  }

  resume(call: ModelCall): void {
    if (call.request === undefined || !call.isPaused) return;
    call.isPaused = false;
    this.dispatch.resume(call.request, call.sink);
  }

  settle(call: ModelCall, isRead: boolean): void {
    if (call.request === undefined) return;
    const wasRead = isRead && call.ends > 0;
    this.dispatch.settle(call.request, call.sink, wasRead);
    call.isOver = true;
    if (wasRead) this.letGo(call.ask.requestId);
  }

  /** The id may begin again. */
  letGo(requestId: string): void {
    this.#epochs.set(requestId, this.epochOf(requestId) + 1);
  }

  epochOf(requestId: string): number {
    return this.#epochs.get(requestId) ?? 0;
  }

  begins({ request, epoch }: Held, isIdempotent: boolean): void {
    const key = `${request.request_id} ${epoch}`;
    const begun = (this.#begun.get(key) ?? 0) + 1;
    this.#begun.set(key, begun);
    if (this.isStrict) hold(begun === 1 || isIdempotent, `${key} begins the ${begun}. time`);
  }

  pass(ms: number): void {
    this.nowMs += ms;
    if (this.#armedAtMs <= this.nowMs) this.#armedAtMs = this.dispatch.expire();
  }

  /** The agent dies, and another one starts. What had begun in workers that died before is unknown. */
  nextAgent(): void {
    for (const call of this.calls) call.isOver = true;
    const living = this.workers.filter(({ isAlive }) => isAlive);
    const known = new Set(living.flatMap((worker) => [...worker.held.values()].map((held) => held.request.request_id)));
    for (const { ask } of this.calls) if (!known.has(ask.requestId)) this.letGo(ask.requestId);
    this.unclaimed.give(this.unclaimed.usedBytes);
    this.unclaimed = this.budget.account();
    this.dispatch = this.#newDispatch();
    for (const worker of living) {
      this.dispatch.expectWorker('p', worker.id);
      worker.loseLink(true);
    }
  }

  requests(): Set<Request> {
    return new Set(this.calls.flatMap(({ request }) => (request === undefined ? [] : [request])));
  }
}

export class ModelWorker {
  readonly id: string;
  readonly counters = newCounters();
  readonly held = new Map<number, Held>();
  isAlive = true;
  isAttached = false;
  /** The worker has dialled the current agent. */
  #isKnown = false;
  #toWorker: (() => void)[] = [];
  #toAgent: (() => void)[] = [];
  #lastBegunLinkId = 0;
  #lastId = 0;
  #dials = 0;
  readonly #model: Model;
  readonly #concurrency: number;

  constructor(model: Model, concurrency: number) {
    this.#model = model;
    this.#concurrency = concurrency;
    this.id = `w${model.workers.length}`;
    model.workers.push(this);
    this.dial();
  }

  dial(): void {
    if (!this.isAlive || this.isAttached) return;
    this.isAttached = this.#isKnown = true;
    this.#dials += 1;
    const { dispatch } = this.#model;
    dispatch.addWorker({
      ...{ workerId: this.id, pool: 'p', concurrency: this.#concurrency, maxRequests: 0, marksBegun: true },
      commands: new Map(['c', 'stream'].map((name) => [name, { streams: name === 'stream', isAsync: false }])),
      lastBegunLinkId: () => this.#lastBegunLinkId,
      counters: this.counters,
      resumed: this.#dials === 1 ? null : this.#resumed(),
      paused: false,
      link: {
        request: (request) => {
          const epoch = this.#model.epochOf(request.request_id);
          this.#down(() => this.#take(request, epoch));
        },
        cancel: (linkId) => this.#down(() => this.#cancel(linkId)),
        ack: (linkId) => this.#down(() => void (this.held.get(linkId)?.state === 'ended' && this.held.delete(linkId))),
        replay: (linkId) => this.#down(() => this.#replay(linkId)),
        pause: (linkId) => this.#down(() => this.#pause(linkId)),
        resume: (linkId) => this.#down(() => this.#resume(linkId)),
        recall: () => {
          this.#down(() => this.#giveBack());
          return [];
        },
        unwritten: () => new Set(),
      },
    });
  }

  #resumed(): Resumed {
    const held = [...this.held.values()].map(
      (each): HeldRequest => ({
        ...{ id: each.linkId, request_id: each.request.request_id, command: each.request.command },
        ...{ keep: each.request.keep, ended: each.state === 'ended', cancelled: each.isCancelled },
        ...{ remaining_ms: each.request.timeout_ms, age_ms: 10 },
        ...{ payload_bytes: each.request.payload.length, payload_crc32: crc32(each.request.payload) },
      }),
    );
    return { last_id: this.#lastId, completed: 0, failed: 0, held };
  }

  #down(work: () => void): void {
    if (this.isAttached) this.#toWorker.push(work);
  }

  #up(work: () => void): void {
    if (this.isAttached) this.#toAgent.push(work);
  }

  /** So many messages on the link arrive, each way. */
  flow(down: number, up: number): void {
    for (const work of this.#toWorker.splice(0, down)) work();
    for (const work of this.#toAgent.splice(0, up)) work();
  }

  /** The link breaks: messages on it are lost, and so are requests without a name that are not running. */
  loseLink(isForAgent = false): void {
    this.#toWorker = [];
    this.#toAgent = [];
    this.isAttached = false;
    for (const held of this.held.values()) {
      if (held.state === 'waiting' && !held.request.keep) this.held.delete(held.linkId);
      if (held.state === 'ended' && !held.request.keep) this.held.delete(held.linkId);
      held.isSilent = true;
      held.isPaused = held.isReplayDue = false;
      held.sent = 0;
    }
    if (!isForAgent) return;
    this.#isKnown = false;
    Object.assign(this.counters, newCounters());
  }

  die(crashed: boolean): void {
    if (!this.isAlive) return;
    this.isAlive = this.isAttached = false;
    // The current agent does not know what the worker had begun.
    if (!this.#isKnown) for (const { request } of this.held.values()) this.#model.letGo(request.request_id);
    const end = { reason: 'signal', message: 'gone', lastBegunLinkId: this.#lastBegunLinkId, crashed };
    this.#model.dispatch.removeWorker(this.id, end);
  }

  #take(request: LinkRequest, epoch: number): void {
    this.#lastId = request.id;
    const held: Held = {
      ...{ linkId: request.id, request, epoch, state: 'waiting' as const, chunks: 0, sent: 0 },
      ...{ isSilent: false, isPaused: false, isReplayDue: false, isCancelled: false },
      ...{ fails: request.payload.length % 7 === 0 },
    };
    this.held.set(request.id, held);
  }

  /** One request of the worker goes on: it begins, makes a chunk, or ends. */
  work(which: number): void {
    if (!this.isAlive) return;
    const held = [...this.held.values()].filter(({ state }) => state !== 'ended');
    const running = held.filter(({ state }) => state === 'running');
    const active = running.filter(({ isPaused, isCancelled }) => !isPaused || isCancelled);
    const first = held.find(({ state }) => state === 'waiting');
    if (first !== undefined && running.length < this.#concurrency) return this.#begin(first);
    const one = active[which % Math.max(1, active.length)];
    if (one === undefined) return;
    if (one.request.command === 'stream' && one.chunks < chunksOfStream && !one.isCancelled) {
      one.chunks += 1;
      if (!one.isSilent) this.#sayChunks(one);
    } else this.#end(one);
  }

  /** A running request reports its progress. */
  report(): void {
    const running = [...this.held.values()].find(({ state }) => state === 'running');
    if (running === undefined) return;
    this.#up(() => this.#model.dispatch.onProgress(this.id, [{ id: running.linkId, fraction: 0.5, message: '' }]));
  }

  leave(): void {
    this.#up(() => this.#model.dispatch.onLeaving(this.id));
    this.#giveBack();
  }

  #begin(held: Held): void {
    if (held.isCancelled) return this.#end(held);
    held.state = 'running';
    this.#lastBegunLinkId = Math.max(this.#lastBegunLinkId, held.linkId);
    this.#model.begins(held, this.#isIdempotent(held));
  }

  #isIdempotent({ request }: Held): boolean {
    return this.#model.calls.some(({ ask }) => ask.requestId === request.request_id && ask.idempotent);
  }

  #sayChunks(held: Held): void {
    for (; held.sent < held.chunks; held.sent += 1) {
      const payload = Buffer.from(String(held.sent));
      this.#up(() => this.#model.dispatch.onChunk(this.id, held.linkId, payload, ''));
    }
  }

  #end(held: Held): void {
    const ranUs = held.state === 'running' ? 10 : 0;
    held.state = 'ended';
    this.#sayEnd(held, ranUs);
    if (!held.request.keep) this.held.delete(held.linkId);
  }

  #sayEnd(held: Held, ranUs: number): void {
    const error = held.isCancelled ? 1 : held.fails ? 2 : 0;
    const result = {
      ...{ payload: empty, content_type: '', ran_us: ranUs },
      error: error === 0 ? null : { code: error, type: 'E', message: 'alas', traceback: '' },
    };
    this.#up(() => this.#model.dispatch.onResult(this.id, held.linkId, result));
  }

  #cancel(linkId: number): void {
    const held = this.held.get(linkId);
    if (held === undefined || held.state === 'ended') return;
    held.isCancelled = true;
    if (held.state === 'waiting') this.#end(held);
  }

  /** A command that is paused goes no further, and neither does a replay. */
  #pause(linkId: number): void {
    const held = this.held.get(linkId);
    if (held !== undefined) held.isPaused = true;
  }

  #resume(linkId: number): void {
    const held = this.held.get(linkId);
    if (held === undefined) return;
    held.isPaused = false;
    if (held.isReplayDue) this.#sendReplay(held);
  }

  #replay(linkId: number): void {
    const held = this.held.get(linkId);
    this.#up(() => this.#model.dispatch.onReplayed(this.id, [linkId]));
    if (held === undefined) {
      const error = { code: 15, type: '', message: 'not kept', traceback: '' };
      const result = { payload: empty, content_type: '', ran_us: 0, error };
      return this.#up(() => this.#model.dispatch.onResult(this.id, linkId, result));
    }
    held.isSilent = false;
    held.sent = 0;
    if (held.isPaused) held.isReplayDue = true;
    else this.#sendReplay(held);
  }

  #sendReplay(held: Held): void {
    held.isReplayDue = false;
    this.#sayChunks(held);
    if (held.state === 'ended') this.#sayEnd(held, 10);
  }

  #giveBack(): void {
    const waiting = [...this.held.values()].filter(({ state }) => state === 'waiting');
    for (const { linkId } of waiting) this.held.delete(linkId);
    if (waiting.length === 0) return;
    this.#up(() =>
      this.#model.dispatch.onReturned(
        this.id,
        waiting.map(({ linkId }) => linkId),
      ),
    );
  }
}
