import type { ServerDuplexStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { readerOf } from '../incoming/interceptor.ts';
import { UnreadableMessage } from '../proto.ts';
import type { FrameBudget } from './frame-memory.ts';
import { checkFirst, claimOf, protocol } from './hello.ts';
import { checkHello, mendFrame } from './sanitize.ts';
import type { LinkRefusal, RefusalReason, WorkerFrame, WorkerHello, WorkerLinkSource } from './source.ts';
import { LinkWriter } from './writer.ts';

/** A connection that sends no hello within this time is no worker of ours. */
const helloTimeoutMs = 10_000;
/** A large hello of a worker of ours may have to wait for room, and for a message that is read without room. */
const largeHelloTimeoutMs = 60_000;
/** The largest first frame of an unproven process, unless the frame begins with the token of one of our workers. */
const unprovenMaxBytes = 64 * 1024;
/** The hello of a worker that keeps 100,000 results has some 20 MiB. */
const helloMaxBytes = 64 * 1024 * 1024;

/**
 * A worker that dials again may be faster than the news that its earlier link has ended. Its hello waits this long for the news.
 * If the earlier link is still alive then, another process holds the link or sends the hello.
 */
const earlierLinkMs = 1_000;

/** The status that a refused worker receives. On each of them but ALREADY_EXISTS the worker exits at once. */
const statusOf: Readonly<Record<RefusalReason, status>> = {
  protocol: status.INVALID_ARGUMENT,
  unknown_worker: status.UNAUTHENTICATED,
  wrong_token: status.UNAUTHENTICATED,
  already_attached: status.ALREADY_EXISTS,
};

interface PendingHello {
  earlierLinkEnded(): void;
}

export type AttachStream = ServerDuplexStream<WorkerFrame | UnreadableMessage, object>;

/** The state that all calls of Attach share. */
export interface AttachShared {
  readonly source: WorkerLinkSource;
  readonly frames: FrameBudget;
  /** The calls whose large hello is arriving, or waits for the end of an earlier link. Each worker may have one. */
  readonly pending: Map<string, PendingHello>;
}

/** Serves one call of Attach: a hello makes an attached worker, whose frames are passed on until the stream ends. */
export function attach(shared: AttachShared, stream: AttachStream): void {
  const call = new AttachCall(shared, stream);
  const end = (): void => call.onEnd();
  stream.on('data', (frame: WorkerFrame | UnreadableMessage) => call.onFrame(frame));
  stream.on('end', end);
  stream.on('cancelled', end);
  stream.on('close', end);
  stream.on('error', end);
}

class AttachCall implements PendingHello {
  readonly #shared: AttachShared;
  readonly #stream: AttachStream;
  readonly #reader: ReturnType<typeof readerOf>;
  readonly #frameMaxBytes: number;
  #timer: NodeJS.Timeout;
  #hello: WorkerHello | undefined;
  /** Undefined: the worker has not been welcomed. */
  #link: LinkWriter | undefined;
  #workerId = '';
  /** The worker for which this call is pending. */
  #pendingId = '';
  #isOver = false;

  constructor(shared: AttachShared, stream: AttachStream) {
    this.#shared = shared;
    this.#stream = stream;
    this.#reader = readerOf(stream);
    this.#frameMaxBytes = this.#reader?.maxBytes ?? 0;
    if (this.#reader !== undefined) {
      this.#reader.maxBytes = Math.min(this.#frameMaxBytes, helloMaxBytes);
      this.#reader.expectProof({ maxBytes: unprovenMaxBytes, admit: (beginning) => this.#admit(beginning) });
    }
    this.#timer = this.#helloTimer(helloTimeoutMs);
  }

  onFrame(frame: WorkerFrame | UnreadableMessage): void {
    // The hello is held until it is answered. Frames may still arrive after the call was refused or has ended.
    if (this.#hello !== undefined || this.#isOver) this.#reader?.messageHandled();
    if (this.#isOver) return;
    if (frame instanceof UnreadableMessage) return this.#refuseProtocol(frame.problem);
    if (this.#link !== undefined) {
      mendFrame(frame);
      return this.#shared.source.frame(this.#workerId, frame, this.#link);
    }
    clearTimeout(this.#timer);
    if (this.#hello !== undefined) return this.#refuseProtocol('expected no frame before the welcome');
    const first = checkFirst(frame.hello);
    if (!first.ok) return this.#refuseProtocol(first.message, first.code);
    this.#hello = first.hello;
    this.#greet(first.hello, true);
  }

  onEnd(): void {
    clearTimeout(this.#timer);
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopPending();
    if (this.#link !== undefined) {
      this.#link.over();
      this.#shared.source.closed(this.#workerId, this.#link);
      this.#shared.pending.get(this.#workerId)?.earlierLinkEnded();
    }
    if (!this.#stream.destroyed) this.#stream.end();
  }

  earlierLinkEnded(): void {
    if (this.#hello === undefined) return;
    clearTimeout(this.#timer);
    this.#greet(this.#hello, false);
  }

  /** Attaches the worker. `mayWait`: if it is attached, its earlier link may be about to end. */
  #greet(hello: WorkerHello, mayWait: boolean): void {
    if (this.#isOver) return;
    const { source, frames } = this.#shared;
    const known = source.authenticate(hello);
    if (!known.ok && known.reason === 'already_attached' && mayWait && this.#becomePending(hello.worker_id)) {
      this.#timer = setTimeout(() => this.#greet(hello, false), earlierLinkMs);
      return;
    }
    if (!known.ok) return this.#refuse(statusOf[known.reason], known);
    const problem = checkHello(hello);
    if (problem !== undefined) return this.#refuseProtocol(problem);
    this.#workerId = hello.worker_id;
    this.#stopPending();
    if (this.#reader !== undefined) {
      this.#reader.maxBytes = this.#frameMaxBytes;
      this.#reader.proven();
      this.#reader.messageHandled();
    }
    const link = new LinkWriter(frames, this.#stream, (linkIds) => source.unsent(hello.worker_id, linkIds, link));
    this.#link = link;
    this.#stream.write({ welcome: { protocol, ...known.welcome } });
    source.attached(hello, link);
  }

  /** Decides by the first bytes of a large hello whether to read the rest. False: the call has been refused. */
  #admit(beginning: Buffer): boolean {
    const { source } = this.#shared;
    const claim = claimOf(beginning);
    if (claim === undefined) {
      const most = `at most ${unprovenMaxBytes} bytes in a first frame without a token at its beginning`;
      this.#refuseProtocol(`expected ${most}, got more`);
      return false;
    }
    const refusal = source.check(claim);
    if (refusal !== undefined) {
      this.#refuse(statusOf[refusal.reason], refusal);
      return false;
    }
    if (!this.#becomePending(claim.worker_id)) {
      const message = 'a second large hello was refused';
      this.#refuse(statusOf.already_attached, { reason: 'already_attached', message });
      return false;
    }
    clearTimeout(this.#timer);
    this.#timer = this.#helloTimer(largeHelloTimeoutMs);
    return true;
  }

  #helloTimer(timeoutMs: number): NodeJS.Timeout {
    const late = () => this.#refuseProtocol('expected a hello, got none in time', status.DEADLINE_EXCEEDED);
    return setTimeout(late, timeoutMs);
  }

  /** False: another call is pending for the worker. */
  #becomePending(workerId: string): boolean {
    const { pending } = this.#shared;
    const other = pending.get(workerId);
    if (other !== undefined && other !== this) return false;
    this.#stopPending();
    pending.set(workerId, this);
    this.#pendingId = workerId;
    return true;
  }

  #stopPending(): void {
    if (this.#pendingId !== '') this.#shared.pending.delete(this.#pendingId);
    this.#pendingId = '';
  }

  #refuseProtocol(message: string, code: status = statusOf.protocol): void {
    this.#refuse(code, { reason: 'protocol', message });
  }

  #refuse(code: status, refusal: LinkRefusal): void {
    this.#shared.source.refused(refusal);
    this.#stream.emit('error', { code, details: refusal.message });
  }
}
