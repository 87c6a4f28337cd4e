import { newCounters } from '../../src/dispatch/counters.ts';
import type { LinkRequest, RequestLink, Resumed } from '../../src/dispatch/worker.ts';
import type { PoolConfig } from '../../src/domain/config.ts';
import { hold } from '../domain/invariants.ts';
import type { Asked, CommandModel } from './asked.ts';
import { commandModels } from './asked.ts';
import type { Random } from './random.ts';

/** How one simulated process behaves; drawn at its birth. */
export interface Behaviour {
  /** Infinite: it is never spawned, and says so. */
  readonly spawnMs: number;
  /** From its spawn; infinite: it never attaches. */
  readonly attachMs: number;
  /** It dies so long after its spawn; infinite: it does not by itself. */
  readonly diesMs: number;
  readonly marksBegun: boolean;
  /** What it takes to leave when it is asked, on SIGTERM, on SIGKILL; infinite: it does not. */
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

/** What a simulated worker needs of its host. */
export interface Surroundings {
  readonly random: Random;
  nowMs(): number;
  /** Does it later, unless that is never. */
  later(ms: number, work: () => void): void;
  asked(requestId: string): Asked;
  /** A worker was given a request of a session. */
  served(pool: string, sessionId: string, workerId: string): void;
  /** A frame arrives at the agent. */
  frame(workerId: string, frame: UpFrame): void;
  linkClosed(workerId: string): void;
  exited(workerId: string, exit: { code: number | null; signal: string | null }): void;
}

export interface UpFrame {
  readonly pong?: number;
  readonly leaving?: boolean;
  readonly returned?: readonly number[];
  readonly chunk?: number;
  readonly result?: { readonly linkId: number; readonly error: number; readonly ranMs: number };
}

interface Held {
  readonly linkId: number;
  readonly asked: Asked;
  readonly model: CommandModel;
  begunAtMs: number;
  cancelled: boolean;
}

/** A process with its link, as src/workers holds it: messages take their time, and a death loses what is on its way. */
export class SimulatedWorker {
  readonly counters = newCounters();
  readonly bornAtMs: number;
  alive = true;
  attached = false;
  dials = 0;
  /** Dispatch may give it requests: admitted, and neither paused nor leaving nor released. */
  admitted = false;
  paused = false;
  leaving = false;
  /** Something was done to it that no worker need survive. */
  harmed = false;
  /** Until then it does nothing, in virtual time. */
  frozenUntilMs = 0;
  burnsCpu = false;
  memoryBytes = 100;
  lastBegunLinkId = 0;
  readonly running = new Map<number, Held>();
  readonly waiting: Held[] = [];
  readonly link: RequestLink & { ping(sequence: number): void; stop(): void };
  readonly workerId: string;
  readonly pid: number;
  readonly pool: PoolConfig;
  readonly behaviour: Behaviour;
  #stopping = false;
  #lastId = 0;
  /** Links so far: what was on its way on one that has closed is lost. */
  #links = 0;
  #unwritten: LinkRequest[] = [];
  #downFreeAtMs = 0;
  #upFreeAtMs = 0;
  readonly #host: Surroundings;

  constructor(host: Surroundings, workerId: string, pid: number, pool: PoolConfig, behaviour: Behaviour) {
    this.workerId = workerId;
    this.pid = pid;
    this.pool = pool;
    this.behaviour = behaviour;
    this.bornAtMs = host.nowMs();
    this.#host = host;
    this.link = {
      request: (request) => {
        hold(this.admitted && !this.paused && !this.leaving, `${workerId} was given a request, and takes none`);
        if (this.#unwritten.length === 0) host.later(this.#jitterMs(), () => this.#write());
        this.#unwritten.push(request);
        if (request.session_id !== '') host.served(this.pool.name, request.session_id, workerId);
      },
      cancel: (linkId) => this.#down(() => this.#cancel(linkId)),
      ack: () => undefined,
      replay: () => undefined,
      pause: () => undefined,
      resume: () => undefined,
      recall: () => {
        const linkIds = this.#unwritten.map(({ id }) => id);
        this.#unwritten = [];
        this.#down(() => this.#giveBack());
        return linkIds;
      },
      unwritten: () => new Set(this.#unwritten.map(({ id }) => id)),
      ping: (sequence) => this.#down(() => this.#up({ pong: sequence })),
      stop: () => this.#down(() => this.#stop()),
    };
  }

  /** Ends now. What it had is lost, and what it said last may be too. */
  die(signal: string | null, code: number | null = null): void {
    if (!this.alive) return;
    this.alive = false;
    const { random } = this.#host;
    // In either order: the link's end and the process's are two facts.
    if (this.attached && random.chance(0.9)) {
      this.#host.later(random.int(0, 5), () => this.#host.linkClosed(this.workerId));
    }
    const lateMs = random.chance(0.05) ? random.int(100, 3_000) : random.int(0, 5);
    const exit = { code: signal === null ? (code ?? 0) : null, signal };
    this.#host.later(lateMs, () => this.#host.exited(this.workerId, exit));
    if (random.chance(0.05)) this.#host.later(lateMs + 500, () => this.#host.exited(this.workerId, exit));
  }

  /** Its agent is gone, and its link with it. False: it leaves, and dials nobody any more. */
  loseAgent(): boolean {
    this.#links += 1;
    this.attached = this.admitted = this.paused = false;
    this.#unwritten = [];
    this.waiting.length = 0;
    Object.assign(this.counters, newCounters());
    return this.alive && !this.#stopping && !this.leaving;
  }

  /** It dials the next agent, once it can. */
  dialAgain(dialled: () => void): void {
    this.#own(this.#host.random.int(0, 500), dialled);
  }

  /** What it tells the next agent of what it runs: its callers are gone, and nobody will ask for it. */
  resumed(): Resumed {
    const held = [...this.running.values()].map(({ linkId, asked, begunAtMs, cancelled }) => ({
      ...{ id: linkId, request_id: asked.ask.requestId, command: asked.ask.command, keep: false, ended: false },
      ...{ remaining_ms: 0, age_ms: this.#host.nowMs() - begunAtMs, payload_bytes: 0, payload_crc32: 0, cancelled },
    }));
    return { last_id: this.#lastId, completed: 0, failed: 0, held };
  }

  freeze(ms: number, burnsCpu: boolean): void {
    this.frozenUntilMs = Math.max(this.frozenUntilMs, this.#host.nowMs() + ms);
    this.burnsCpu = burnsCpu;
  }

  /** SIGTERM, from whomever: it takes no more, and leaves once what runs has ended. */
  terminate(): void {
    this.#host.later(this.behaviour.termMs, () => {
      if (!this.alive) return;
      if (!this.attached) return this.die('SIGTERM');
      this.#up({ leaving: true });
      this.#giveBack();
      this.#stop();
    });
  }

  /** What it does later it does only while it lives, and not while it is frozen. */
  #own(ms: number, work: () => void): void {
    this.#host.later(ms, () => {
      if (!this.alive) return;
      const frozenMs = this.frozenUntilMs - this.#host.nowMs();
      if (frozenMs > 0) this.#own(frozenMs, work);
      else work();
    });
  }

  #jitterMs(): number {
    return this.behaviour.latencyMs * (0.5 + this.#host.random.next());
  }

  /** In order, as the stream is. */
  #down(work: () => void): void {
    const nowMs = this.#host.nowMs();
    this.#downFreeAtMs = Math.max(this.#downFreeAtMs, nowMs + this.#jitterMs());
    const link = this.#links;
    this.#own(this.#downFreeAtMs - nowMs, () => {
      if (link === this.#links) work();
    });
  }

  #up(frame: UpFrame): void {
    const nowMs = this.#host.nowMs();
    this.#upFreeAtMs = Math.max(this.#upFreeAtMs, nowMs + this.#jitterMs());
    const saidBefore = this.#upFreeAtMs;
    const link = this.#links;
    this.#host.later(saidBefore - nowMs, () => {
      if (link !== this.#links) return;
      // What a dead process said last arrives, or is lost; nothing overtakes it.
      if (this.alive || this.#host.random.chance(0.7)) this.#host.frame(this.workerId, frame);
    });
  }

  #write(): void {
    const requests = this.#unwritten;
    this.#unwritten = [];
    if (requests.length > 0) this.#down(() => this.#receive(requests));
  }

  #receive(requests: readonly LinkRequest[]): void {
    for (const request of requests) {
      this.#lastId = request.id;
      const asked = this.#host.asked(request.request_id);
      const model = commandModels[request.command];
      if (model === undefined) throw new Error(`no command ${request.command}`);
      this.waiting.push({ linkId: request.id, asked, model, begunAtMs: 0, cancelled: false });
    }
    if (this.#stopping) this.#giveBack();
    else this.#begin();
  }

  #begin(): void {
    while (this.alive && !this.#stopping && this.running.size < this.pool.concurrency) {
      const held = this.waiting.shift();
      if (held === undefined) return;
      held.begunAtMs = this.#host.nowMs();
      this.running.set(held.linkId, held);
      if (held.linkId > this.lastBegunLinkId) this.lastBegunLinkId = held.linkId;
      held.asked.begun += 1;
      const { ask, begun, maxAttempts } = held.asked;
      const most = ask.idempotent ? maxAttempts : 1;
      hold(begun <= most, `request ${ask.requestId} may run ${most} times, and runs the ${begun}. time`);
      this.#run(held);
    }
  }

  #run(held: Held): void {
    const { random } = this.#host;
    const { leastMs, mostMs, crashes, streams } = held.model;
    const ms = leastMs + random.next() * (mostMs - leastMs);
    if (streams) {
      this.#own(ms / 2, () => {
        if (!held.cancelled) this.#up({ chunk: held.linkId });
      });
    }
    this.#own(ms, () => {
      if (!this.running.has(held.linkId)) return;
      if (random.chance(crashes)) {
        this.harmed = true;
        this.die('SIGSEGV');
      } else this.#answer(held, random.chance(0.02) ? 2 : 0);
    });
  }

  #answer(held: Held, error: number): void {
    this.running.delete(held.linkId);
    this.memoryBytes += held.model.leaks;
    const ranMs = held.begunAtMs === 0 ? 0 : Math.max(0.001, this.#host.nowMs() - held.begunAtMs);
    this.#up({ result: { linkId: held.linkId, error, ranMs } });
    if (this.#stopping && this.running.size === 0) this.#leave();
    else this.#begin();
  }

  #cancel(linkId: number): void {
    const at = this.waiting.findIndex((held) => held.linkId === linkId);
    const waits = this.waiting[at];
    if (waits !== undefined) {
      this.waiting.splice(at, 1);
      this.#up({ result: { linkId, error: 1, ranMs: 0 } });
    }
    const runs = this.running.get(linkId);
    if (runs === undefined || this.behaviour.ignoresCancels) return;
    runs.cancelled = true;
    this.#own(1, () => {
      if (this.running.has(linkId)) this.#answer(runs, 1);
    });
  }

  #giveBack(): void {
    const returned = this.waiting.splice(0).map(({ linkId }) => linkId);
    if (returned.length > 0) this.#up({ returned });
  }

  #stop(): void {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#giveBack();
    if (this.running.size === 0) this.#leave();
  }

  #leave(): void {
    this.#own(this.behaviour.stopMs, () => this.die(null));
  }
}
