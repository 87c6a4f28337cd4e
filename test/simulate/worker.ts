import type { LinkRequest } from '../../src/dispatch/worker.ts';
import type { PoolConfig } from '../../src/domain/config.ts';
import type { Exit } from '../../src/domain/state.ts';
import type { WorkerFrame, WorkerHello } from '../../src/grpc/worker-link/source.ts';
import type { Asked } from './asked.ts';
import { commandModels } from './asked.ts';
import type { SentRequest } from './link.ts';
import { SimulatedLink } from './link.ts';
import type { Random } from './random.ts';
import { Session } from './session.ts';

/** How one simulated process behaves; drawn at its birth. */
export interface WorkerBehaviour {
  /** The host has no room for it: it is not started. */
  readonly isBlocked: boolean;
  /** Infinite: it is never spawned, and says so. */
  readonly spawnMs: number;
  /** From its spawn until it dials; infinite: it never does. */
  readonly attachMs: number;
  /** It dies so long after its spawn; infinite: it does not by itself. */
  readonly diesMs: number;
  readonly marksBegun: boolean;
  /** How long the worker takes to leave when it is asked, on SIGTERM, and on SIGKILL, in ms; infinite: it does not leave. */
  readonly stopMs: number;
  readonly termMs: number;
  readonly killMs: number;
  readonly sweepMs: number;
  /** Of its link, either way. */
  readonly latencyMs: number;
  /** It goes on with what is cancelled. */
  readonly ignoresCancels: boolean;
  readonly warmUpMs: number;
  readonly warmUpFails: boolean;
}

/** How an agent took a hello. `later`: nobody listens, or the link before has not ended for it. */
export type Greeting = 'welcome' | 'later' | 'refused';

/** What a simulated worker needs of its host. */
export interface Surroundings {
  readonly random: Random;
  nowMs(): number;
  /** Does it later, unless that is never. */
  later(ms: number, work: () => void): void;
  sending(worker: SimulatedWorker, request: LinkRequest): SentRequest;
  begins(asked: Asked, epoch: number): void;
  dial(worker: SimulatedWorker, hello: WorkerHello, link: SimulatedLink): Greeting;
  frame(worker: SimulatedWorker, link: SimulatedLink, frame: WorkerFrame): void;
  unsent(worker: SimulatedWorker, link: SimulatedLink, linkId: number): void;
  linkClosed(worker: SimulatedWorker, link: SimulatedLink): void;
  died(worker: SimulatedWorker): void;
  exited(worker: SimulatedWorker, exit: Exit): void;
}

/** A process with its session and its links: what it does takes its time, and a death loses what is on its way. */
export class SimulatedWorker {
  readonly bornAtMs: number;
  alive = true;
  /** Null: it lives, or its end has not been seen yet. */
  exit: Exit | null = null;
  /** Something was done to it that no worker need survive. */
  harmed = false;
  /** The number of the agent whose dispatch knows what it has; 0: none does. */
  knownTo = 0;
  /** How many of its links broke, also by the death of an agent. What was on them is lost. */
  linksLost = 0;
  /** When it last had a request, or a message on its way. */
  busyAtMs = 0;
  burnsCpu = false;
  memoryBytes = 100;
  readonly session: Session;
  readonly workerId: string;
  readonly pid: number;
  readonly pool: PoolConfig;
  readonly behaviour: WorkerBehaviour;
  /** Until then it does nothing, in virtual time. */
  #frozenUntilMs = 0;
  #wasWelcome = false;
  /** Its application has asked for its replacement: it leaves as one that stops, but not for want of a link. */
  #isRetiring = false;
  /** Since when it has no agent. */
  #aloneSinceMs: number;
  #isDialling = false;
  readonly #host: Surroundings;

  constructor(host: Surroundings, workerId: string, pid: number, pool: PoolConfig, behaviour: WorkerBehaviour) {
    this.workerId = workerId;
    this.pid = pid;
    this.pool = pool;
    this.behaviour = behaviour;
    this.bornAtMs = this.#aloneSinceMs = host.nowMs();
    this.#host = host;
    this.session = new Session({
      ...{ random: host.random, concurrency: pool.concurrency, keepMs: pool.request.keep.forMs },
      ...{ ignoresCancels: behaviour.ignoresCancels, warmUpMs: behaviour.warmUpMs, warmUpFails: behaviour.warmUpFails },
      nowMs: host.nowMs,
      later: (ms, work) => this.#own(ms, work),
      crash: () => {
        this.harmed = true;
        this.die({ code: null, signal: 'SIGSEGV' });
      },
      leak: (bytes) => {
        this.memoryBytes += bytes;
      },
      begins: host.begins,
      leave: () => this.#own(behaviour.stopMs, () => this.die({ code: 0, signal: null })),
    });
    host.later(behaviour.spawnMs + behaviour.diesMs, () => {
      this.harmed = true;
      this.die({ code: 1, signal: null });
    });
    this.#own(behaviour.spawnMs + behaviour.attachMs, () => this.#dial());
  }

  /** Ends now. What it had is lost, and what it said last may be too. */
  die(exit: Exit): void {
    if (!this.alive) return;
    this.alive = false;
    const { random, later } = this.#host;
    const { link } = this.session;
    this.#host.died(this);
    // In either order: the link's end and the process's are two facts.
    if (link !== null && random.chance(0.9)) later(random.int(0, 5), () => this.#host.linkClosed(this, link));
    const lateMs = random.chance(0.05) ? random.int(100, 3_000) : random.int(0, 5);
    later(lateMs, () => this.#exited(exit));
    if (random.chance(0.05)) later(lateMs + 500, () => this.#exited(exit));
  }

  /** Its link breaks, or its agent has died. It dials again, unless it was leaving. */
  loseLink(afterMs: number): void {
    const { link } = this.session;
    if (!this.alive || link === null) return;
    this.session.detach();
    this.linksLost += 1;
    this.#aloneSinceMs = this.#host.nowMs();
    this.#host.later(this.#host.random.int(0, 5), () => this.#host.linkClosed(this, link));
    if (this.session.isStopping && !this.#isRetiring) {
      // Nobody is left to take the answers of what still runs.
      this.harmed = true;
      return this.die({ code: 1, signal: null });
    }
    this.#own(afterMs, () => this.#dial());
  }

  freeze(ms: number, burnsCpu: boolean): void {
    this.harmed = true;
    this.#frozenUntilMs = Math.max(this.#frozenUntilMs, this.#host.nowMs() + ms);
    this.burnsCpu = burnsCpu;
  }

  /** SIGTERM, from whomever: it takes no more, and leaves once what runs has ended. */
  terminate(): void {
    this.#host.later(this.behaviour.termMs, () => {
      if (!this.alive) return;
      if (!this.#wasWelcome) return this.die({ code: null, signal: 'SIGTERM' });
      this.#isRetiring = false;
      this.session.link?.say({ leaving: true });
      this.session.stop();
    });
  }

  /** It asks to be replaced, and leaves once what runs has ended. */
  retire(): void {
    if (!this.alive || this.session.link === null || this.session.isStopping) return;
    this.#isRetiring = true;
    this.session.link.say({ leaving: true, leaving_reason: 'worn out' });
    this.session.stop();
  }

  /** Does the work later, but only while the worker lives and is not frozen. */
  #own(ms: number, work: () => void): void {
    this.#host.later(ms, () => {
      if (!this.alive) return;
      const frozenMs = this.#frozenUntilMs - this.#host.nowMs();
      if (frozenMs > 0) this.#own(frozenMs, work);
      else work();
    });
  }

  #exited(exit: Exit): void {
    this.exit = exit;
    this.#host.exited(this, exit);
  }

  #dial(): void {
    const { session } = this;
    if (session.link !== null || this.#isDialling) return;
    const { random, nowMs } = this.#host;
    const link = this.#newLink();
    session.link = link;
    const greeting = this.#host.dial(this, this.#hello(), link);
    if (greeting === 'welcome') {
      this.#wasWelcome = true;
      if (session.isStopping) link.say({ leaving: true });
      return;
    }
    session.link = null;
    if (greeting === 'refused' || nowMs() - this.#aloneSinceMs > this.pool.orphanTimeoutMs) {
      return this.die({ code: 1, signal: null });
    }
    this.#isDialling = true;
    this.#own(random.int(20, 200), () => {
      this.#isDialling = false;
      this.#dial();
    });
  }

  #hello(): WorkerHello {
    const commands = Object.entries(commandModels).map(([name, { chunks, isAsync }]) => {
      return { name, summary: '', streams: chunks > 0, is_async: isAsync };
    });
    return {
      ...{ protocol: 1, worker_id: this.workerId, token: '', pid: this.pid, commands, sdk_version: '1' },
      ...{ python_version: '3', marks_begun: this.behaviour.marksBegun, writes_stacks: false },
      ...{ interpreter_ms: 0, import_ms: 0, hooks_ms: 0 },
      resumed: this.#wasWelcome ? this.session.resumed() : null,
    };
  }

  #newLink(): SimulatedLink {
    const host = this.#host;
    return new SimulatedLink({
      latencyMs: () => this.behaviour.latencyMs * (0.5 + host.random.next()),
      nowMs: host.nowMs,
      later: host.later,
      laterInWorker: (ms, work) => this.#own(ms, work),
      outlivesWorker: () => this.alive || host.random.chance(0.7),
      sending: (request) => host.sending(this, request),
      worker: this.session,
      frame: (link, frame) => host.frame(this, link, frame),
      unsent: (link, linkId) => host.unsent(this, link, linkId),
    });
  }
}
