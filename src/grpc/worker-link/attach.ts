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
/** The largest first frame of an unproven process, unless the frame begins with the token of one of our workers. */
const unprovenMaxBytes = 64 * 1024;
/** The hello of a worker that keeps 100,000 results has some 20 MiB. */
const helloMaxBytes = 64 * 1024 * 1024;

/**
 * A worker that dials again may be faster than the news that its earlier link has ended. Its hello waits this long for the news.
 * If the earlier link is still alive then, another process holds the link or sends the hello.
 */
const earlierLinkMs = 1_000;
const lookAgainMs = 20;

/** The status that a refused worker receives. On each of them but ALREADY_EXISTS the worker exits at once. */
const statusOf: Readonly<Record<RefusalReason, status>> = {
  protocol: status.INVALID_ARGUMENT,
  unknown_worker: status.UNAUTHENTICATED,
  wrong_token: status.UNAUTHENTICATED,
  already_attached: status.ALREADY_EXISTS,
};

export type AttachStream = ServerDuplexStream<WorkerFrame | UnreadableMessage, object>;

/** What all calls of Attach share. */
export interface AttachShared {
  readonly source: WorkerLinkSource;
  readonly frames: FrameBudget;
  /** Workers whose large hellos are arriving; each may send one at a time. */
  readonly largeHellos: Set<string>;
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

class AttachCall {
  readonly #shared: AttachShared;
  readonly #stream: AttachStream;
  readonly #reader: ReturnType<typeof readerOf>;
  readonly #frameMaxBytes: number;
  #timer: NodeJS.Timeout;
  #hello: WorkerHello | undefined;
  /** Undefined: the worker has not been welcomed. */
  #link: LinkWriter | undefined;
  #workerId = '';
  /** The worker whose large hello this call sends. */
  #largeWorkerId = '';
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
    this.#timer = setTimeout(
      () => this.#refuseProtocol('expected a hello, got none in time', status.DEADLINE_EXCEEDED),
      helloTimeoutMs,
    );
  }

  onFrame(frame: WorkerFrame | UnreadableMessage): void {
    this.#reader?.messageHandled();
    // Frames may still arrive after the call was refused or has ended.
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
    this.#greet(first.hello, performance.now() + earlierLinkMs);
  }

  onEnd(): void {
    clearTimeout(this.#timer);
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.#largeWorkerId !== '') this.#shared.largeHellos.delete(this.#largeWorkerId);
    if (this.#link !== undefined) {
      this.#link.over();
      this.#shared.source.closed(this.#workerId, this.#link);
    }
    if (!this.#stream.destroyed) this.#stream.end();
  }

  #greet(hello: WorkerHello, waitUntilMs: number): void {
    if (this.#isOver) return;
    const { source, frames } = this.#shared;
    const known = source.authenticate(hello);
    if (!known.ok && known.reason === 'already_attached' && performance.now() < waitUntilMs) {
      this.#timer = setTimeout(() => this.#greet(hello, waitUntilMs), lookAgainMs);
      return;
    }
    if (!known.ok) return this.#refuse(statusOf[known.reason], known);
    const problem = checkHello(hello);
    if (problem !== undefined) return this.#refuseProtocol(problem);
    this.#workerId = hello.worker_id;
    if (this.#reader !== undefined) {
      this.#reader.maxBytes = this.#frameMaxBytes;
      this.#reader.proven();
    }
    const link = new LinkWriter(frames, this.#stream, (linkIds) => source.unsent(hello.worker_id, linkIds, link));
    this.#link = link;
    this.#stream.write({ welcome: { protocol, ...known.welcome } });
    source.attached(hello, link);
  }

  /** Decides by the first bytes of a large hello whether to read the rest. False: the call has been refused. */
  #admit(beginning: Buffer): boolean {
    const { source, largeHellos } = this.#shared;
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
    if (largeHellos.has(claim.worker_id)) {
      const message = 'a second large hello was refused';
      this.#refuse(statusOf.already_attached, { reason: 'already_attached', message });
      return false;
    }
    this.#largeWorkerId = claim.worker_id;
    largeHellos.add(claim.worker_id);
    return true;
  }

  #refuseProtocol(message: string, code: status = statusOf.protocol): void {
    this.#refuse(code, { reason: 'protocol', message });
  }

  #refuse(code: status, refusal: LinkRefusal): void {
    this.#shared.source.refused(refusal);
    this.#stream.emit('error', { code, details: refusal.message });
  }
}
