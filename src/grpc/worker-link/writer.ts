import type { ServerDuplexStream } from '@grpc/grpc-js';
import type { LinkRequest } from '../../dispatch/worker.ts';
import type { FrameBudget } from './frame-memory.ts';
import { FrameMemory, frameMaxBytes } from './frame-memory.ts';
import type { LinkLimits, ProvenLink } from './source.ts';

/** AgentFrame of link.proto. An absent field is not sent. */
interface AgentFrame {
  ping?: { sequence: number };
  drain?: object;
  limits?: LinkLimits;
  recall?: object;
  stop?: { grace_ms: number };
  requests?: LinkRequest[];
  cancels?: number[];
  pauses?: number[];
  resumes?: number[];
  acks?: number[];
  replays?: number[];
}

type LinkCall = Pick<ServerDuplexStream<unknown, object>, 'write' | 'end' | 'destroyed' | 'cancelled'>;

/** With this many acknowledgements a frame is written even if there is nothing else to send. */
const acksMax = 256;

/**
 * Sends to one worker, frame by frame. Everything that one turn of the event loop has for the worker goes in one frame. While a
 * frame is being written, which takes long if the worker reads slowly, everything is gathered for the next frame. So a ping
 * waits for one frame at most, and at most one frame waits outside of `#requests`, whose number dispatch bounds.
 */
export class LinkWriter implements ProvenLink {
  readonly #call: LinkCall;
  readonly #memory: FrameMemory;
  readonly #onUnsent: (linkIds: readonly number[]) => void;
  #requests: LinkRequest[] = [];
  /** Link ids of requests that were cancelled before they were written, and not reported yet. */
  #unsent: number[] = [];
  /** Fields that may overtake waiting requests. */
  #urgent: AgentFrame | null = null;
  /** Fields about requests, which must not overtake them. */
  #trailing: AgentFrame | null = null;
  /** Go with the next frame, whatever is in it. */
  #acks: number[] = [];
  #isScheduled = false;
  #isWriting = false;
  #isOver = false;

  /** `onUnsent` receives the link ids of requests that were cancelled before they were written. */
  constructor(shared: FrameBudget, call: LinkCall, onUnsent: (linkIds: readonly number[]) => void) {
    this.#call = call;
    this.#memory = new FrameMemory(shared);
    this.#onUnsent = onUnsent;
  }

  request(request: LinkRequest): void {
    this.#requests.push(request);
    this.#schedule();
  }

  cancel(linkId: number): void {
    if (this.#dropUnwritten(linkId)) return;
    this.#urgent ??= {};
    this.#urgent.cancels ??= [];
    this.#urgent.cancels.push(linkId);
    this.#schedule();
  }

  pause(linkId: number): void {
    this.#takeBack('resumes', linkId);
    this.#sendAfterRequests('pauses', linkId);
  }

  resume(linkId: number): void {
    this.#takeBack('pauses', linkId);
    this.#sendAfterRequests('resumes', linkId);
  }

  recall(): number[] {
    this.#send({ recall: {} });
    const unwritten = this.#requests.map((request) => request.id);
    this.#requests = [];
    return unwritten;
  }

  ack(linkId: number): void {
    this.#acks.push(linkId);
    if (this.#acks.length >= acksMax) this.#schedule();
  }

  replay(linkId: number): void {
    this.#sendAfterRequests('replays', linkId);
  }

  unwritten(): Set<number> {
    return new Set(this.#requests.map((request) => request.id));
  }

  ping(sequence: number): void {
    this.#send({ ping: { sequence } });
  }

  drain(): void {
    this.#send({ drain: {} });
  }

  limit(limits: LinkLimits): void {
    this.#send({ limits });
  }

  stop(graceMs: number): void {
    this.#send({ stop: { grace_ms: Math.round(graceMs) } });
  }

  close(): void {
    if (!this.#call.destroyed) this.#call.end();
  }

  /** The stream has ended, so the frame that was being written holds no memory any more. */
  over(): void {
    this.#isOver = true;
    this.#memory.give();
    this.#memory.stopWaiting();
  }

  #send(fields: AgentFrame): void {
    this.#urgent = this.#urgent === null ? fields : Object.assign(this.#urgent, fields);
    this.#schedule();
  }

  #sendAfterRequests(field: 'pauses' | 'resumes' | 'replays', linkId: number): void {
    this.#trailing ??= {};
    this.#trailing[field] ??= [];
    this.#trailing[field].push(linkId);
    this.#schedule();
  }

  /** A worker handles a frame's pauses before its resumes. So each of them removes an opposite one that is not sent yet. */
  #takeBack(field: 'pauses' | 'resumes', linkId: number): void {
    const linkIds = this.#trailing?.[field];
    if (linkIds?.includes(linkId)) linkIds.splice(linkIds.indexOf(linkId), 1);
  }

  /** False: the request is written, or being written. */
  #dropUnwritten(linkId: number): boolean {
    const index = this.#requests.findIndex(({ id }) => id === linkId);
    if (index < 0) return false;
    this.#requests.splice(index, 1);
    this.#unsent.push(linkId);
    // Reported in a later turn: dispatch is in the middle of its own work on the request.
    if (this.#unsent.length === 1) setImmediate(() => this.#reportUnsent());
    return true;
  }

  #reportUnsent(): void {
    const linkIds = this.#unsent;
    this.#unsent = [];
    this.#onUnsent(linkIds);
  }

  #schedule(): void {
    if (this.#isScheduled || this.#isWriting) return;
    this.#isScheduled = true;
    setImmediate(this.#flush);
  }

  // Two closures for the whole link, and none for each frame.
  readonly #flush = (): void => {
    const call = this.#call;
    this.#isScheduled = false;
    if (this.#isWriting || this.#isOver || call.destroyed || call.cancelled) return;
    const frame = this.#takeFrame();
    if (frame === null) return;
    this.#isWriting = true;
    call.write(frame, this.#written);
  };

  readonly #written = (): void => {
    this.#isWriting = false;
    this.#memory.give();
    if (this.#requests.length > 0 || this.#urgent !== null || this.#trailing !== null) this.#schedule();
  };

  /** The next frame; null: it waits for room. */
  #takeFrame(): AgentFrame | null {
    const frame: AgentFrame = this.#urgent ?? {};
    if (!this.#memory.hasRoom(this.#requests[0])) {
      this.#waitForRoom();
      if (this.#urgent === null && this.#acks.length < acksMax) return null;
    } else if (this.#requests.length > 0) {
      this.#memory.stopWaiting();
      frame.requests = this.#takeBatch();
      this.#memory.hold(frame.requests);
    }
    this.#urgent = null;
    if (this.#acks.length > 0) {
      frame.acks = this.#acks;
      this.#acks = [];
    }
    if (this.#requests.length === 0 && this.#trailing !== null) {
      Object.assign(frame, this.#trailing);
      this.#trailing = null;
    }
    return frame;
  }

  #waitForRoom(): void {
    this.#memory.wait(() => {
      if (this.#memory.hasRoom(this.#requests[0])) this.#schedule();
    });
  }

  /** As many requests as one frame may hold, at least one. */
  #takeBatch(): LinkRequest[] {
    const requests = this.#requests;
    let bytes = 0;
    for (let index = 0; index < requests.length; index += 1) {
      bytes += requests[index]?.payload.length ?? 0;
      if (bytes <= frameMaxBytes || index === 0) continue;
      this.#requests = requests.slice(index);
      return requests.slice(0, index);
    }
    this.#requests = [];
    return requests;
  }
}
