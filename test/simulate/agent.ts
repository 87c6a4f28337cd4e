import { crc32 } from 'node:zlib';
import { createDesired } from '../../src/agent/desired.ts';
import { carryOut } from '../../src/agent/effects.ts';
import { receive } from '../../src/agent/worker-frames.ts';
import type { Dispatch } from '../../src/dispatch/dispatch.ts';
import { createDispatch } from '../../src/dispatch/dispatch.ts';
import { limitsOf } from '../../src/dispatch/limits.ts';
import type { Request, RequestSpec, ResponseSink } from '../../src/dispatch/request.ts';
import type { Action } from '../../src/domain/action.ts';
import type { NodeConfig } from '../../src/domain/config.ts';
import type { Event, Orders } from '../../src/domain/event.ts';
import type { Exit, Intent, Leftover, State } from '../../src/domain/state.ts';
import { initialState } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import type { DesiredSource } from '../../src/grpc/control/desired.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import type { WorkerFrame, WorkerHello } from '../../src/grpc/worker-link/source.ts';
import type { AppMetrics } from '../../src/telemetry/app-metrics.ts';
import { createAppMetrics } from '../../src/telemetry/app-metrics.ts';
import type { Survivor } from '../../src/workers/adopt.ts';
import { adoptedOf } from '../../src/workers/restore.ts';
import type { Workers } from '../../src/workers/workers.ts';
import { hold } from '../domain/invariants.ts';
import type { AgentHost } from './agent-host.ts';
import { createSimulatedWorkers, partsOf } from './agent-workers.ts';
import type { SimulatedLedger } from './ledger.ts';
import { createIntentFile, createLedger } from './ledger.ts';
import type { SimulatedLink } from './link.ts';
import type { RunningAgent, Serving } from './running-agent.ts';
import type { Greeting, SimulatedWorker } from './worker.ts';

/** How long a deferred event waits for a step; as in src/agent/loop.ts. */
const deferredMs = 50;
/** Wake-ups in a row at one time with nothing new: the agent would spin. */
const idleMost = 5;
const never = Number.POSITIVE_INFINITY;

/** What an agent finds when it starts. */
export interface FoundAtStart {
  readonly config: NodeConfig;
  readonly orders: Orders | null;
  readonly intent: Intent | null;
  readonly survivors: readonly Survivor[];
  readonly leftovers: readonly Leftover[];
}

/**
 * One agent without its I/O, in virtual time: domain, dispatch, effects and src/workers/ as they are, joined as src/agent/core.ts does.
 * Only the loop, the processes, the disk and the links are simulated.
 */
export class SimulatedAgent implements RunningAgent {
  readonly number: number;
  readonly startedAtMs: number;
  state: State = initialState();
  readonly dispatch: Dispatch;
  readonly workers: Workers;
  readonly ledger: SimulatedLedger;
  readonly desired: DesiredSource;
  readonly serving = new Map<string, Serving>();
  readonly unclaimed = createMemoryBudget(512 * 1024 * 1024).account();
  isDead = false;
  steps = 0;
  #events: Event[] = [];
  #turnAtMs = never;
  #wakeAtMs = never;
  #expireAtMs = never;
  #idle = 0;
  readonly #host: AgentHost;
  readonly #apps: AppMetrics;
  readonly #carryOut: (actions: readonly Action[]) => void;

  constructor(host: AgentHost, number: number) {
    this.#host = host;
    this.number = number;
    this.startedAtMs = host.nowMs();
    this.ledger = createLedger(host.disk, (ms, work) => this.later(ms, work), host.settling);
    const applyNow = (event: Event): void => {
      this.enqueue(event);
      this.#turn();
    };
    const file = createIntentFile(host.disk, host.random, (ms, work) => this.later(ms, work), host.settling);
    this.desired = createDesired({ loop: { state: () => this.state, applyNow }, file, nowMs: host.nowMs });
    this.dispatch = this.#newDispatch();
    this.#apps = createAppMetrics({ nowMs: host.nowMs, warn: nothing });
    const parts = partsOf(this, host);
    this.workers = createSimulatedWorkers(this, host, parts);
    const effects = {
      ...{ workers: this.workers, workerParts: parts, dispatch: this.dispatch, log: parts.log },
      metrics: { addPool: nothing, forgetPool: nothing, missedPings: nothing, ping: nothing, record: nothing } as never,
      apps: this.#apps,
      exits: { keep: nothing, list: () => [] },
      exitCounts: { count: nothing, of: () => new Map(), forgetPool: nothing },
      history: { append: nothing },
      subscribers: { subscribe: () => nothing, publish: nothing, revisionOf: () => 0 },
      ...{ logStacks: nothing, finish: host.finished },
    };
    this.#carryOut = (actions) => carryOut(effects, actions);
  }

  /** Like src/agent/surfaces.ts and `enqueueInitialEvents` of src/agent/agent.ts. Nobody can reach the agent before this. */
  open({ config, orders, intent, survivors, leftovers }: FoundAtStart): void {
    for (const pool of config.pools.values()) this.dispatch.setPool(pool.name, limitsOf(pool));
    for (const survivor of survivors) {
      this.workers.adopt(survivor);
      if (survivor.entry.state === 'ready') this.dispatch.expectWorker(survivor.pool.name, survivor.entry.worker_id);
    }
    this.enqueue({ type: 'config', config });
    if (orders !== null) this.enqueue({ type: 'recall-orders', orders });
    if (intent !== null) this.enqueue({ type: 'recall-intent', intent, orders });
    this.enqueue({ type: 'adopt', workers: survivors.map(adoptedOf), leftovers });
    this.#turn();
  }

  /** The real one, which notes which workers it may give requests. */
  #newDispatch(): Dispatch {
    const { checks, nowMs, processes } = this.#host;
    const { serving } = this;
    const rests = (workerId: string, how: Partial<Serving>): void => {
      Object.assign(serving.get(workerId) ?? {}, how);
      checks.rests(workerId);
    };
    const dispatch = createDispatch({
      nowMs,
      onIdle: (workerId) => this.enqueue({ type: 'idle', workerId }),
      onBudgetSpent: (workerId) => this.enqueue({ type: 'budget-spent', workerId }),
      onOutcome: nothing,
      onFailed: nothing,
      onOverdue: (workerId, message) => {
        checks.overdue(workerId, message);
        this.enqueue({ type: 'overdue', workerId, message });
      },
      onPoisoned: (pool, message) => this.enqueue({ type: 'poisoned', pool, message }),
      checksum: crc32,
      fingerprint: ({ command, payload }) => `${command} ${payload.toString()}`,
      onDeadline: (atMs) => this.#arm(atMs),
      unclaimed: this.unclaimed,
    });
    return {
      ...dispatch,
      addWorker: (worker) => {
        const { workerId, paused } = worker;
        const process = processes.get(workerId);
        if (process !== undefined) process.knownTo = this.number;
        checks.admitted(this, workerId);
        serving.set(workerId, { paused, leaving: serving.get(workerId)?.leaving ?? false, sinceMs: nowMs() });
        dispatch.addWorker(worker);
      },
      pauseWorker: (workerId) => {
        rests(workerId, { paused: true });
        dispatch.pauseWorker(workerId);
      },
      resumeWorker: (workerId) => {
        Object.assign(serving.get(workerId) ?? {}, { paused: false });
        dispatch.resumeWorker(workerId);
      },
      onLeaving: (workerId) => {
        rests(workerId, { leaving: true });
        dispatch.onLeaving(workerId);
      },
      removeWorker: (workerId, end) => {
        rests(workerId, {});
        serving.delete(workerId);
        dispatch.removeWorker(workerId, end);
      },
    };
  }

  submit(spec: RequestSpec, sink: ResponseSink): Request | undefined {
    const { checks } = this.#host;
    const request = this.dispatch.submit(spec, sink);
    if (request !== undefined) checks.submitted(this, request);
    checks.dispatch(this);
    return request;
  }

  /** The worker's process has ended. If the ledger does not have the start yet, `spawn` reports the end instead. */
  exited({ workerId }: SimulatedWorker, exit: Exit): void {
    const handle = this.workers.handles.get(workerId);
    if (handle === undefined || !handle.recorded) return;
    // Only its parent is told how a process ended.
    const seen = handle.adopted ? { code: null, signal: null } : exit;
    this.enqueue({ type: 'exited', workerId, exit: seen, lastLines: ['the end'] });
  }

  /** Decided in this turn. */
  enqueue(event: Event): void {
    this.#events.push(event);
    this.#turnAtMs = this.#host.nowMs();
  }

  /** Decided with the next step, or soon. */
  enqueueDeferred(event: Event): void {
    this.#events.push(event);
    this.#turnAtMs = Math.min(this.#turnAtMs, this.#host.nowMs() + deferredMs);
  }

  /** Unless it is dead by then. */
  later(ms: number, work: () => void): void {
    this.#host.later(ms, () => {
      if (!this.isDead) work();
    });
  }

  /** When its next timer is due. */
  nextAtMs(): number {
    return Math.min(this.#turnAtMs, this.#wakeAtMs, this.#expireAtMs);
  }

  /** `atMs`: its earliest timer, or what the host has for it. False: none of the agent's timers is due. */
  runTimers(atMs: number): boolean {
    if (this.#expireAtMs <= atMs) this.#arm(this.dispatch.expire());
    else if (this.#wakeAtMs <= atMs) {
      this.#idle += 1;
      hold(this.#idle < idleMost, `${idleMost} wake-ups in a row at one time, with nothing new`);
      this.#turn();
    } else return false;
    return true;
  }

  /** A turn of its loop that events ask for. */
  runTurn(atMs: number): boolean {
    if (this.#turnAtMs > atMs) return false;
    this.#turn();
    return true;
  }

  /** Something new, or another time: waking up is not in vain. */
  isNew(): void {
    this.#idle = 0;
  }

  /** After it was held up: as in Node, its timers come before what was received. */
  catchUp(): void {
    const nowMs = this.#host.nowMs();
    if (this.#wakeAtMs <= nowMs) this.#turn();
    if (this.#expireAtMs <= nowMs) this.#arm(this.dispatch.expire());
  }

  greet(worker: SimulatedWorker, hello: WorkerHello, link: SimulatedLink): Greeting {
    const handle = this.workers.handles.get(worker.workerId);
    if (handle === undefined) return 'refused';
    if (handle.link !== null) return 'later';
    this.workers.attach(hello, link);
    return 'welcome';
  }

  frame(worker: SimulatedWorker, link: SimulatedLink, frame: WorkerFrame): void {
    const { workers, dispatch } = this;
    if (!workers.isCurrent(worker.workerId, link)) return;
    const { nowMs } = this.#host;
    receive({ workers, dispatch, loop: this.#loop, apps: this.#apps, nowMs }, worker.workerId, frame);
    this.#host.checks.dispatch(this);
  }

  readonly #loop = {
    enqueue: (event: Event) => this.enqueue(event),
    enqueueDeferred: (event: Event) => this.enqueueDeferred(event),
  };

  #arm(atMs: number): void {
    this.#expireAtMs = atMs === never ? atMs : Math.max(atMs, this.#host.nowMs() + 1);
  }

  #turn(): void {
    const { random, trace, checks } = this.#host;
    const nowMs = this.#host.nowMs();
    const events = this.#events;
    this.#events = [];
    this.#turnAtMs = never;
    if (events.length > 0) this.#idle = 0;
    this.steps += 1;
    for (const event of events) trace.note(nowMs, event);
    const before = this.state;
    const next = step(before, events, {
      nowMs,
      random: () => random.next(),
      counters: (workerId) => this.workers.handles.get(workerId)?.counters,
      queued: (pool) => this.dispatch.poolStats(pool).queued,
    });
    this.state = next.state;
    this.#wakeAtMs = next.wakeAtMs;
    hold(next.wakeAtMs >= nowMs, `a wake-up in the past: ${next.wakeAtMs} at ${nowMs}`);
    for (const action of next.actions) {
      trace.note(nowMs, action);
      checks.action(action, this);
      if (action.type === 'sample-host') this.#sampleHost();
      if (action.type === 'remove-pool') this.#host.poolRemoved(action.pool);
    }
    // It reads a file of the machine that this runs on.
    this.#carryOut(next.actions.filter(({ type }) => type !== 'sample-host'));
    checks.step(this, before, events, next.actions);
    checks.dispatch(this);
  }

  #sampleHost(): void {
    this.later(1, () => {
      this.enqueueDeferred({ type: 'host-sampled', availableBytes: this.#host.availableBytes() });
    });
  }
}

function nothing(): void {}
