import { crc32 } from 'node:zlib';
import { expect } from 'vitest';
import type { DispatchOptions } from '../../src/dispatch/core.ts';
import { newCounters } from '../../src/dispatch/counters.ts';
import type { Dispatch, Outcome, PoolLimits } from '../../src/dispatch/dispatch.ts';
import { createDispatch } from '../../src/dispatch/dispatch.ts';
import type { Request, RequestError, RequestSpec, ResponseSink } from '../../src/dispatch/request.ts';
import type { LinkRequest, Resumed } from '../../src/dispatch/worker.ts';
import type { ReportedProgress } from '../../src/domain/evidence.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';

/** One call as its caller sees it. */
export interface HostCall {
  readonly ask: RequestSpec;
  request: Request | undefined;
  readonly sink: ResponseSink;
  readonly chunks: string[];
  readonly reports: ReportedProgress[];
  result: string | undefined;
  error: RequestError | undefined;
  /** Results and errors: at most one is right. */
  ends: number;
  /** The workers that the request was sent to, in order. */
  readonly sentTo: string[];
  /** A worker that may have begun the request has ended. */
  mayHaveRun: boolean;
}

/** A worker as dispatch sees it through its link. */
export interface FakeWorker {
  readonly id: string;
  readonly pool: string;
  readonly concurrency: number;
  readonly commands: readonly string[];
  readonly running: Map<number, { readonly request: LinkRequest; readonly call: HostCall }>;
  readonly cancelled: number[];
  readonly acked: number[];
  readonly replayed: number[];
  /** Link ids of requests whose chunks the worker holds back. */
  readonly held: Set<number>;
  readonly unwritten: Set<number>;
  /** Link ids of requests that have not begun, in order. */
  readonly waiting: number[];
  readonly marksBegun: boolean;
  lastBegunLinkId: number;
  recalled: boolean;
  leaving: boolean;
  readonly counters: ReturnType<typeof newCounters>;
  paused: boolean;
  removed: boolean;
}

type WorkerOptions = Partial<Pick<FakeWorker, 'id' | 'pool' | 'concurrency' | 'commands' | 'marksBegun'>> & {
  maxRequests?: number;
  resumed?: Resumed;
  paused?: boolean;
};

export function poolLimits(patch: Partial<PoolLimits> = {}): PoolLimits {
  return {
    maxQueuedRequests: 3,
    maxQueuedBytes: 100,
    requestTimeoutMs: 1_000,
    maxAttempts: 3,
    killAfterMs: 0,
    poison: { after: 0, forMs: 60_000 },
    affinity: 'off',
    keepMs: 500,
    keepMax: 100,
    ...patch,
  };
}

/** Options whose callbacks do nothing, with the real clock and checksums. */
export function silentOptions(unclaimed: DispatchOptions['unclaimed']): DispatchOptions {
  return {
    nowMs: () => performance.now(),
    onIdle: () => undefined,
    onBudgetSpent: () => undefined,
    onOutcome: () => undefined,
    onFailed: () => undefined,
    onOverdue: () => undefined,
    onPoisoned: () => undefined,
    checksum: crc32,
    fingerprint: ({ command, payload }) => `${command} ${payload.toString()}`,
    onDeadline: () => undefined,
    unclaimed,
  };
}

/** Dispatch with a clock that a test moves, and with callers and workers that only record what they get. */
export class DispatchHost {
  nowMs = 1_000;
  armedAtMs = Number.POSITIVE_INFINITY;
  readonly calls: HostCall[] = [];
  readonly workers: FakeWorker[] = [];
  readonly outcomes: Outcome[] = [];
  /** Ids of requests that failed in workers. */
  readonly failed: string[] = [];
  readonly idle: string[] = [];
  readonly spent: string[] = [];
  readonly overdue: string[] = [];
  readonly poisoned: string[] = [];
  readonly budget = createMemoryBudget(1024 * 1024);
  readonly unclaimed = this.budget.account();
  readonly dispatch: Dispatch = createDispatch({
    ...silentOptions(this.unclaimed),
    nowMs: () => this.nowMs,
    onIdle: (workerId) => this.idle.push(workerId),
    onBudgetSpent: (workerId) => this.spent.push(workerId),
    onOutcome: (outcome) => this.outcomes.push(outcome),
    onFailed: ({ requestId }) => this.failed.push(requestId),
    onOverdue: (workerId) => this.overdue.push(workerId),
    onPoisoned: (_pool, message) => this.poisoned.push(message),
    onDeadline: (atMs) => {
      this.armedAtMs = atMs;
    },
  });

  constructor() {
    this.dispatch.setPool('p', poolLimits());
  }

  submit(patch: Partial<RequestSpec> = {}): HostCall {
    const ask: RequestSpec = {
      pool: 'p',
      command: 'c',
      payload: Buffer.from('payload'),
      contentType: '',
      requestId: String(this.calls.length),
      hasCallerId: false,
      sessionId: '',
      idempotent: false,
      deadlineMs: Number.POSITIVE_INFINITY,
      streams: false,
      ...patch,
    };
    const call: HostCall = {
      ask,
      request: undefined,
      sink: {
        chunk: (payload) => call.chunks.push(payload.toString()),
        result: (payload) => {
          call.ends += 1;
          call.result = payload.toString();
          return 0;
        },
        error: (error) => {
          call.ends += 1;
          call.error = error;
        },
        progress: (report) => call.reports.push(report),
      },
      chunks: [],
      reports: [],
      result: undefined,
      error: undefined,
      ends: 0,
      sentTo: [],
      mayHaveRun: false,
    };
    this.calls.push(call);
    call.request = this.dispatch.submit(ask, call.sink);
    return call;
  }

  cancel({ request, sink }: HostCall): void {
    if (request !== undefined) this.dispatch.cancel(request, sink);
  }

  pause({ request, sink }: HostCall): void {
    if (request !== undefined) this.dispatch.pause(request, sink);
  }

  resume({ request, sink }: HostCall): void {
    if (request !== undefined) this.dispatch.resume(request, sink);
  }

  /** The call is over. */
  settle({ request, sink }: HostCall, delivered: boolean): void {
    if (request !== undefined) this.dispatch.settle(request, sink, delivered);
  }

  addWorker(options: WorkerOptions = {}): FakeWorker {
    const worker: FakeWorker = {
      id: options.id ?? `w${this.workers.length}`,
      pool: options.pool ?? 'p',
      concurrency: options.concurrency ?? 1,
      commands: options.commands ?? ['c'],
      running: new Map(),
      cancelled: [],
      acked: [],
      replayed: [],
      held: new Set(),
      unwritten: new Set(),
      waiting: [],
      marksBegun: options.marksBegun ?? false,
      lastBegunLinkId: 0,
      recalled: false,
      leaving: false,
      counters: newCounters(),
      paused: false,
      removed: false,
    };
    this.workers.push(worker);
    this.dispatch.addWorker({
      workerId: worker.id,
      pool: worker.pool,
      concurrency: worker.concurrency,
      maxRequests: options.maxRequests ?? 0,
      commands: new Map(
        worker.commands.map((name) => [
          name,
          { streams: name.startsWith('stream'), isAsync: name.startsWith('async') },
        ]),
      ),
      marksBegun: worker.marksBegun,
      lastBegunLinkId: () => (worker.marksBegun ? worker.lastBegunLinkId : null),
      counters: worker.counters,
      resumed: options.resumed ?? null,
      paused: options.paused ?? false,
      link: {
        request: (request) => {
          const call = this.calls.findLast(({ ask }) => ask.requestId === request.request_id);
          if (call === undefined) throw new Error(`no request ${request.request_id}`);
          expect(worker.removed || worker.paused || worker.leaving, `${worker.id} takes no requests`).toBe(false);
          worker.running.set(request.id, { request, call });
          worker.waiting.push(request.id);
          this.begin(worker);
          call.sentTo.push(worker.id);
        },
        cancel: (linkId) => worker.cancelled.push(linkId),
        ack: (linkId) => worker.acked.push(linkId),
        replay: (linkId) => worker.replayed.push(linkId),
        pause: (linkId) => worker.held.add(linkId),
        resume: (linkId) => worker.held.delete(linkId),
        recall: () => {
          expect(worker.waiting.length, `${worker.id} has what to recall`).toBeGreaterThan(0);
          worker.recalled = true;
          return [];
        },
        unwritten: () => worker.unwritten,
      },
    });
    return worker;
  }

  /** The worker's link broke, and it has dialled again. Returns the worker on its new link. */
  reattach({ id, pool, concurrency, commands, marksBegun }: FakeWorker, resumed: Resumed, paused = false): FakeWorker {
    return this.addWorker({ id, pool, concurrency, commands, marksBegun, resumed, paused });
  }

  /** The worker begins as many requests as it may run at once, in order. */
  private begin(worker: FakeWorker): void {
    while (!worker.removed && worker.running.size - worker.waiting.length < worker.concurrency) {
      const linkId = worker.waiting.shift();
      if (linkId === undefined) return;
      worker.lastBegunLinkId = linkId;
    }
  }

  /** The worker returns the requests that it has not begun. */
  giveBack(worker: FakeWorker): void {
    const linkIds = worker.waiting.splice(0);
    for (const linkId of linkIds) worker.running.delete(linkId);
    worker.recalled = false;
    this.dispatch.onReturned(worker.id, linkIds);
  }

  /** The worker answers one of its requests. */
  answer(worker: FakeWorker, linkId: number, error: { code: number; message: string } | null = null, ranMs = 0): void {
    worker.running.delete(linkId);
    const at = worker.waiting.indexOf(linkId);
    if (at >= 0) worker.waiting.splice(at, 1);
    this.begin(worker);
    const failure = error === null ? null : { type: 'E', traceback: '', ...error };
    const result = {
      payload: Buffer.from('done'),
      content_type: 'application/json',
      error: failure,
      ran_us: ranMs * 1000,
    };
    this.dispatch.onResult(worker.id, linkId, result);
  }

  remove(worker: FakeWorker, reason = 'signal', crashed = true): void {
    worker.removed = true;
    for (const [linkId, { call }] of worker.running) {
      const neverBegan = worker.unwritten.has(linkId) || (worker.marksBegun && worker.waiting.includes(linkId));
      if (!neverBegan) call.mayHaveRun = true;
    }
    const lastBegunLinkId = worker.marksBegun ? worker.lastBegunLinkId : null;
    this.dispatch.removeWorker(worker.id, {
      reason,
      message: 'ended by SIGKILL; its last lines:\na line of it',
      crashed,
      lastBegunLinkId,
    });
  }

  pass(ms: number): void {
    this.nowMs += ms;
    if (this.armedAtMs <= this.nowMs) this.armedAtMs = this.dispatch.expire();
  }
}
