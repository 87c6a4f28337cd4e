import { crc32 } from 'node:zlib';
import type { LinkRequest, Resumed } from '../../src/dispatch/worker.ts';
import type { Asked, CommandModel } from './asked.ts';
import { commandModels } from './asked.ts';
import type { SentRequest, SimulatedLink } from './link.ts';
import type { Random } from './random.ts';

/** A request in a worker, or its answer. */
export interface Held {
  readonly request: LinkRequest;
  readonly asked: Asked | undefined;
  readonly epoch: number;
  readonly model: CommandModel;
  readonly receivedAtMs: number;
  state: 'waiting' | 'running' | 'ended';
  begunAtMs: number;
  endedAtMs: number;
  /** The gRPC status code of its error; 0: a result. */
  error: number;
  /** Its answer is stored until that is acknowledged. */
  isKept: boolean;
  isCancelled: boolean;
  /** Older than the link: nothing is said of it but its end, until a replay is asked for. */
  isDetached: boolean;
  chunks: number;
}

/** The process that a session belongs to. */
export interface SessionHost {
  readonly random: Random;
  readonly concurrency: number;
  readonly keepMs: number;
  readonly ignoresCancels: boolean;
  readonly warmUpMs: number;
  readonly warmUpFails: boolean;
  nowMs(): number;
  /** While the process lives, and not while it is frozen. */
  later(ms: number, work: () => void): void;
  crash(): void;
  /** A run has left so much in its memory. */
  leak(bytes: number): void;
  begins(asked: Asked, epoch: number): void;
  /** It was told to leave, and runs nothing any more. */
  leave(): void;
}

const empty = Buffer.alloc(0);
const codes = { cancelled: 1, unknown: 2, deadlineExceeded: 4, dataLoss: 15 } as const;
const warmUpModel: CommandModel = {
  ...{ chunks: 0, isAsync: false, leastMs: 0, mostMs: 0, crashes: 0, leaks: 0, isDeaf: true },
};

/** A worker's requests and its frames about them: a model of python/src/pitwarden/_session.py and _result_store.py. */
export class Session {
  /** Waiting, running, and ended with an answer that is kept, in the order in which they came. */
  readonly held = new Map<number, Held>();
  link: SimulatedLink | null = null;
  begunThrough = 0;
  running = 0;
  /** It takes no more requests, and leaves when the last has ended. */
  isStopping = false;
  #lastId = 0;
  #completed = 0;
  #failed = 0;
  readonly #host: SessionHost;

  constructor(host: SessionHost) {
    this.#host = host;
  }

  receive(requests: readonly SentRequest[]): void {
    for (const { request, asked, epoch } of requests) {
      const model = asked === undefined ? warmUpModel : commandModels[request.command];
      if (model === undefined) throw new Error(`no command ${request.command}`);
      if (asked !== undefined) this.#lastId = request.id;
      this.held.set(request.id, {
        ...{ request, asked, epoch, model, receivedAtMs: this.#host.nowMs(), state: 'waiting' },
        ...{ begunAtMs: 0, endedAtMs: 0, error: 0, isKept: request.keep, isCancelled: false, isDetached: false },
        chunks: 0,
      });
    }
    if (this.isStopping) this.giveBack();
    else this.#begin();
  }

  cancel(linkId: number): void {
    const held = this.held.get(linkId);
    if (held === undefined || held.state === 'ended') return;
    held.isCancelled = true;
    if (held.state === 'waiting') return this.#answer(held, codes.cancelled);
    if (this.#host.ignoresCancels || held.model.isDeaf) return;
    this.#host.later(1, () => {
      if (held.state === 'running') this.#answer(held, codes.cancelled);
    });
  }

  ack(linkId: number): void {
    this.#expire();
    const held = this.held.get(linkId);
    if (held === undefined) return;
    held.isKept = false;
    if (held.state === 'ended') this.held.delete(linkId);
  }

  replay(linkId: number): void {
    this.#expire();
    this.link?.say({ replayed: [linkId] });
    const held = this.held.get(linkId);
    if (held === undefined || !held.isKept) {
      if (held !== undefined) this.held.delete(linkId);
      return this.#sayResult(linkId, codes.dataLoss, 0, empty);
    }
    held.isDetached = false;
    for (let at = 0; at < held.chunks; at += 1) this.#sayChunk(linkId, at);
    if (held.state === 'ended') this.#sayEnd(held);
  }

  giveBack(): void {
    const returned = [...this.held.values()].filter(({ state }) => state === 'waiting');
    for (const { request } of returned) this.held.delete(request.id);
    if (returned.length > 0) this.link?.say({ returned: returned.map(({ request }) => request.id) });
  }

  ping(sequence: number): void {
    this.link?.say({ pong: { sequence, in_flight: this.running, oldest_request_ms: 0, loop_lag_ms: 0 } });
  }

  stop(): void {
    if (this.isStopping) return;
    this.isStopping = true;
    this.giveBack();
    if (this.running === 0) this.#host.leave();
  }

  /** A request that has not begun is lost with the link, unless it is to be kept. */
  detach(): void {
    this.link?.break();
    this.link = null;
    for (const held of this.held.values()) {
      if (held.state === 'waiting' && !held.isKept) this.held.delete(held.request.id);
      held.isDetached = true;
    }
  }

  resumed(): Resumed & { readonly away_ms: number } {
    this.#expire();
    const nowMs = this.#host.nowMs();
    const held = [...this.held.values()].map(({ request, state, isKept, isCancelled, receivedAtMs }) => {
      const leftMs = receivedAtMs + request.timeout_ms - nowMs;
      const hasDeadline = state !== 'ended' && request.timeout_ms > 0;
      return {
        ...{ id: request.id, request_id: request.request_id, command: request.command, keep: isKept },
        ...{ ended: state === 'ended', cancelled: isCancelled && state !== 'ended' },
        remaining_ms: hasDeadline ? Math.max(1, Math.floor(leftMs)) : 0,
        age_ms: Math.floor(nowMs - receivedAtMs),
        ...{ payload_bytes: request.payload.length, payload_crc32: crc32(request.payload) },
      };
    });
    return { last_id: this.#lastId, completed: this.#completed, failed: this.#failed, held, away_ms: 0 };
  }

  #begin(): void {
    for (const held of this.held.values()) {
      if (this.isStopping || this.running >= this.#host.concurrency) return;
      if (held.state === 'waiting') this.#beginOne(held);
    }
  }

  #beginOne(held: Held): void {
    const { request, asked, receivedAtMs } = held;
    const nowMs = this.#host.nowMs();
    if (request.timeout_ms > 0 && nowMs >= receivedAtMs + request.timeout_ms) {
      return this.#answer(held, codes.deadlineExceeded);
    }
    held.state = 'running';
    held.begunAtMs = nowMs;
    this.running += 1;
    if (asked === undefined) {
      return this.#host.later(this.#host.warmUpMs, () =>
        this.#answer(held, this.#host.warmUpFails ? codes.unknown : 0),
      );
    }
    this.begunThrough = Math.max(this.begunThrough, request.id);
    this.#host.begins(asked, held.epoch);
    this.#run(held);
  }

  #run(held: Held): void {
    const { random, later } = this.#host;
    const { leastMs, mostMs, crashes, chunks } = held.model;
    const ms = leastMs + random.next() * (mostMs - leastMs);
    for (let at = 1; at <= chunks; at += 1) {
      later((ms * at) / (chunks + 1), () => {
        if (held.state !== 'running' || held.isCancelled) return;
        if (!held.isDetached) this.#sayChunk(held.request.id, held.chunks);
        held.chunks += 1;
      });
    }
    later(ms, () => {
      if (held.state !== 'running') return;
      if (random.chance(crashes)) this.#host.crash();
      else this.#answer(held, held.isCancelled ? codes.cancelled : random.chance(0.02) ? codes.unknown : 0);
    });
  }

  #answer(held: Held, error: number): void {
    const { request, asked } = held;
    const nowMs = this.#host.nowMs();
    if (held.state === 'running') {
      this.running -= 1;
      this.#host.leak(held.model.leaks);
    }
    held.state = 'ended';
    held.endedAtMs = nowMs;
    held.error = error;
    if (asked !== undefined) {
      if (error === 0) this.#completed += 1;
      else this.#failed += 1;
      asked.endedAtMs = nowMs;
    }
    if (!held.isKept) this.held.delete(request.id);
    this.#sayEnd(held);
    if (this.isStopping && this.running === 0) this.#host.leave();
    else this.#begin();
  }

  #sayEnd({ request, error, begunAtMs, endedAtMs }: Held): void {
    const ranUs = begunAtMs === 0 ? 0 : Math.max(1, Math.round((endedAtMs - begunAtMs) * 1_000));
    this.#sayResult(request.id, error, ranUs, Buffer.from(request.request_id));
  }

  #sayResult(id: number, code: number, ran_us: number, payload: Buffer): void {
    const error = code === 0 ? null : { code, type: 'E', message: 'alas', traceback: '' };
    this.link?.say({ results: [{ id, payload: code === 0 ? payload : empty, content_type: '', error, ran_us }] });
  }

  #sayChunk(id: number, at: number): void {
    this.link?.say({ chunks: [{ id, payload: Buffer.from(String(at)), content_type: '' }] });
  }

  #expire(): void {
    const nowMs = this.#host.nowMs();
    for (const { request, state, endedAtMs } of this.held.values()) {
      if (state === 'ended' && nowMs - endedAtMs >= this.#host.keepMs) this.held.delete(request.id);
    }
  }
}

/** Requests that it has not ended. */
export function unended({ held }: Session): number {
  let count = 0;
  for (const { state } of held.values()) if (state !== 'ended') count += 1;
  return count;
}
