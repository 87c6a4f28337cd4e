import type { NodeConfig, PoolConfig } from '../../src/domain/config.ts';
import type { Event, Orders } from '../../src/domain/event.ts';
import { stampOf } from '../../src/domain/intent.ts';
import type { Intent, Leftover } from '../../src/domain/state.ts';
import type { LedgerEntry } from '../../src/os/storage/ledger.ts';
import type { Survivor } from '../../src/workers/adopt.ts';
import { adoptedOf } from '../../src/workers/restore.ts';
import { checkInherited, hold } from '../domain/invariants.ts';
import type { FoundAtStart } from './agent.ts';
import { SimulatedAgent } from './agent.ts';
import type { AgentHost } from './agent-host.ts';
import type { Asked } from './asked.ts';
import { begin } from './asked.ts';
import { Callers } from './callers.ts';
import { Checks } from './checks.ts';
import { ControlPlane } from './control-plane.ts';
import { Disk } from './disk.ts';
import type { Traits } from './draw.ts';
import type { Random } from './random.ts';
import { createTimeline } from './timeline.ts';
import type { Trace } from './trace.ts';
import type { Surroundings, WorkerBehaviour } from './worker.ts';
import { SimulatedWorker } from './worker.ts';

const never = Number.POSITIVE_INFINITY;
/** How many microtasks to let pass: more than the longest chain of promises in the agent. */
const promisesInARow = 10;

/** A host in virtual time: its processes, its disk, its callers, and one agent after another. */
export class SimulatedHost {
  nowMs = 1_000;
  finished = 0;
  /** What the host has. */
  availableBytes = 1e9;
  /** Draws how the next process behaves. */
  behave: () => WorkerBehaviour;
  /** Undefined: the last one is dead, and the next has not come. */
  agent: SimulatedAgent | undefined;
  readonly processes = new Map<string, SimulatedWorker>();
  readonly disk: Disk;
  readonly callers: Callers;
  readonly random: Random;
  readonly checks: Checks;
  readonly #timeline = createTimeline();
  readonly #trace: Trace;
  readonly #agentHost: AgentHost;
  readonly #surroundings: Surroundings;
  /** The config as the file has it. */
  #config: NodeConfig;
  #agents = 0;
  #steps = 0;
  #laggedAtMs = 0;
  readonly controlPlane = new ControlPlane();
  #nextPid = 100;
  #maxAttempts = 1;
  #leastDrainMs = never;
  #isSettling = false;
  #failure: unknown;

  constructor(random: Random, trace: Trace, traits: Traits, config: NodeConfig, behave: () => WorkerBehaviour) {
    this.random = random;
    this.behave = behave;
    this.#trace = trace;
    this.#config = config;
    const later = (ms: number, work: () => void): void => this.later(ms, work);
    const shared = { random, trace, traits, processes: this.processes, nowMs: () => this.nowMs, later };
    this.disk = new Disk(random, later);
    this.checks = new Checks({ ...shared, disk: this.disk, laggedAtMs: () => this.#laggedAtMs });
    this.callers = new Callers({
      ...shared,
      agent: () => this.agent,
      leastDrainMs: () => this.#leastDrainMs,
    });
    this.#agentHost = {
      ...shared,
      ...{ disk: this.disk, checks: this.checks },
      availableBytes: () => this.availableBytes,
      start: (workerId, pool) => this.#startProcess(workerId, pool),
      gone: (workerId) => this.#gone(workerId),
      poolRemoved: (pool) => this.callers.poolRemoved(pool),
      settling: () => {
        this.#isSettling = true;
      },
      failed: (error) => {
        this.#failure ??= error;
      },
      finished: () => {
        this.finished += 1;
      },
    };
    this.#surroundings = {
      ...shared,
      sending: (worker, request) => {
        const asked = this.callers.find(request.request_id);
        if (this.agent !== undefined && asked !== undefined) this.checks.sending(this.agent, worker, request);
        return { request, asked, epoch: asked?.epoch ?? 0 };
      },
      begins: (asked, epoch) => {
        // Each agent counts the attempts of named requests anew.
        const most = this.#maxAttempts * (asked.spec.hasCallerId ? this.#agents : 1);
        begin(asked, epoch, this.nowMs, most);
      },
      dial: (worker, hello, link) => this.agent?.greet(worker, hello, link) ?? 'later',
      frame: (worker, link, frame) => this.agent?.frame(worker, link, frame),
      unsent: ({ workerId }, link, linkId) => {
        if (this.agent?.workers.isCurrent(workerId, link)) this.agent.dispatch.onReturned(workerId, [linkId]);
      },
      linkClosed: ({ workerId }, link) => this.agent?.workers.linkClosed(workerId, link),
      died: (worker) => {
        if (this.agent === undefined || worker.knownTo !== this.agent.number) this.callers.unknownLost(askedOf(worker));
      },
      exited: (worker, exit) => this.agent?.exited(worker, exit),
    };
    this.#noteConfig(config);
  }

  get steps(): number {
    return this.#steps + (this.agent?.steps ?? 0);
  }

  later(ms: number, work: () => void): void {
    this.#timeline.at(this.nowMs + Math.max(0, ms), work);
  }

  /** The control plane sends an intent, if there is an agent. */
  intend(): void {
    if (this.agent === undefined) return;
    this.controlPlane.send(this.agent, this.random).catch((error: unknown) => {
      this.#failure ??= error;
    });
    this.#isSettling = true;
  }

  /** To the agent, if there is one. */
  tell(event: Event): void {
    this.agent?.enqueue(event);
  }

  reload(config: NodeConfig): void {
    this.#config = config;
    this.#noteConfig(config);
    this.tell({ type: 'config', config });
  }

  #noteConfig({ pools }: NodeConfig): void {
    for (const { request, drain } of pools.values()) {
      this.#maxAttempts = Math.max(this.#maxAttempts, request.maxAttempts);
      this.#leastDrainMs = Math.min(this.#leastDrainMs, drain.timeoutMs);
    }
  }

  /** The agent is killed, and another is started so much later. */
  restart(afterMs: number): void {
    const { agent } = this;
    if (agent === undefined) return;
    this.#trace.note(this.nowMs, 'the agent is killed');
    this.checks.orders(agent);
    this.#steps += agent.steps;
    agent.isDead = true;
    this.agent = undefined;
    for (const worker of this.processes.values()) worker.loseLink(this.random.int(0, 900));
    const kept = [...this.processes.values()].filter((worker) => this.#isExpected(worker)).flatMap(askedOf);
    this.callers.agentDied(new Set(kept));
    this.later(afterMs, () => this.start());
  }

  /** Whether the next agent will wait for it before it gives what it may have to others. */
  #isExpected({ alive, workerId }: SimulatedWorker): boolean {
    const entry = this.disk.entries.get(workerId);
    return alive && entry?.state === 'ready' && this.#config.pools.has(entry.pool);
  }

  /** The next agent starts, with what it finds. `left`: what an earlier one left that this host does not simulate. */
  start(left: readonly (Leftover & { readonly sweptAfterMs: number })[] = []): void {
    // It reads its ledger first.
    if (this.disk.mood === 'hung') return this.later(100, () => this.start(left));
    const found = this.#find(left);
    this.#agents += 1;
    this.agent = new SimulatedAgent(this.#agentHost, this.#agents);
    const survivors = found.survivors.map(({ entry }) => leftoverOf(entry));
    this.checks.nextAgent(survivors, found.leftovers);
    this.agent.open(found);
    const { agent } = this;
    const { config, orders } = found;
    // Orders that are older than the intent give way to it.
    const holds = found.intent === null || orders?.intent === stampOf(found.intent);
    const inherited = { pools: config.pools, orders: holds ? orders : null, workers: found.survivors.map(adoptedOf) };
    checkInherited(agent.state, inherited);
    this.controlPlane.nextAgent(agent);
    for (const { workerId } of found.leftovers) {
      const ms = left.find((each) => each.workerId === workerId)?.sweptAfterMs ?? this.random.pick([0, 50, 5_000]);
      agent.later(ms, () => {
        this.processes.get(workerId)?.die({ code: null, signal: 'SIGKILL' });
        this.#gone(workerId);
        agent.enqueue({ type: 'leftover-swept', workerId });
        agent.ledger.forget(workerId);
      });
    }
  }

  #find(left: readonly Leftover[]): FoundAtStart {
    const survivors: Survivor[] = [];
    const leftovers = left.map(({ workerId, pool, slot, generation }) => ({ workerId, pool, slot, generation }));
    for (const entry of this.disk.entries.values()) {
      const pool = this.#config.pools.get(entry.pool);
      const worker = this.processes.get(entry.worker_id);
      if (worker?.alive === true && pool !== undefined) {
        survivors.push({ entry, pool, identity: { bootId: 'b', pid: worker.pid, startTime: '1' } });
      } else leftovers.push(leftoverOf(entry));
    }
    const orders = this.disk.orders === '' ? null : (JSON.parse(this.disk.orders) as Orders);
    const intent = this.disk.intent === '' ? null : (JSON.parse(this.disk.intent) as Intent);
    return { config: this.#config, orders, intent, survivors, leftovers };
  }

  #startProcess(workerId: string, pool: PoolConfig): SimulatedWorker | 'start-blocked' | 'spawn-failed' {
    const behaviour = this.behave();
    if (behaviour.isBlocked) return 'start-blocked';
    if (behaviour.spawnMs === never) return 'spawn-failed';
    const worker = new SimulatedWorker(this.#surroundings, workerId, this.#nextPid++, pool, behaviour);
    this.processes.set(workerId, worker);
    this.checks.spawned(workerId);
    return worker;
  }

  #gone(workerId: string): void {
    this.checks.gone(workerId);
    this.processes.delete(workerId);
  }

  /** Lets time pass; stops early once `until` holds. False: it never did. */
  async run(ms: number, until: () => boolean = () => false): Promise<boolean> {
    const endsAtMs = this.nowMs + ms;
    for (;;) {
      if (until()) return true;
      const atMs = Math.min(this.agent?.nextAtMs() ?? never, this.#timeline.nextAtMs());
      if (atMs > endsAtMs) {
        this.nowMs = Math.max(this.nowMs, endsAtMs);
        return until();
      }
      // After a time in which the agent was held up, all of it comes late, in order.
      if (atMs > this.nowMs) this.agent?.isNew();
      this.nowMs = Math.max(this.nowMs, atMs);
      this.#next(atMs);
      if (this.#isSettling) await this.#settle();
      if (this.#failure !== undefined) throw this.#failure;
    }
  }

  #next(atMs: number): void {
    if (this.agent?.runTurn(atMs) === true) return;
    if (this.#timeline.nextAtMs() <= atMs) {
      this.agent?.isNew();
      this.#timeline.take()?.();
    } else this.agent?.runTimers(atMs);
  }

  /** What waits for promises goes on before anything else happens, as in Node. */
  async #settle(): Promise<void> {
    this.#isSettling = false;
    for (let at = 0; at < promisesInARow; at += 1) await null;
  }

  /** The agent itself was held up: nothing was decided meanwhile. */
  lag(ms: number): void {
    this.nowMs += ms;
    this.#laggedAtMs = this.nowMs;
    this.agent?.catchUp();
  }

  /** The agent that there is; after its death: the next one. */
  async nextAgent(withinMs: number): Promise<SimulatedAgent> {
    await this.run(withinMs, () => this.agent !== undefined);
    hold(this.agent !== undefined, 'the next agent never came');
    return this.agent as SimulatedAgent;
  }
}

function leftoverOf({ worker_id: workerId, pool, slot, generation }: LedgerEntry): Leftover {
  return { workerId, pool, slot, generation };
}

/** What it has of requests that have not become others. */
function askedOf({ session }: SimulatedWorker): Asked[] {
  const found: Asked[] = [];
  for (const { asked, epoch } of session.held.values()) if (asked?.epoch === epoch) found.push(asked);
  return found;
}
