import { crc32 } from 'node:zlib';
import { prefetchMax } from '../../src/dispatch/command-stats.ts';
import type { Dispatch } from '../../src/dispatch/dispatch.ts';
import { createDispatch } from '../../src/dispatch/dispatch.ts';
import { limitsOf } from '../../src/dispatch/limits.ts';
import type { RequestSpec } from '../../src/dispatch/request.ts';
import { code } from '../../src/dispatch/request.ts';
import { isRunning, isWaiting, runStates } from '../../src/dispatch/run.ts';
import type { Action } from '../../src/domain/action.ts';
import type { PoolConfig } from '../../src/domain/config.ts';
import type { Adopted, Event, Orders } from '../../src/domain/event.ts';
import { reasons, unplannedReasons } from '../../src/domain/reason.ts';
import type { Leftover, State, WorkerSpec } from '../../src/domain/state.ts';
import { initialState } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createStepInvariants, hold } from '../domain/invariants.ts';
import type { Asked } from './asked.ts';
import { commandModels } from './asked.ts';
import { createCapacity } from './capacity.ts';
import type { Random } from './random.ts';
import { createTimeline } from './timeline.ts';
import type { Trace } from './trace.ts';
import type { Behaviour, Surroundings, UpFrame } from './worker.ts';
import { SimulatedWorker } from './worker.ts';

/** How long the loop lets a fact wait that was only mentioned; as in src/agent/loop.ts. */
const soonMs = 50;
const nothing = Buffer.alloc(0);
/** Wake-ups in a row at one time with nothing new: the agent would spin. */
const idleMost = 5;
/** Ends that somebody planned: no request may be lost to one, unless its worker was harmed besides. */
const planned: ReadonlySet<string> = new Set(reasons.filter((reason) => !unplannedReasons.has(reason)));

/** The whole agent but for its I/O, on a simulated host in virtual time: joined as src/agent/agent.ts and src/agent/effects.ts do. */
export class Host {
  state: State = initialState();
  nowMs = 1_000;
  finished = 0;
  /** What the host has. */
  availableBytes = 1e9;
  steps = 0;
  /** Draws how the next process behaves. */
  behave: () => Behaviour;
  readonly ended = new Map<string, number>();
  readonly open = new Map<string, Asked>();
  readonly #known = new Map<string, Asked>();
  readonly workers = new Map<string, SimulatedWorker>();
  dispatch: Dispatch;
  readonly random: Random;
  readonly #trace: Trace;
  readonly #invariants = createStepInvariants();
  readonly #capacity = createCapacity();
  readonly #timeline = createTimeline();
  readonly #configs = new Map<string, PoolConfig>();
  readonly #spawned = new Set<string>();
  /** Pool and slot of each worker until nothing is left of it. */
  readonly #slots = new Map<string, string>();
  /** What the next agent will find: workers, orders, and the config. */
  readonly #ledger = new Map<string, Omit<Adopted, 'pid'>>();
  #orders: Orders | null = null;
  #config: Event | null = null;
  /** Agents so far: what one was about to do when it died is not done. */
  #agents = 0;
  #events: Event[] = [];
  #turnAtMs = Number.POSITIVE_INFINITY;
  #wakeAtMs = Number.POSITIVE_INFINITY;
  #expireAtMs = Number.POSITIVE_INFINITY;
  #idle = 0;
  #nextPid = 100;
  #nextRequest = 1;
  #maxAttempts = 1;
  /** Which worker had each session's last request, by pool and session. */
  readonly #sessions = new Map<string, string>();
  readonly #surroundings: Surroundings;

  constructor(random: Random, trace: Trace, behave: () => Behaviour) {
    this.random = random;
    this.behave = behave;
    this.#trace = trace;
    this.#surroundings = {
      random,
      nowMs: () => this.nowMs,
      later: (ms, work) => this.later(ms, work),
      asked: (requestId) => this.#asked(requestId),
      served: (pool, sessionId, workerId) => this.#sessions.set(`${pool} ${sessionId}`, workerId),
      frame: (workerId, frame) => this.#receive(workerId, frame),
      linkClosed: (workerId) => this.tell({ type: 'link-closed', workerId }),
      exited: (workerId, exit) => this.tell({ type: 'exited', workerId, exit, lastLines: ['the end'] }),
    };
    this.dispatch = this.#newDispatch();
  }

  #newDispatch(): Dispatch {
    return createDispatch({
      nowMs: () => this.nowMs,
      onIdle: (workerId) => this.tell({ type: 'idle', workerId }),
      onBudgetSpent: (workerId) => this.tell({ type: 'budget-spent', workerId }),
      onOutcome: () => undefined,
      onFailed: () => undefined,
      onOverdue: (workerId, message) => this.tell({ type: 'overdue', workerId, message }),
      onPoisoned: (pool, message) => this.tell({ type: 'poisoned', pool, message }),
      checksum: crc32,
      fingerprint: ({ command, payload }) => `${command} ${payload.toString()}`,
      onDeadline: (atMs) => this.#arm(atMs),
      unclaimed: createMemoryBudget(512 * 1024 * 1024).account(),
    });
  }

  /** Decided in this turn. */
  tell(event: Event): void {
    if (event.type === 'config') this.#config = event;
    this.#events.push(event);
    this.#turnAtMs = this.nowMs;
  }

  /** Decided with the next step, or soon. */
  mention(event: Event): void {
    this.#events.push(event);
    this.#turnAtMs = Math.min(this.#turnAtMs, this.nowMs + soonMs);
  }

  later(ms: number, work: () => void): void {
    this.#timeline.at(this.nowMs + Math.max(0, ms), work);
  }

  /** As `later`, unless this agent is dead by then. */
  #laterHere(ms: number, work: () => void): void {
    const agent = this.#agents;
    this.later(ms, () => {
      if (agent === this.#agents) work();
    });
  }

  /** The agent is killed. The next one finds its ledger and its orders, and adopts what lives; callers are lost with the old one. */
  restart(): void {
    if (this.#config?.type !== 'config') return;
    this.#trace.note(this.nowMs, 'the agent is killed');
    const { pools } = this.#config.config;
    this.#agents += 1;
    this.state = initialState();
    this.#events = [];
    this.#turnAtMs = this.#wakeAtMs = this.#expireAtMs = Number.POSITIVE_INFINITY;
    this.#sessions.clear();
    this.#configs.clear();
    for (const asked of this.open.values()) {
      asked.ends += 1;
      this.ended.set('lost with its agent', (this.ended.get('lost with its agent') ?? 0) + 1);
    }
    this.open.clear();
    this.dispatch = this.#newDispatch();
    const [workers, leftovers]: [Adopted[], Leftover[]] = [[], []];
    for (const entry of this.#ledger.values()) {
      const worker = this.workers.get(entry.id);
      const wasAttached = worker?.attached === true;
      const goesOn = worker?.loseAgent() === true;
      if (worker?.alive === true && pools.has(entry.pool)) {
        workers.push({ ...entry, pid: worker.pid });
        if (!goesOn) worker.harmed = true;
        else if (wasAttached) worker.dialAgain(() => this.#attach(worker));
      } else {
        leftovers.push({ workerId: entry.id, pool: entry.pool, slot: entry.slot, generation: entry.generation });
        this.#laterHere(this.random.pick([0, 50, 5_000]), () => this.#sweepLeftover(entry.id));
      }
    }
    this.#invariants.nextAgent(workers, leftovers);
    this.tell(this.#config);
    // As they are read from the disk.
    if (this.#orders !== null) {
      this.tell({ type: 'recall-orders', orders: JSON.parse(JSON.stringify(this.#orders)) as Orders });
    }
    this.tell({ type: 'adopt', workers, leftovers });
    // It listens to nobody before that.
    this.#turn();
  }

  #sweepLeftover(workerId: string): void {
    this.workers.get(workerId)?.die('SIGKILL');
    this.workers.delete(workerId);
    this.#slots.delete(workerId);
    this.#ledger.delete(workerId);
    this.tell({ type: 'leftover-swept', workerId });
  }

  /** Lets time pass; stops early once `until` holds. False: it never did. */
  run(ms: number, until: () => boolean = () => false): boolean {
    const endsAtMs = this.nowMs + ms;
    for (;;) {
      if (until()) return true;
      const timers = Math.min(this.#turnAtMs, this.#wakeAtMs, this.#expireAtMs);
      const atMs = Math.min(timers, this.#timeline.nextAtMs());
      if (atMs > endsAtMs) {
        this.nowMs = Math.max(this.nowMs, endsAtMs);
        return until();
      }
      // After a time in which the agent was held up, all of it comes late, in order.
      if (atMs > this.nowMs) this.#idle = 0;
      this.nowMs = Math.max(this.nowMs, atMs);
      if (this.#turnAtMs <= atMs) this.#turn();
      else if (this.#timeline.nextAtMs() <= atMs) {
        this.#idle = 0;
        this.#timeline.take()?.();
      } else if (this.#expireAtMs <= atMs) this.#arm(this.dispatch.expire());
      else {
        this.#idle += 1;
        hold(this.#idle < idleMost, `${idleMost} wake-ups in a row at one time, with nothing new`);
        this.#turn();
      }
    }
  }

  /** The agent itself was held up: nothing was decided meanwhile. As in Node, its timers come before what was received. */
  lag(ms: number): void {
    this.nowMs += ms;
    if (this.#wakeAtMs <= this.nowMs) this.#turn();
    if (this.#expireAtMs <= this.nowMs) this.#arm(this.dispatch.expire());
  }

  submit(ask: Omit<RequestSpec, 'requestId' | 'payload' | 'contentType'>, payload: string): Asked {
    const requestId = String(this.#nextRequest++);
    const asked: Asked = {
      ask: { ...ask, requestId, contentType: '', payload: Buffer.from(payload === '' ? requestId : payload) },
      ...{ request: undefined, ends: 0, error: undefined, begun: 0, maxAttempts: this.#maxAttempts },
      answers: {
        chunk: () => hold(asked.ends === 0, `request ${requestId}: a chunk came after its end`),
        result: () => {
          this.#end(asked);
          return 0;
        },
        error: (error) => {
          asked.error = error;
          this.#end(asked);
        },
      },
    };
    this.open.set(requestId, asked);
    this.#known.set(requestId, asked);
    asked.request = this.dispatch.submit(asked.ask, asked.answers);
    if (asked.request === undefined) hold(asked.ends === 1, `request ${requestId} was refused, and not told so`);
    this.#checkQueue(asked);
    return asked;
  }

  /** Also one that has ended: its worker may be about to receive it. */
  #asked(requestId: string): Asked {
    const asked = this.#known.get(requestId);
    if (asked === undefined) throw new Error(`no request ${requestId}`);
    return asked;
  }

  #end(asked: Asked): void {
    asked.ends += 1;
    const { requestId } = asked.ask;
    hold(asked.ends === 1, `request ${requestId}: expected one end, got ${asked.ends}`);
    this.open.delete(requestId);
    const how = asked.error === undefined ? 'answered' : `code ${asked.error.code} ${asked.error.exitReason}`.trim();
    this.ended.set(how, (this.ended.get(how) ?? 0) + 1);
    this.#trace.note(this.nowMs, `request ${requestId} ends: ${how}`);
    if (asked.error?.code === code.unavailable && planned.has(asked.error.exitReason)) {
      const worker = this.workers.get(asked.error.workerId);
      hold(worker?.harmed === true, `request ${requestId} was lost to a planned end: ${asked.error.message}`);
    }
  }

  #arm(atMs: number): void {
    this.#expireAtMs = atMs === Number.POSITIVE_INFINITY ? atMs : Math.max(atMs, this.nowMs + 1);
  }

  #turn(): void {
    const events = this.#events;
    this.#events = [];
    this.#turnAtMs = Number.POSITIVE_INFINITY;
    if (events.length > 0) this.#idle = 0;
    this.steps += 1;
    for (const event of events) this.#trace.note(this.nowMs, event);
    const before = this.state;
    const next = step(before, events, {
      nowMs: this.nowMs,
      random: () => this.random.next(),
      counters: (workerId) => this.workers.get(workerId)?.counters,
      queued: (pool) => this.dispatch.poolStats(pool).queued,
    });
    this.state = next.state;
    this.#wakeAtMs = next.wakeAtMs;
    hold(next.wakeAtMs >= this.nowMs, `a wake-up in the past: ${next.wakeAtMs} at ${this.nowMs}`);
    for (const action of next.actions) this.#perform(action);
    this.#invariants.check(before, this.state, next.actions, (workerId) => this.#spawned.has(workerId));
    this.#capacity.check(before, this.state, events);
    this.#checkDispatch();
  }

  /** As src/agent/effects.ts does. */
  #perform(action: Action): void {
    this.#trace.note(this.nowMs, action);
    switch (action.type) {
      case 'spawn':
        this.#checkSlot(action.worker);
        this.#ledger.set(action.worker.id, { ...action.worker, spawnedAtMs: this.nowMs, readyAtMs: 0 });
        return this.#spawn(action.worker.id, action.pool);
      case 'set-pool':
        return this.#setPool(action.pool);
      case 'set-admission':
        return this.dispatch.setPoolOpen(action.pool, {
          ...{ open: action.open, reason: action.why, refuseQueued: action.refuseQueued },
        });
      case 'remove-pool':
        this.#configs.delete(action.pool);
        return this.dispatch.removePool(action.pool);
      case 'forget':
        this.#slots.delete(action.workerId);
        this.#ledger.delete(action.workerId);
        break;
      case 'note-ready': {
        const entry = this.#ledger.get(action.workerId);
        if (entry !== undefined) this.#ledger.set(entry.id, { ...entry, readyAtMs: action.readyAtMs });
        return;
      }
      case 'note-orders':
        this.#orders = action.orders;
        return;
      case 'sample-host':
        return this.#laterHere(1, () => this.mention({ type: 'host-sampled', availableBytes: this.availableBytes }));
      case 'finish':
        this.finished += 1;
        return;
    }
    if (action.type === 'record' && action.record.kind === 'worker_killed' && action.record.reason === 'hung') {
      const { workerId = '', message } = action.record;
      hold(this.workers.get(workerId)?.harmed === true, `${workerId} is killed as hung, and was well: ${message}`);
    }
    const worker = 'workerId' in action ? this.workers.get(action.workerId) : undefined;
    if (action.type === 'sweep') {
      const { workerId } = action;
      this.#laterHere(worker?.behaviour.sweepMs ?? 0, () => this.tell({ type: 'gone', workerId, survivors: [] }));
    }
    if (worker !== undefined) this.#performFor(worker, action);
  }

  #performFor(worker: SimulatedWorker, action: Action): void {
    const { workerId } = worker;
    switch (action.type) {
      case 'admit':
        return this.#admit(worker, action.maxRequests, action.paused);
      case 'pause':
        worker.paused = true;
        return this.dispatch.pauseWorker(workerId);
      case 'resume':
        worker.paused = false;
        return this.dispatch.resumeWorker(workerId);
      case 'ping':
        return worker.link.ping(action.sequence);
      case 'sample':
        return this.#sample(worker);
      case 'warm-up':
        return this.#laterHere(worker.behaviour.warmUpMs, () => {
          const error = worker.behaviour.warmUpFails ? 'ValueError: cold' : '';
          if (worker.alive) this.tell({ type: 'warmed', workerId, error });
        });
      case 'send-stop':
        return worker.link.stop();
      case 'terminate':
        return worker.terminate();
      case 'kill':
        return this.later(worker.behaviour.killMs, () => worker.die('SIGKILL'));
      case 'release': {
        worker.admitted = false;
        const lastBegunLinkId = worker.behaviour.marksBegun ? worker.lastBegunLinkId : null;
        const { reason, message, crashed } = action;
        return this.dispatch.removeWorker(workerId, { reason, message, crashed, lastBegunLinkId });
      }
      case 'forget':
        this.workers.delete(workerId);
        return;
    }
  }

  #setPool(pool: PoolConfig): void {
    this.#configs.set(pool.name, pool);
    this.#maxAttempts = Math.max(this.#maxAttempts, pool.request.maxAttempts);
    for (const asked of this.open.values()) asked.maxAttempts = this.#maxAttempts;
    this.dispatch.setPool(pool.name, limitsOf(pool));
  }

  /** An earlier agent's worker left processes, which are being ended. */
  leave(leftovers: readonly (Leftover & { readonly sweptAfterMs: number })[]): void {
    this.#invariants.nextAgent([], leftovers);
    this.tell({ type: 'adopt', workers: [], leftovers });
    for (const { workerId, pool, slot, sweptAfterMs } of leftovers) {
      this.#slots.set(workerId, `${pool} ${slot}`);
      this.later(sweptAfterMs, () => {
        this.#slots.delete(workerId);
        this.tell({ type: 'leftover-swept', workerId });
      });
    }
  }

  /** Processes that may use what a slot's number stands for, as the host sees them. */
  #checkSlot({ id, pool, slot }: WorkerSpec): void {
    const here = [...this.#slots.values()].filter((each) => each === `${pool} ${slot}`).length;
    const most = this.#configs.get(pool)?.recycle.maxSurge ?? 0;
    hold(here <= most, `${id} starts beside ${here} others of its slot: expected at most ${most}`);
    this.#slots.set(id, `${pool} ${slot}`);
  }

  #spawn(workerId: string, pool: PoolConfig): void {
    const behaviour = this.behave();
    if (behaviour.spawnMs === Number.POSITIVE_INFINITY) {
      this.#laterHere(1, () => this.tell({ type: 'spawn-failed', workerId, message: 'no such file' }));
      return;
    }
    this.#spawned.add(workerId);
    const worker = new SimulatedWorker(this.#surroundings, workerId, this.#nextPid++, pool, behaviour);
    this.workers.set(workerId, worker);
    this.#laterHere(behaviour.spawnMs, () => this.tell({ type: 'spawned', workerId, pid: worker.pid }));
    this.later(behaviour.spawnMs + behaviour.diesMs, () => {
      worker.harmed = true;
      worker.die(null, 1);
    });
    this.later(behaviour.spawnMs + behaviour.attachMs, () => {
      this.#attach(worker);
    });
  }

  #attach(worker: SimulatedWorker): void {
    const { workerId } = worker;
    // A token serves once, and a worker that was forgotten, or is ended as a leftover, has none.
    if (!worker.alive || this.workers.get(workerId) !== worker || this.state.node.leftovers.has(workerId)) return;
    worker.attached = true;
    worker.dials += 1;
    const hello = {
      commands: Object.entries(commandModels).map(([name, { streams }]) => ({ name, summary: '', streams })),
      sdkVersion: '1',
      pythonVersion: '3',
      start: { interpreterMs: 0, importMs: 0, hooksMs: 0 },
    };
    this.tell({ type: 'attached', workerId, hello });
  }

  #admit(worker: SimulatedWorker, maxRequests: number, paused: boolean): void {
    if (!worker.attached || worker.leaving) return;
    worker.admitted = true;
    worker.paused = paused;
    const commands = Object.entries(commandModels).map(([name, { streams, isAsync }]) => {
      return [name, { streams, isAsync }] as const;
    });
    this.dispatch.addWorker({
      workerId: worker.workerId,
      pool: worker.pool.name,
      concurrency: worker.pool.concurrency,
      maxRequests,
      commands: new Map(commands),
      marksBegun: worker.behaviour.marksBegun,
      lastBegunLinkId: () => (worker.behaviour.marksBegun ? worker.lastBegunLinkId : null),
      counters: worker.counters,
      link: worker.link,
      resumed: worker.dials > 1 ? worker.resumed() : null,
      paused,
    });
  }

  #sample(worker: SimulatedWorker): void {
    // Now and then the system does not tell.
    if (!worker.alive || this.random.chance(0.02)) return;
    const burnedMs = worker.burnsCpu || worker.running.size > 0 ? this.nowMs - worker.bornAtMs : 0;
    const sample = {
      rssBytes: worker.memoryBytes,
      pssBytes: worker.memoryBytes,
      cgroupBytes: 0,
      cpuMs: burnedMs,
      state: burnedMs > 0 ? 'R' : 'S',
    };
    this.#laterHere(this.random.int(0, 20), () => this.mention({ type: 'sampled', workerId: worker.workerId, sample }));
  }

  /** As src/agent/agent.ts does. */
  #receive(workerId: string, frame: UpFrame): void {
    this.#trace.note(this.nowMs, { type: 'frame', workerId, ...frame });
    const { pong, leaving, chunk, result, returned } = frame;
    if (pong !== undefined) {
      this.mention({
        type: 'pong',
        workerId,
        sequence: pong,
        atMs: this.nowMs,
        reported: { running: 0, oldestMs: 0, loopLagMs: 0 },
      });
    }
    if (leaving === true) {
      const worker = this.workers.get(workerId);
      if (worker !== undefined) worker.leaving = true;
      this.dispatch.onLeaving(workerId);
    }
    if (chunk !== undefined) this.dispatch.onChunk(workerId, chunk, nothing, '');
    if (result !== undefined) {
      const { linkId, error, ranMs } = result;
      this.dispatch.onResult(workerId, linkId, {
        ...{ payload: nothing, content_type: '', ran_us: Math.round(ranMs * 1_000) },
        error: error === 0 ? null : { code: error, type: 'E', message: 'alas', traceback: '' },
      });
    }
    if (returned !== undefined) this.dispatch.onReturned(workerId, returned);
    this.#checkDispatch();
  }

  /** What is queued at the door stays within its bounds; what comes back from workers has been let in before. */
  #checkQueue({ ask, request }: Asked): void {
    const config = this.#configs.get(ask.pool);
    if (request === undefined || !isWaiting(request) || config === undefined) return;
    const { queued, queuedBytes } = this.dispatch.poolStats(ask.pool);
    hold(
      queued <= config.queue.maxRequests,
      `pool ${ask.pool}: ${queued} requests wait, of ${config.queue.maxRequests}`,
    );
    hold(queuedBytes <= config.queue.maxBytes, `pool ${ask.pool}: ${queuedBytes} bytes wait`);
  }

  /** The numbers are true, no worker has too much, and none is free while what it could serve waits. */
  #checkDispatch(): void {
    for (const pool of this.#configs.keys()) {
      let [queued, queuedBytes, inFlight, free, served] = [0, 0, 0, '', 0];
      for (const { ask, request } of this.open.values()) {
        if (ask.pool !== pool || request === undefined) continue;
        hold(isWaiting(request) || isRunning(request), `request ${ask.requestId} is ${runStates[request.run]}`);
        if (!isWaiting(request)) continue;
        if (!this.#waitsForItsSession(ask)) served += 1;
        queued += 1;
        queuedBytes += request.payloadBytes;
      }
      for (const worker of this.workers.values()) {
        if (worker.pool.name !== pool || !worker.admitted) continue;
        const { counters, workerId } = worker;
        const most = worker.pool.concurrency + (worker.behaviour.marksBegun ? prefetchMax : 0);
        hold(counters.inFlight <= most, `${workerId} has ${counters.inFlight} requests, of ${most}`);
        inFlight += counters.inFlight;
        if (!worker.paused && !worker.leaving && counters.inFlight < worker.pool.concurrency) free = workerId;
      }
      const stats = this.dispatch.poolStats(pool);
      hold(stats.queued === queued, `pool ${pool}: ${queued} requests wait, its numbers say ${stats.queued}`);
      hold(stats.queuedBytes === queuedBytes, `pool ${pool}: ${queuedBytes} bytes wait, not ${stats.queuedBytes}`);
      hold(stats.inFlight === inFlight, `pool ${pool}: ${inFlight} in flight, its numbers say ${stats.inFlight}`);
      const waits = served > 0 && free !== '';
      hold(!waits, `${free} is free while ${served} requests of pool ${pool} wait that it could serve`);
    }
  }

  /** A strict session's requests wait while its own worker, which takes more of them, is full. */
  #waitsForItsSession({ pool, sessionId }: RequestSpec): boolean {
    if (this.#configs.get(pool)?.request.affinity !== 'strict' || sessionId === '') return false;
    const own = this.workers.get(this.#sessions.get(`${pool} ${sessionId}`) ?? '');
    if (own === undefined || !own.admitted) return false;
    return !own.paused && !own.leaving && own.counters.inFlight >= own.pool.concurrency;
  }
}
