import { expect } from 'vitest';
import type { Action } from '../../src/domain/action.ts';
import type { NodeConfig, PoolConfig } from '../../src/domain/config.ts';
import type { Adopted, Counters, Event, Orders, Sample } from '../../src/domain/event.ts';
import { stampOf } from '../../src/domain/intent.ts';
import type { Intent, Leftover, State, Worker } from '../../src/domain/state.ts';
import { initialState } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import type { Follower } from './follower.ts';
import { createFollower } from './follower.ts';
import { checkInherited, createStepInvariants } from './invariants.ts';

export function poolConfig(patch: Partial<PoolConfig> = {}): PoolConfig {
  return {
    name: 'p',
    app: 'm:app',
    python: 'python3',
    cwd: '/',
    env: {},
    size: 2,
    concurrency: 1,
    start: { mode: 'exec', timeoutMs: 5_000, parallel: 4, warmUp: null },
    heartbeat: { intervalMs: 1_000, timeoutMs: 3_000, maxMissed: 2, busyLimitMs: 20_000 },
    recycle: {
      maxAgeMs: 0,
      maxRequests: 0,
      maxIdleMs: 0,
      memory: { softBytes: 0, hardBytes: 0, samples: 2, of: 3 },
      jitter: 0,
      maxSurge: 1,
      maxUnavailable: 0,
      minLifetimeMs: 0,
    },
    restart: { backoffMinMs: 500, backoffMaxMs: 4_000, resetAfterMs: 30_000, quarantineAfter: 3 },
    drain: { timeoutMs: 10_000, killAfterMs: 4_000 },
    orphanTimeoutMs: 60_000,
    queue: { maxRequests: 10, maxBytes: 1_000 },
    request: {
      timeoutMs: 1_000,
      maxAttempts: 3,
      killAfterMs: 0,
      affinity: 'off',
      keep: { forMs: 5_000, maxResults: 100, maxBytes: 1_000 },
    },
    poison: { after: 0, forMs: 0 },
    limits: { pids: 0, memoryBytes: 0, openFiles: 0 },
    telemetry: { maxSeries: 1_000 },
    ...patch,
  };
}

export function nodeConfig(...pools: PoolConfig[]): NodeConfig {
  return { nodeId: 'n', memoryFloorBytes: 0, pools: new Map(pools.map((pool) => [pool.name, pool])) };
}

/** How a simulated worker behaves. A test may change it at any time. */
export interface ProcessBehaviour {
  spawnMs: number;
  /** The shortage of the host because of which it is not started. */
  shortage?: string | undefined;
  /** Infinite: it is never spawned, and the spawn is reported as failed. */
  attachMs: number;
  answersPings: boolean;
  /** How long after a stop message, and after SIGTERM, it exits; infinite: never. */
  stopMs: number;
  termMs: number;
  killMs: number;
  sweepMs: number;
  /** CPU time per second. */
  cpu: number;
  /** Share of a core; undefined: the system does not tell. */
  busiestThread?: number;
  memoryBytes: number;
  /** Its PSS, if that differs from its RSS. */
  pssBytes?: number;
  /** How its warm-up ends. */
  warmUp: 'well' | 'fails' | 'never';
}

export const healthy: ProcessBehaviour = {
  spawnMs: 1,
  attachMs: 200,
  answersPings: true,
  stopMs: 20,
  termMs: 20,
  killMs: 5,
  sweepMs: 5,
  cpu: 0,
  memoryBytes: 10,
  warmUp: 'well',
};

export interface Process {
  readonly workerId: string;
  readonly pid: number;
  readonly behaviour: ProcessBehaviour;
  readonly counters: { -readonly [K in keyof Counters]: Counters[K] };
  readonly bornAtMs: number;
  alive: boolean;
  attached: boolean;
  draining: boolean;
}

/** As in src/os/storage/ledger.ts. */
const diskTimeoutMs = 5_000;

/**
 * A host in virtual time: carries out the actions of `step` and reports their results. Checks the invariants after each
 * step.
 */
export class Simulation {
  state: State = initialState();
  nowMs = 1_000;
  behaviour: ProcessBehaviour = { ...healthy };
  finished = 0;
  /** How late its timers fire; all real timers are late. */
  timersLateMs = 0;
  queued = 0;
  /** The host's available memory. */
  availableBytes = 1_000_000;
  readonly processes = new Map<string, Process>();
  readonly actions: Action[] = [];
  readonly #frozen = new Map<Process, number>();
  readonly #invariants = createStepInvariants();
  #follower: Follower | null;
  /** What the next agent will find: workers, orders, and the config. */
  readonly #ledger = new Map<string, Omit<Adopted, 'pid'>>();
  #orders: Orders | null = null;
  /** Stored before it is acted on. */
  #intent: Intent | null = null;
  #diskHangs = false;
  #unwritten: (() => void)[] = [];
  #areOrdersWritten = true;
  #config: Event | null = null;
  /** Number of agents so far. Events on their way to an agent that has died are dropped. */
  #agents = 0;
  #later: { atMs: number; order: number; agent: number | null; run: () => Event | undefined }[] = [];
  #order = 0;
  #nextPid = 100;
  #seed = 12_345;
  #wakeAtMs = Number.POSITIVE_INFINITY;

  /** Without a follower, views are not compared with what Watch sends, which costs as much as the steps themselves. */
  constructor(follower: Follower | null = createFollower()) {
    this.#follower = follower;
  }

  /** Runs a step with these events. */
  apply(...events: Event[]): void {
    const before = this.state;
    for (const event of events) {
      if (event.type === 'config') this.#config = event;
      if (event.type === 'set-intent') this.#intent = event.intent;
      if (event.type === 'release-intent' && this.#intent !== null) this.#intent = { ...this.#intent, released: true };
      if (event.type === 'adopt') this.#invariants.nextAgent(event.workers, event.leftovers, this.#areOrdersWritten);
    }
    const next = step(before, events, {
      nowMs: this.nowMs,
      random: () => this.#random(),
      counters: (workerId) => this.processes.get(workerId)?.counters,
      queued: () => this.queued,
    });
    this.state = next.state;
    this.#wakeAtMs = next.wakeAtMs;
    if (!(next.wakeAtMs >= this.nowMs)) expect(next.wakeAtMs).toBeGreaterThanOrEqual(this.nowMs);
    for (const action of next.actions) this.#act(action);
    this.#invariants.check(before, next.state, next.actions, (workerId) => this.processes.has(workerId));
    this.#follower?.follow(next.state, next.actions);
  }

  /** Lets time pass; stops early once `until` holds. Returns whether it held. */
  run(ms: number, until: () => boolean = () => false): boolean {
    const endsAtMs = this.nowMs + ms;
    let idle = 0;
    for (;;) {
      if (until()) return true;
      const next = this.#earliest();
      const atMs = Math.min(next?.atMs ?? Number.POSITIVE_INFINITY, this.#wakeAtMs + this.timersLateMs);
      if (atMs > endsAtMs) {
        this.nowMs = endsAtMs;
        return until();
      }
      idle = atMs > this.nowMs ? 0 : idle + 1;
      this.nowMs = Math.max(this.nowMs, atMs);
      if (next === undefined || next.atMs > this.nowMs) {
        if (idle >= 5) expect(idle, 'wake-ups in a row at one time, with nothing new').toBeLessThan(5);
        this.apply();
        continue;
      }
      idle = 0;
      this.#later = this.#later.filter((entry) => entry !== next);
      if (next.agent !== null && next.agent !== this.#agents) continue;
      const event = next.run();
      if (event !== undefined) this.apply(event);
    }
  }

  /** Kills the agent. The next one finds its ledger and orders, and adopts live workers. */
  restart(): void {
    if (this.#config?.type !== 'config') return;
    const { pools } = this.#config.config;
    this.#agents += 1;
    // What its agent had not written by then is lost.
    this.#areOrdersWritten = this.#unwritten.length === 0;
    this.#unwritten = [];
    const [workers, leftovers]: [Adopted[], Leftover[]] = [[], []];
    for (const entry of this.#ledger.values()) {
      const process = this.processes.get(entry.id);
      if (process?.alive && pools.has(entry.pool)) {
        workers.push({ ...entry, pid: process.pid });
        if (process.attached) this.#laterOf(process, 20, () => this.#attach(process));
        process.attached = false;
      } else {
        leftovers.push({ workerId: entry.id, pool: entry.pool, slot: entry.slot, generation: entry.generation });
        this.#applyLater(process?.behaviour.sweepMs ?? 1, () => {
          if (process !== undefined) process.alive = false;
          this.#ledger.delete(entry.id);
          return { type: 'leftover-swept', workerId: entry.id };
        });
      }
    }
    this.state = initialState();
    if (this.#follower !== null) this.#follower = createFollower();
    // Copied, as if read from the disk.
    const orders = JSON.parse(JSON.stringify(this.#orders)) as Orders | null;
    const recalled: Event[] = orders === null ? [] : [{ type: 'recall-orders', orders }];
    if (this.#intent !== null) recalled.push({ type: 'recall-intent', intent: this.#intent, orders });
    this.apply(this.#config, ...recalled, { type: 'adopt', workers, leftovers });
    // Orders that are older than the intent give way to it.
    const holds = this.#intent === null || this.#intent.released || orders?.intent === stampOf(this.#intent);
    checkInherited(this.state, { pools, orders: holds ? orders : null, workers });
  }

  /** Until it is mended no start can be entered, and the next agent would find neither what is ordered nor who is ready. */
  set diskHangs(hangs: boolean) {
    this.#diskHangs = hangs;
    if (hangs) return;
    for (const write of this.#unwritten.splice(0)) write();
  }

  /** What is to be on the disk for the next agent. */
  #write(write: () => void): void {
    if (this.#diskHangs) this.#unwritten.push(write);
    else write();
  }

  #earliest() {
    let earliest = this.#later[0];
    for (const entry of this.#later) {
      if (earliest === undefined) break;
      if (entry.atMs < earliest.atMs || (entry.atMs === earliest.atMs && entry.order < earliest.order))
        earliest = entry;
    }
    return earliest;
  }

  workers(pool = 'p'): Worker[] {
    const found = [...this.state.workers.values()].filter((worker) => worker.pool === pool);
    return found.sort((a, b) => a.slot - b.slot || a.generation - b.generation);
  }

  ready(pool = 'p'): Worker[] {
    return this.workers(pool).filter((worker) => worker.phase === 'ready');
  }

  process(worker: Worker | undefined): Process {
    const found = this.processes.get(worker?.id ?? '');
    if (found === undefined) throw new Error(`no process of ${worker?.id}`);
    return found;
  }

  /** The process exits on its own. */
  die(process: Process, signal: string | null = 'SIGKILL', lastLines: readonly string[] = ['the end']): void {
    if (!process.alive) return;
    process.alive = false;
    const { workerId } = process;
    if (process.attached) this.#applyLater(0, () => ({ type: 'link-closed', workerId }));
    const exit = { code: signal === null ? 0 : null, signal };
    this.#applyLater(1, () => ({ type: 'exited', workerId, exit, lastLines }));
  }

  /** Its link breaks, and it dials again. */
  redial(process: Process, afterMs: number): void {
    process.attached = false;
    this.#laterOf(process, afterMs, () => this.#attach(process));
    this.apply({ type: 'link-closed', workerId: process.workerId });
  }

  kinds(): string[] {
    return this.actions.flatMap((action) => (action.type === 'record' ? [action.record.kind] : []));
  }

  #applyLater(ms: number, run: () => Event | undefined): void {
    if (ms === Number.POSITIVE_INFINITY) return;
    this.#later.push({ atMs: this.nowMs + ms, order: this.#order++, agent: this.#agents, run });
  }

  /** What a process does on its own, whichever agent runs by then. */
  #laterOf(process: Process, ms: number, run: () => Event | undefined): void {
    if (ms === Number.POSITIVE_INFINITY) return;
    const ifAlive = (): Event | undefined => (process.alive ? run() : undefined);
    this.#later.push({ atMs: this.nowMs + ms, order: this.#order++, agent: null, run: ifAlive });
  }

  #act(action: Action): void {
    this.actions.push(action);
    if (action.type === 'spawn') {
      const workerId = action.worker.id;
      if (this.#diskHangs) {
        return this.#applyLater(diskTimeoutMs, () => ({ type: 'start-blocked', workerId, message: 'the disk hangs' }));
      }
      this.#ledger.set(workerId, { ...action.worker, spawnedAtMs: this.nowMs, readyAtMs: 0 });
      return this.#spawn(workerId);
    }
    if (action.type === 'note-orders') {
      return this.#write(() => {
        this.#orders = action.orders;
      });
    }
    if (action.type === 'note-ready') {
      this.#write(() => {
        const entry = this.#ledger.get(action.workerId);
        if (entry !== undefined) this.#ledger.set(entry.id, { ...entry, readyAtMs: action.readyAtMs });
      });
    }
    if (action.type === 'forget') this.#write(() => this.#ledger.delete(action.workerId));
    if (action.type === 'sample-host') {
      return this.#applyLater(1, () => ({ type: 'host-sampled', availableBytes: this.availableBytes }));
    }
    if (action.type === 'finish') {
      this.finished += 1;
      return;
    }
    if (!('workerId' in action)) return;
    const process = this.processes.get(action.workerId);
    switch (action.type) {
      case 'ping':
        if (process?.alive && process.behaviour.answersPings) {
          this.#applyLater(2, () => ({
            type: 'pong',
            workerId: process.workerId,
            sequence: action.sequence,
            atMs: this.nowMs,
            reported: { running: 0, oldestMs: 0, loopLagMs: 0 },
          }));
        }
        return;
      case 'sample':
        if (process?.alive)
          this.#applyLater(1, () => ({
            type: 'sampled',
            workerId: process.workerId,
            sample: this.#sample(process, action),
          }));
        return;
      case 'warm-up': {
        const how = process?.behaviour.warmUp ?? 'never';
        if (process?.alive && how !== 'never') {
          const error = how === 'well' ? '' : 'ValueError: cold';
          this.#applyLater(50, () => ({ type: 'warmed', workerId: action.workerId, error }));
        }
        return;
      }
      case 'send-drain':
        if (process !== undefined) process.draining = true;
        return;
      case 'send-stop':
        if (process !== undefined) this.#laterOf(process, process.behaviour.stopMs, () => this.#leave(process, null));
        return;
      case 'terminate':
        if (process !== undefined)
          this.#laterOf(process, process.behaviour.termMs, () => this.#leave(process, 'SIGTERM'));
        return;
      case 'kill':
        if (process !== undefined)
          this.#laterOf(process, process.behaviour.killMs, () => this.#leave(process, 'SIGKILL'));
        return;
      case 'sweep':
        this.#applyLater(process?.behaviour.sweepMs ?? 1, () => ({
          type: 'gone',
          workerId: action.workerId,
          survivors: [],
        }));
        return;
    }
  }

  #leave(process: Process, signal: string | null): undefined {
    this.die(process, signal);
    return undefined;
  }

  /** From now on it uses no CPU time. */
  freezeCpu(process: Process, cpuMs: number): void {
    this.#frozen.set(process, cpuMs);
  }

  #sample(process: Process, asked: Action & { readonly type: 'sample' }): Sample {
    const { memoryBytes: rssBytes, pssBytes = 0 } = process.behaviour;
    const readsPss = rssBytes >= asked.pssAboveBytes || rssBytes < asked.pssBelowBytes;
    const cpuMs = this.#frozen.get(process) ?? process.behaviour.cpu * (this.nowMs - process.bornAtMs);
    const { busiestThread } = process.behaviour;
    const threads = asked.watched && busiestThread !== undefined ? { busiestThread } : {};
    return { rssBytes, pssBytes: readsPss ? pssBytes : 0, cgroupBytes: 0, cpuMs, ...threads, state: 'S' };
  }

  #spawn(workerId: string): void {
    const behaviour = { ...this.behaviour };
    const { shortage } = behaviour;
    if (shortage !== undefined) {
      this.#applyLater(1, () => ({ type: 'start-blocked', workerId, message: shortage }));
      return;
    }
    if (behaviour.spawnMs === Number.POSITIVE_INFINITY) {
      this.#applyLater(1, () => ({ type: 'spawn-failed', workerId, message: 'no such file' }));
      return;
    }
    const process: Process = {
      workerId,
      pid: this.#nextPid++,
      behaviour,
      counters: { inFlight: 0, kept: 0, completed: 0, failed: 0, lastEvidenceAtMs: 0 },
      bornAtMs: this.nowMs,
      alive: true,
      attached: false,
      draining: false,
    };
    this.processes.set(workerId, process);
    this.#applyLater(behaviour.spawnMs, () => ({ type: 'spawned', workerId, pid: process.pid }));
    this.#laterOf(process, behaviour.attachMs, () => this.#attach(process));
  }

  #attach(process: Process): Event {
    process.attached = true;
    return {
      type: 'attached',
      workerId: process.workerId,
      hello: {
        commands: [{ name: 'c', summary: '', streams: false }],
        sdkVersion: '1',
        pythonVersion: '3',
        start: { interpreterMs: 0, importMs: 0, hooksMs: 0 },
      },
    };
  }

  #random(): number {
    // Park and Miller's minimal standard generator, so that each run is the same.
    this.#seed = (this.#seed * 48_271) % 2_147_483_647;
    return this.#seed / 2_147_483_647;
  }
}
