import type { Request, RequestError, ResponseSink } from '../../src/dispatch/request.ts';
import { code } from '../../src/dispatch/request.ts';
import { reasons, unplannedReasons } from '../../src/domain/reason.ts';
import { hold } from '../domain/invariants.ts';
import type { SharedHost } from './agent-host.ts';
import type { Asked, Wish } from './asked.ts';
import { commandModels, renew } from './asked.ts';
import type { Traits } from './draw.ts';
import type { RunningAgent } from './running-agent.ts';

/** Ends that somebody planned: no request may be lost to one, unless its worker was harmed besides. */
const planned: ReadonlySet<string> = new Set(reasons.filter((reason) => !unplannedReasons.has(reason)));
/** Clocks of worker and agent are rounded to milliseconds. */
const roundingMs = 2;
const never = Number.POSITIVE_INFINITY;

/** A host as callers see it. */
export interface CallersHost extends SharedHost {
  readonly traits: Traits;
  /** Undefined: there is none now. */
  agent(): RunningAgent | undefined;
  /** The least that any config had as drain.timeout. */
  leastDrainMs(): number;
}

/** One call for a request. */
interface Call {
  readonly asked: Asked;
  readonly agent: RunningAgent;
  readonly sink: ResponseSink;
  request: Request | undefined;
  chunks: number;
  ends: number;
  error: RequestError | undefined;
  /** Its caller has read the end, has gone, or has lost its agent. */
  isOver: boolean;
  isCancelled: boolean;
}

/**
 * The callers of a host. Those with a name for their request lose their connections, ask again, and read what they get, as
 * docs/delivery.md says that they may; the others ask once.
 */
export class Callers {
  /** How many calls ended in which way. */
  readonly ended = new Map<string, number>();
  /** Callers that want an answer, by request id. */
  readonly open = new Set<Asked>();
  /** Nobody breaks a connection or cancels any more. */
  isCalm = false;
  readonly #known = new Map<string, Asked>();
  /** The latest call for each request, until it is over. */
  readonly #current = new Map<Asked, Call>();
  /** Calls that are not over. */
  readonly #calls = new Set<Call>();
  /** Since when a named request has no caller. */
  readonly #leftAtMs = new Map<Asked, number>();
  #nextRequest = 1;
  readonly #host: CallersHost;

  constructor(host: CallersHost) {
    this.#host = host;
  }

  /** Also one that has ended: its worker may be about to receive it. Undefined: a warm-up. */
  find(requestId: string): Asked | undefined {
    return this.#known.get(requestId);
  }

  ask(wish: Wish): void {
    const { payload, timeoutMs, ...rest } = wish;
    if (!wish.hasCallerId && this.#host.agent() === undefined) return;
    const requestId = String(this.#nextRequest++);
    const model = commandModels[wish.command] ?? commandModels['short'];
    if (model === undefined) throw new Error('no command short');
    const spec = { ...rest, requestId, contentType: '', payload: Buffer.from(payload === '' ? requestId : payload) };
    const asked: Asked = {
      ...{ spec, model, epoch: 0, begun: 0, begunAtMs: Number.NaN, endedAtMs: Number.NaN },
      ...{ timeoutMs, firstDeadlineMs: never, deadlineMs: 0 },
    };
    this.#known.set(requestId, asked);
    this.open.add(asked);
    this.#call(asked);
  }

  #call(asked: Asked): void {
    const { random, later, nowMs } = this.#host;
    const agent = this.#host.agent();
    if (agent === undefined) return later(random.int(20, 500), () => this.#call(asked));
    this.#forgetInTime(asked);
    const { spec, timeoutMs } = asked;
    const hasOwn = Number.isFinite(timeoutMs);
    const poolMs = agent.state.pools.get(spec.pool)?.config.request.timeoutMs ?? never;
    asked.deadlineMs = nowMs() + (hasOwn ? timeoutMs : poolMs);
    asked.firstDeadlineMs = Math.min(asked.firstDeadlineMs, asked.deadlineMs);
    const call = this.#newCall(asked, agent);
    const before = this.#current.get(asked);
    this.#current.set(asked, call);
    this.#calls.add(call);
    call.request = agent.submit({ ...spec, deadlineMs: hasOwn ? asked.deadlineMs : never }, call.sink);
    if (call.request === undefined) {
      hold(call.ends === 1, `request ${spec.requestId} was refused, and not told so`);
      // The call before keeps the request.
      if (before !== undefined) this.#current.set(asked, before);
    } else {
      this.#leftAtMs.delete(asked);
      if (call.ends === 0) this.#plan(call);
    }
  }

  #newCall(asked: Asked, agent: RunningAgent): Call {
    const call: Call = {
      ...{ asked, agent, request: undefined, chunks: 0, ends: 0, error: undefined, isOver: false, isCancelled: false },
      sink: {
        chunk: (payload) => {
          const { requestId } = asked.spec;
          hold(call.ends === 0, `request ${requestId}: a chunk came after its end`);
          hold(
            payload.toString() === String(call.chunks),
            `request ${requestId}: chunk ${call.chunks}, got ${payload}`,
          );
          call.chunks += 1;
        },
        result: (payload) => {
          this.#checkResult(call, payload.toString());
          this.#end(call);
          return 0;
        },
        error: (error) => {
          call.error = error;
          this.#end(call);
        },
      },
    };
    return call;
  }

  /** What a caller will do that has an answer to come. */
  #plan(call: Call): void {
    const { random, later } = this.#host;
    const { request, agent, asked } = call;
    if (request === undefined || this.isCalm) return;
    const soon = (most: number, work: () => void): void =>
      later(random.int(0, most), () => {
        if (!call.isOver && !agent.isDead) work();
      });
    if (random.chance(0.05)) soon(500, () => this.#cancel(call));
    if (asked.spec.streams && random.chance(0.3)) {
      agent.dispatch.pause(request, call.sink);
      soon(2_000, () => agent.dispatch.resume(request, call.sink));
    }
    if (!asked.spec.hasCallerId) return;
    if (random.chance(0.2)) soon(1_500, () => this.#break(call));
    // Its connection looks alive, and is not.
    else if (random.chance(0.05)) soon(500, () => this.#call(asked));
  }

  #end(call: Call): void {
    const { asked, error } = call;
    const { requestId, hasCallerId } = asked.spec;
    call.ends += 1;
    hold(call.ends === 1, `request ${requestId}: expected one end, got ${call.ends}`);
    hold(!call.isOver, `request ${requestId}: its end comes after its call`);
    this.#note(call, error === undefined ? 'answered' : `code ${error.code} ${error.exitReason}`.trim());
    if (error !== undefined) this.#checkError(call, error);
    if (!hasCallerId) return this.#done(call);
    this.#host.later(this.#host.random.int(0, 20), () => {
      if (call.isOver) return;
      if (!this.isCalm && this.#host.random.chance(0.15)) this.#break(call);
      else this.#read(call);
    });
  }

  #note({ asked }: Call, how: string): void {
    this.ended.set(how, (this.ended.get(how) ?? 0) + 1);
    this.#host.trace.note(this.#host.nowMs(), `request ${asked.spec.requestId} ends: ${how}`);
  }

  /** The caller has its answer. */
  #read(call: Call): void {
    const { asked, request, error, agent } = call;
    if (request !== undefined && !agent.isDead) agent.dispatch.settle(request, call.sink, true);
    const isCurrent = this.#over(call);
    if (error?.code === code.aborted) return;
    // A refusal says nothing of what an earlier call has begun.
    if (isCurrent && request !== undefined) renew(asked);
    const { random, later } = this.#host;
    const mayAsk = error === undefined ? 0.03 : error.mayHaveBegun ? 0.1 : 0.5;
    if (!this.isCalm && random.chance(mayAsk)) later(random.int(0, 2_000), () => this.#call(asked));
    else this.open.delete(asked);
  }

  /** The connection breaks. Its caller comes back, in time or not, or has gone for good. */
  #break(call: Call): void {
    const { asked, request, agent, error } = call;
    if (request !== undefined && !agent.isDead) agent.dispatch.settle(request, call.sink, false);
    const isCurrent = this.#over(call);
    if (!isCurrent) return;
    this.#leftAtMs.set(asked, this.#host.nowMs());
    // What was given up at its deadline is not kept.
    if (error?.code === code.deadlineExceeded) renew(asked);
    this.#comeBack(asked);
  }

  #comeBack(asked: Asked): void {
    const { random, later, traits } = this.#host;
    if (!this.isCalm && random.chance(0.15)) this.open.delete(asked);
    else {
      const ms = random.chance(0.8) ? random.int(0, random.pick([200, 1_500])) : 1.5 * Math.min(traits.keepMs, 10_000);
      later(ms, () => this.#call(asked));
    }
  }

  #cancel(call: Call): void {
    const { asked, request, agent } = call;
    call.isCancelled = true;
    if (request !== undefined) agent.dispatch.cancel(request, call.sink);
    const isCurrent = this.#over(call);
    if (!isCurrent) return;
    renew(asked);
    this.open.delete(asked);
  }

  #done(call: Call): void {
    this.#over(call);
    this.open.delete(call.asked);
  }

  /** Whether it was the latest call for its request. */
  #over(call: Call): boolean {
    call.isOver = true;
    this.#calls.delete(call);
    if (this.#current.get(call.asked) !== call) return false;
    this.#current.delete(call.asked);
    return true;
  }

  /** All calls break. The next agent will know the requests in `kept`. Any other named request counts as a new one. */
  agentDied(kept: ReadonlySet<Asked>): void {
    const { random, later, nowMs } = this.#host;
    for (const call of [...this.#calls]) {
      const isCurrent = this.#over(call);
      if (call.ends === 0) this.#note(call, 'lost with its agent');
      const { asked } = call;
      if (!isCurrent) continue;
      if (!asked.spec.hasCallerId) {
        this.open.delete(asked);
        continue;
      }
      this.#leftAtMs.set(asked, nowMs());
      if (this.isCalm) later(random.int(0, 500), () => this.#call(asked));
      else this.#comeBack(asked);
    }
    for (const asked of this.#known.values()) if (asked.spec.hasCallerId && !kept.has(asked)) renew(asked);
  }

  /** A worker is gone of which no agent knew what it had. */
  unknownLost(asked: Iterable<Asked>): void {
    for (const each of asked) if (each.spec.hasCallerId) renew(each);
  }

  poolRemoved(pool: string): void {
    for (const asked of this.#known.values()) if (asked.spec.hasCallerId && asked.spec.pool === pool) renew(asked);
  }

  /** A caller that comes back after the deadline or after `keepMs` may find its request forgotten: it counts as a new one. */
  #forgetInTime(asked: Asked): void {
    const leftAtMs = this.#leftAtMs.get(asked);
    if (leftAtMs === undefined) return;
    const { traits, nowMs } = this.#host;
    const knownUntilMs = Math.min(asked.deadlineMs - roundingMs, leftAtMs + traits.keepMs);
    if (nowMs() >= knownUntilMs) renew(asked);
  }

  #checkResult({ asked, chunks }: Call, payload: string): void {
    const { requestId } = asked.spec;
    hold(payload === requestId, `request ${requestId} got the answer to ${payload}`);
    const expected = asked.model.chunks;
    hold(chunks === expected, `request ${requestId}: ${chunks} values before its end, expected ${expected}`);
  }

  #checkError(call: Call, error: RequestError): void {
    const { asked } = call;
    const nowMs = this.#host.nowMs();
    const { requestId, hasCallerId } = asked.spec;
    const what = `request ${requestId} ends with code ${error.code} (${error.message})`;
    const worker = this.#host.processes.get(error.workerId);
    const isCurrent = this.#current.get(asked) === call;
    const isKeptNoMore = nowMs - asked.endedAtMs >= this.#host.traits.keepMs - roundingMs;
    if (error.code === code.aborted) return hold(!isCurrent, `${what}, and no other call asked for it`);
    if (error.code === code.cancelled) hold(call.isCancelled, `${what}, and nobody cancelled it`);
    if (error.code === code.deadlineExceeded) {
      hold(nowMs >= asked.firstDeadlineMs - roundingMs, `${what} ${asked.firstDeadlineMs - nowMs} ms early`);
    }
    if (error.code === code.dataLoss) hold(isKeptNoMore, `${what}, and its answer was to be kept`);
    const isKnownHere = !hasCallerId || call.request !== undefined;
    if (isKnownHere && !error.mayHaveBegun) hold(asked.begun === 0, `${what}, as if it had not begun, and it did`);
    if (error.code !== code.unavailable || worker === undefined) return;
    if (error.exitReason === '') {
      const isLost = worker.linksLost > 0 && (!hasCallerId || isKeptNoMore || !worker.behaviour.marksBegun);
      hold(isLost || worker.harmed, `${what}, and nothing of it was lost`);
    } else if (planned.has(error.exitReason)) {
      // What outlasts drain.timeout is ended, and answers that nobody fetched go with their worker.
      const hadItsTime = nowMs - asked.begunAtMs >= this.#host.leastDrainMs() || !Number.isNaN(asked.endedAtMs);
      hold(worker.harmed || hadItsTime, `request ${requestId} was lost to a planned end: ${error.message}`);
    }
  }
}
