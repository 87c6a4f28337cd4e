import { crc32 } from 'node:zlib';
import { expect } from 'vitest';
import { newCounters } from '../../src/dispatch/counters.ts';
import type { Dispatch, Outcome, PoolLimits } from '../../src/dispatch/dispatch.ts';
import { createDispatch } from '../../src/dispatch/dispatch.ts';
import type { Request, RequestError, RequestSpec, ResponseSink } from '../../src/dispatch/request.ts';
import type { LinkRequest, Resumed } from '../../src/dispatch/worker.ts';
import type { ReportedProgress } from '../../src/domain/evidence.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';

/** One request as its caller sees it. */
export interface Told {
  readonly ask: RequestSpec;
  request: Request | undefined;
  answers: ResponseSink | undefined;
  readonly chunks: string[];
  readonly reports: ReportedProgress[];
  result: string | undefined;
  error: RequestError | undefined;
  /** Results and errors; more than one would be a lie. */
  ends: number;
  /** Workers it was written to, in order. */
  readonly sentTo: string[];
  /** A worker has ended that may have begun it. */
  mayHaveRun: boolean;
}

/** A worker as dispatch's link to it sees it. */
export interface FakeWorker {
  readonly id: string;
  readonly pool: string;
  readonly concurrency: number;
  readonly commands: readonly string[];
  readonly running: Map<number, { readonly request: LinkRequest; readonly told: Told }>;
  readonly cancelled: number[];
  readonly acked: number[];
  readonly replayed: number[];
  /** Link ids whose chunks it holds back. */
  readonly held: Set<number>;
  readonly unwritten: Set<number>;
  /** Link ids of what it has not begun, in order. */
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

/** Dispatch with a clock, callers and workers that only remember. */
export class Host {
  nowMs = 1_000;
  armedAtMs = Number.POSITIVE_INFINITY;
  readonly told: Told[] = [];
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
    nowMs: () => this.nowMs,
    onIdle: (workerId) => this.idle.push(workerId),
    onBudgetSpent: (workerId) => this.spent.push(workerId),
    onOutcome: (outcome) => this.outcomes.push(outcome),
    onFailed: ({ requestId }) => this.failed.push(requestId),
    onOverdue: (workerId) => this.overdue.push(workerId),
    onPoisoned: (_pool, message) => this.poisoned.push(message),
    checksum: crc32,
    fingerprint: ({ command, payload }) => `${command} ${payload.toString()}`,
    onDeadline: (atMs) => {
      this.armedAtMs = atMs;
    },
    unclaimed: this.unclaimed,
  });

  constructor() {
    this.dispatch.setPool('p', poolLimits());
  }

  submit(patch: Partial<RequestSpec> = {}): Told {
    const ask: RequestSpec = {
      pool: 'p',
      command: 'c',
      payload: Buffer.from('payload'),
      contentType: '',
      requestId: String(this.told.length),
      hasCallerId: false,
      sessionId: '',
      idempotent: false,
      deadlineMs: Number.POSITIVE_INFINITY,
      streams: false,
      ...patch,
    };
    const told: Told = {
      ask,
      request: undefined,
      answers: undefined,
      chunks: [],
      reports: [],
      result: undefined,
      error: undefined,
      ends: 0,
      sentTo: [],
      mayHaveRun: false,
    };
    this.told.push(told);
    told.answers = {
      chunk: (payload) => told.chunks.push(payload.toString()),
      result: (payload) => {
        told.ends += 1;
        told.result = payload.toString();
        return 0;
      },
      error: (error) => {
        told.ends += 1;
        told.error = error;
      },
      progress: (report) => told.reports.push(report),
    };
    told.request = this.dispatch.submit(ask, told.answers);
    return told;
  }

  cancel({ request, answers }: Told): void {
    if (request !== undefined && answers !== undefined) this.dispatch.cancel(request, answers);
  }

  pause({ request, answers }: Told): void {
    if (request !== undefined && answers !== undefined) this.dispatch.pause(request, answers);
  }

  resume({ request, answers }: Told): void {
    if (request !== undefined && answers !== undefined) this.dispatch.resume(request, answers);
  }

  /** Its call is over. */
  settle({ request, answers }: Told, delivered: boolean): void {
    if (request !== undefined && answers !== undefined) this.dispatch.settle(request, answers, delivered);
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
          const told = this.told.findLast(({ ask }) => ask.requestId === request.request_id);
          if (told === undefined) throw new Error(`no request ${request.request_id}`);
          expect(worker.removed || worker.paused || worker.leaving, `${worker.id} takes no requests`).toBe(false);
          worker.running.set(request.id, { request, told });
          worker.waiting.push(request.id);
          this.begin(worker);
          told.sentTo.push(worker.id);
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

  /** Its line broke, and it has dialled again: what it has on the new one. */
  reattach({ id, pool, concurrency, commands, marksBegun }: FakeWorker, resumed: Resumed, paused = false): FakeWorker {
    return this.addWorker({ id, pool, concurrency, commands, marksBegun, resumed, paused });
  }

  /** It begins as many as it may run at once, in order. */
  private begin(worker: FakeWorker): void {
    while (!worker.removed && worker.running.size - worker.waiting.length < worker.concurrency) {
      const linkId = worker.waiting.shift();
      if (linkId === undefined) return;
      worker.lastBegunLinkId = linkId;
    }
  }

  /** It gives back what it has not begun. */
  giveBack(worker: FakeWorker): void {
    const linkIds = worker.waiting.splice(0);
    for (const linkId of linkIds) worker.running.delete(linkId);
    worker.recalled = false;
    this.dispatch.onReturned(worker.id, linkIds);
  }

  /** The worker answers one of what it has. */
  answer(worker: FakeWorker, linkId: number, error: { code: number; message: string } | null = null, ranMs = 0): void {
    worker.running.delete(linkId);
    const at = worker.waiting.indexOf(linkId);
    if (at >= 0) worker.waiting.splice(at, 1);
    this.begin(worker);
    const told = error === null ? null : { type: 'E', traceback: '', ...error };
    const result = {
      payload: Buffer.from('done'),
      content_type: 'application/json',
      error: told,
      ran_us: ranMs * 1000,
    };
    this.dispatch.onResult(worker.id, linkId, result);
  }

  remove(worker: FakeWorker, reason = 'signal', crashed = true): void {
    worker.removed = true;
    for (const [linkId, { told }] of worker.running) {
      const neverBegan = worker.unwritten.has(linkId) || (worker.marksBegun && worker.waiting.includes(linkId));
      if (!neverBegan) told.mayHaveRun = true;
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
