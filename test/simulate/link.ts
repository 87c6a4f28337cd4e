import type { LinkRequest } from '../../src/dispatch/worker.ts';
import type { ProvenLink, WorkerFrame } from '../../src/grpc/worker-link/source.ts';
import type { Asked } from './asked.ts';

/** A request on its way to a worker, and which of those with its name it is. */
export interface SentRequest {
  readonly request: LinkRequest;
  /** Undefined: a warm-up. */
  readonly asked: Asked | undefined;
  readonly epoch: number;
}

/** What a link needs of its two ends. */
export interface LinkEnds {
  /** Of one message. */
  latencyMs(): number;
  nowMs(): number;
  later(ms: number, work: () => void): void;
  /** As `later`, but not while the worker is frozen, nor once it has died. */
  laterInWorker(ms: number, work: () => void): void;
  /** Whether what the worker said last arrives, although it has died since. */
  outlivesWorker(): boolean;
  /** The agent gives the request to this link. */
  sending(request: LinkRequest): SentRequest;
  worker: {
    receive(requests: readonly SentRequest[]): void;
    cancel(linkId: number): void;
    ack(linkId: number): void;
    replay(linkId: number): void;
    giveBack(): void;
    ping(sequence: number): void;
    stop(): void;
  };
  frame(link: SimulatedLink, frame: WorkerFrame): void;
  unsent(link: SimulatedLink, linkId: number): void;
}

const silence: WorkerFrame = {
  ...{ hello: null, pong: null, leaving: false, leaving_reason: '', replayed: [], returned: [] },
  ...{ chunks: [], results: [], progress: [], telemetry: Buffer.alloc(0) },
};

/** One link between an agent and a worker: each message takes its time, none overtakes another, and a break loses them. */
export class SimulatedLink implements ProvenLink {
  isOpen = true;
  /** Messages that have not arrived. */
  #underway = 0;
  #unwritten: SentRequest[] = [];
  #downFreeAtMs = 0;
  #upFreeAtMs = 0;
  readonly #ends: LinkEnds;

  constructor(ends: LinkEnds) {
    this.#ends = ends;
  }

  /** Nothing is on its way. */
  get isQuiet(): boolean {
    return this.#underway + this.#unwritten.length === 0;
  }

  request(request: LinkRequest): void {
    const sent = this.#ends.sending(request);
    if (this.#unwritten.length === 0) this.#ends.later(this.#ends.latencyMs(), () => this.#write());
    this.#unwritten.push(sent);
  }

  cancel(linkId: number): void {
    const at = this.#unwritten.findIndex(({ request }) => request.id === linkId);
    if (at < 0) return this.#down(() => this.#ends.worker.cancel(linkId));
    this.#unwritten.splice(at, 1);
    this.#ends.later(0, () => this.#ends.unsent(this, linkId));
  }

  ack(linkId: number): void {
    this.#down(() => this.#ends.worker.ack(linkId));
  }

  replay(linkId: number): void {
    this.#down(() => this.#ends.worker.replay(linkId));
  }

  recall(): readonly number[] {
    const linkIds = [...this.unwritten()];
    this.#unwritten = [];
    this.#down(() => this.#ends.worker.giveBack());
    return linkIds;
  }

  unwritten(): ReadonlySet<number> {
    return new Set(this.#unwritten.map(({ request }) => request.id));
  }

  ping(sequence: number): void {
    this.#down(() => this.#ends.worker.ping(sequence));
  }

  stop(): void {
    this.#down(() => this.#ends.worker.stop());
  }

  pause(): void {}
  resume(): void {}
  drain(): void {}
  limit(): void {}
  close(): void {}

  /** Frames that were on their way are lost. */
  break(): void {
    this.isOpen = false;
  }

  /** The worker says something. */
  say(words: Partial<WorkerFrame>): void {
    if (!this.isOpen) return;
    const { nowMs, later, latencyMs, outlivesWorker, frame } = this.#ends;
    this.#upFreeAtMs = Math.max(this.#upFreeAtMs, nowMs() + latencyMs());
    this.#underway += 1;
    later(this.#upFreeAtMs - nowMs(), () => {
      this.#underway -= 1;
      // Nothing that was said later arrives without what was said before.
      if (!outlivesWorker()) this.break();
      if (this.isOpen) frame(this, { ...silence, ...words });
    });
  }

  #write(): void {
    if (!this.isOpen) return;
    const requests = this.#unwritten;
    this.#unwritten = [];
    if (requests.length > 0) this.#down(() => this.#ends.worker.receive(requests));
  }

  #down(arrive: () => void): void {
    if (!this.isOpen) return;
    const { nowMs, laterInWorker, latencyMs } = this.#ends;
    this.#downFreeAtMs = Math.max(this.#downFreeAtMs, nowMs() + latencyMs());
    this.#underway += 1;
    laterInWorker(this.#downFreeAtMs - nowMs(), () => {
      this.#underway -= 1;
      if (this.isOpen) arrive();
    });
  }
}
