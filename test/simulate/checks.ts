import { isDeepStrictEqual } from 'node:util';
import { prefetchMax } from '../../src/dispatch/command-stats.ts';
import type { Request } from '../../src/dispatch/request.ts';
import { isWaiting, run } from '../../src/dispatch/run.ts';
import type { LinkRequest } from '../../src/dispatch/worker.ts';
import type { Action } from '../../src/domain/action.ts';
import { ordersOf } from '../../src/domain/adopt.ts';
import type { Event } from '../../src/domain/event.ts';
import type { Leftover, State } from '../../src/domain/state.ts';
import { createStepInvariants, hold } from '../domain/invariants.ts';
import { createCapacity } from './capacity.ts';
import type { Disk } from './disk.ts';
import type { Traits } from './draw.ts';
import type { RunningAgent, Serving } from './running-agent.ts';
import type { Held } from './session.ts';
import { unended } from './session.ts';
import type { SimulatedWorker } from './worker.ts';

/** A request that has outlived its deadline is reported within twice `kill_after`, and this. */
const overdueSlackMs = 1_000;
/** A worker that has had nothing for so long is known to have nothing. */
const quietMs = 1_000;

export interface CheckedHost {
  readonly traits: Traits;
  readonly disk: Disk;
  readonly processes: ReadonlyMap<string, SimulatedWorker>;
  nowMs(): number;
  /** When the agent was held up last. */
  laggedAtMs(): number;
}

/** What must hold on a host at any time, whichever agent it has. What callers see is checked in callers.ts. */
export class Checks {
  readonly #host: CheckedHost;
  readonly #invariants = createStepInvariants();
  readonly #capacity = createCapacity();
  readonly #spawned = new Set<string>();
  /** Pool and slot of each worker until nothing is left of it. */
  readonly #slots = new Map<string, string>();
  /** Requests that this agent's dispatch took. */
  readonly #requests = new Set<Request>();
  /** Which worker had each session's last request, by pool and session. */
  readonly #sessions = new Map<string, string>();
  /** The same, without those of workers that have rested since: dispatch may have forgotten them. */
  readonly #bound = new Map<string, string>();
  /** Nothing that was ordered had to be written when the last agent died. */
  #areOrdersWritten = true;

  constructor(host: CheckedHost) {
    this.#host = host;
  }

  /** The next agent begins with what an earlier one has left. */
  nextAgent(survivors: readonly Leftover[], leftovers: readonly Leftover[]): void {
    this.#invariants.nextAgent(survivors, leftovers, this.#areOrdersWritten);
    this.#requests.clear();
    this.#sessions.clear();
    this.#bound.clear();
    this.#slots.clear();
    for (const { workerId, pool, slot } of [...survivors, ...leftovers]) this.#slots.set(workerId, `${pool} ${slot}`);
  }

  /** Call this when the agent dies: the disk must have its orders, unless a write of them is pending. */
  orders({ state, ledger }: RunningAgent): void {
    this.#areOrdersWritten = ledger.isWritten();
    if (!this.#areOrdersWritten || state.node.phase === 'stopping' || state.pools.size === 0) return;
    const { orders: written } = this.#host.disk;
    const expected = JSON.parse(JSON.stringify(ordersOf(state)));
    const found = written === '' ? { nodeDraining: false, pools: [] } : JSON.parse(written);
    hold(
      isDeepStrictEqual(found, expected),
      `orders: expected ${JSON.stringify(expected)} on the disk, got ${JSON.stringify(found)}`,
    );
  }

  action(action: Action, agent: RunningAgent): void {
    const { processes } = this.#host;
    if (action.type === 'spawn') {
      const { id, pool, slot } = action.worker;
      // Processes that may use what a slot's number stands for, as the host sees them.
      const here = [...this.#slots.values()].filter((each) => each === `${pool} ${slot}`).length;
      const most = agent.state.pools.get(pool)?.config.recycle.maxSurge ?? 0;
      hold(here <= most, `${id} starts beside ${here} others of its slot: expected at most ${most}`);
      this.#slots.set(id, `${pool} ${slot}`);
    }
    if (action.type === 'forget') this.#slots.delete(action.workerId);
    if (action.type === 'remove-pool') {
      for (const key of this.#bound.keys()) if (key.startsWith(`${action.pool} `)) this.#bound.delete(key);
    }
    if (action.type !== 'record' || action.record.kind !== 'worker_killed') return;
    const { workerId = '', reason, message } = action.record;
    if (reason !== 'hung' && reason !== 'link_lost') return;
    hold(processes.get(workerId)?.harmed !== false, `${workerId} is killed (${reason}), and was well: ${message}`);
  }

  spawned(workerId: string): void {
    this.#spawned.add(workerId);
  }

  /** Nothing is left of a worker. */
  gone(workerId: string): void {
    this.#slots.delete(workerId);
    const worker = this.#host.processes.get(workerId);
    hold(worker?.alive !== true, `${workerId} is forgotten while its process lives`);
  }

  step(agent: RunningAgent, before: State, events: readonly Event[], actions: readonly Action[]): void {
    this.#invariants.check(before, agent.state, actions, (workerId) => this.#spawned.has(workerId));
    this.#capacity.check(before, agent.state, events);
  }

  /** Dispatch has taken a request, or has had it already. */
  submitted(agent: RunningAgent, request: Request): void {
    this.#requests.add(request);
    if (request.arrivedAtMs === this.#host.nowMs()) this.#checkQueue(agent, request);
  }

  /** Dispatch is given a worker. The next agent must be able to see that it may have requests. */
  admitted({ ledger }: RunningAgent, workerId: string): void {
    const isKnown = this.#host.disk.entries.get(workerId)?.state === 'ready' || ledger.hasFailed(workerId);
    hold(isKnown, `${workerId} is given to dispatch before the ledger has it as ready`);
  }

  /** Dispatch gives a request to a worker. */
  sending(agent: RunningAgent, { workerId, pool }: SimulatedWorker, request: LinkRequest): void {
    const { session_id: sessionId, timeout_ms: timeoutMs } = request;
    const isUint32 = Number.isInteger(timeoutMs) && timeoutMs >= 0 && timeoutMs < 2 ** 32;
    hold(isUint32, `request ${request.request_id}: expected a timeout of 32 bits, got ${timeoutMs}`);
    hold(takesRequests(agent.serving.get(workerId)), `${workerId} was given a request, and takes none`);
    if (sessionId === '') return;
    const key = `${pool.name} ${sessionId}`;
    const affinity = agent.state.pools.get(pool.name)?.config.request.affinity;
    const own = this.#bound.get(key) ?? workerId;
    const isElsewhere = affinity === 'strict' && own !== workerId && takesRequests(agent.serving.get(own));
    hold(
      !isElsewhere,
      `a request of session ${sessionId} goes to ${workerId}, and ${own}, which has it, takes requests`,
    );
    this.#sessions.set(key, workerId);
    if (affinity !== 'off') this.#bound.set(key, workerId);
  }

  /** The worker takes no requests, at least for a while. */
  rests(workerId: string): void {
    for (const [key, own] of this.#bound) if (own === workerId) this.#bound.delete(key);
  }

  /** Dispatch reports that a worker still runs a request that should have ended. */
  overdue(workerId: string, message: string): void {
    const worker = this.#host.processes.get(workerId);
    if (worker === undefined || worker.harmed || !worker.alive) return;
    if (worker.session.link?.isQuiet !== true) {
      worker.harmed = true;
      return;
    }
    const dueMs = this.#host.nowMs() - this.#host.traits.killAfterMs;
    const isLate = ({ state, asked, epoch }: Held): boolean =>
      state === 'running' && asked !== undefined && (epoch !== asked.epoch || asked.firstDeadlineMs <= dueMs + 1);
    hold([...worker.session.held.values()].some(isLate), `${workerId} runs nothing that is overdue: ${message}`);
    // It is killed for that, whatever it was to be ended for.
    worker.harmed = true;
  }

  /** The numbers are true, no worker has too much, and none is free while a request that it could serve waits. */
  dispatch(agent: RunningAgent): void {
    for (const name of agent.state.pools.keys()) {
      let [queued, queuedBytes, inFlight, free, served] = [0, 0, 0, '', 0];
      for (const request of this.#requests) {
        if (request.run === run.ended) this.#requests.delete(request);
        if (request.pool !== name || !isWaiting(request)) continue;
        queued += 1;
        queuedBytes += request.payloadBytes;
        if (request.run === run.queued && !this.#waitsForItsSession(agent, request)) served += 1;
      }
      for (const [workerId, serving] of agent.serving) {
        const handle = agent.workers.handles.get(workerId);
        const worker = this.#host.processes.get(workerId);
        if (handle === undefined || worker === undefined || handle.pool.name !== name) continue;
        const { counters } = handle;
        const { concurrency } = worker.pool;
        const most = concurrency + (worker.behaviour.marksBegun ? prefetchMax : 0);
        hold(counters.inFlight <= most, `${workerId} has ${counters.inFlight} requests, of ${most}`);
        inFlight += counters.inFlight;
        if (takesRequests(serving) && counters.inFlight < concurrency) free = workerId;
        this.#checkWorker(agent, worker, counters.inFlight, serving);
      }
      const stats = agent.dispatch.poolStats(name);
      hold(stats.queued === queued, `pool ${name}: ${queued} requests wait, its numbers say ${stats.queued}`);
      hold(stats.queuedBytes === queuedBytes, `pool ${name}: ${queuedBytes} bytes wait, not ${stats.queuedBytes}`);
      hold(stats.inFlight === inFlight, `pool ${name}: ${inFlight} in flight, its numbers say ${stats.inFlight}`);
      const waits = served > 0 && free !== '';
      hold(!waits, `${free} is free while ${served} requests of pool ${name} wait that it could serve`);
    }
  }

  /** A request that arrives is queued only within the bounds. Requests that workers return were admitted before. */
  #checkQueue(agent: RunningAgent, request: Request): void {
    const config = agent.state.pools.get(request.pool)?.config;
    if (config === undefined || !isWaiting(request)) return;
    const { queued, queuedBytes } = agent.dispatch.poolStats(request.pool);
    const { maxRequests, maxBytes } = config.queue;
    hold(queued <= maxRequests, `pool ${request.pool}: ${queued} requests wait, of ${maxRequests}`);
    hold(queuedBytes <= maxBytes, `pool ${request.pool}: ${queuedBytes} bytes wait`);
  }

  /** Nothing is counted to a worker that has nothing, and what runs on in it past its deadline is reported. */
  #checkWorker(agent: RunningAgent, worker: SimulatedWorker, inFlight: number, { sinceMs }: Serving): void {
    const { session, workerId } = worker;
    const nowMs = this.#host.nowMs();
    const { link } = session;
    if (!worker.alive || link === null || !link.isQuiet || unended(session) > 0) worker.busyAtMs = nowMs;
    const isIdle = nowMs - Math.max(worker.busyAtMs, sinceMs, this.#host.laggedAtMs()) > quietMs;
    hold(!isIdle || inFlight === 0, `${workerId} has nothing, and ${inFlight} requests are counted to it`);
    const { killAfterMs } = this.#host.traits;
    const phase = agent.state.workers.get(workerId)?.phase;
    if (killAfterMs === 0 || link === null || (phase !== 'ready' && phase !== 'draining')) return;
    const seenMs = Math.max(sinceMs, agent.startedAtMs, this.#host.laggedAtMs());
    for (const { state, asked, begunAtMs, receivedAtMs, request } of session.held.values()) {
      if (state !== 'running' || asked === undefined) continue;
      const ownMs = request.timeout_ms === 0 ? Number.POSITIVE_INFINITY : receivedAtMs + request.timeout_ms;
      // A later call for it may have set another deadline.
      const deadlineMs = Math.max(ownMs, asked.deadlineMs, begunAtMs, seenMs);
      const isReported = nowMs <= deadlineMs + 2 * killAfterMs + overdueSlackMs;
      const overMs = Math.round(nowMs - deadlineMs);
      hold(isReported, `${workerId} runs request ${request.request_id} ${overMs} ms past its deadline: nobody says so`);
    }
  }

  /** A strict session's requests wait while its own worker, which takes more of them, is full. */
  #waitsForItsSession(agent: RunningAgent, { pool, sessionId }: Request): boolean {
    if (sessionId === '' || agent.state.pools.get(pool)?.config.request.affinity !== 'strict') return false;
    const own = this.#sessions.get(`${pool} ${sessionId}`) ?? '';
    const worker = this.#host.processes.get(own);
    const inFlight = agent.workers.handles.get(own)?.counters.inFlight ?? 0;
    return worker !== undefined && takesRequests(agent.serving.get(own)) && inFlight >= worker.pool.concurrency;
  }
}

function takesRequests(serving: Serving | undefined): boolean {
  return serving !== undefined && !serving.paused && !serving.leaving;
}
