import type { ServerDuplexStream } from '@grpc/grpc-js';
import type { Request, RequestError, ResponseSink } from '../../dispatch/request.ts';
import type { Connection } from '../connection.ts';
import { connectionOf } from '../connection.ts';
import { errorView } from '../status.ts';
import { awaitReceipt } from './call-end.ts';
import type { Unread } from './flow-control.ts';
import { createUnread, overheadBytes } from './flow-control.ts';
import type { ExecutionSource, SubmitMessage } from './source.ts';

/** Payload bytes in one message of results; a larger payload goes alone. gRPC's clients accept 4 MiB a message by default. */
const messageBytes = 1024 * 1024;

export type SubmitCall = ServerDuplexStream<SubmitMessage, object>;

/** The stream that the results belong to. */
interface ResultsOwner {
  /** The caller's connection has taken a message. */
  onWritten(): void;
  /** A turn came in which no result was left to be written. */
  onDrained(): void;
  /** The caller had left too much unread, and has read most of that. */
  onMayResume(): void;
}

/** A request whose end is among the results. */
export interface AnsweredItem extends ResponseSink {
  readonly request: Request;
  /** The request's share of the memory budget. */
  readonly heldBytes: number;
}

/** One result that waits to be written. */
interface PendingResult {
  readonly result: object;
  readonly bytes: number;
  /** The request that ends with this result, and holds its memory until the result is written; null: the request goes on. */
  item: AnsweredItem | null;
  readonly onWritten: (() => void) | null;
}

/**
 * The results of one Submit stream. Results that are ready in one turn of the event loop leave in one message; so do results
 * that become ready while a message is being written.
 */
export class SubmitResults {
  readonly source: ExecutionSource;
  readonly connection: Connection;
  readonly unread: Unread;
  readonly #call: SubmitCall;
  readonly #owner: ResultsOwner;
  #pending: PendingResult[] = [];
  /** The results of the message that is being written. */
  #underway: readonly PendingResult[] = [];
  #isScheduled = false;
  #isWriting = false;
  #isOver = false;

  constructor(source: ExecutionSource, call: SubmitCall, owner: ResultsOwner) {
    this.source = source;
    this.#call = call;
    this.#owner = owner;
    this.connection = connectionOf(call);
    this.unread = createUnread(this.connection, () => owner.onMayResume());
  }

  /** A message is being written, so a result that is added now waits. */
  get isWriting(): boolean {
    return this.#isWriting;
  }

  add(result: object, payloadBytes: number, item: AnsweredItem | null, onWritten: (() => void) | null = null): void {
    // Requests that are cancelled at the end of the call report an error, which nobody receives.
    if (this.#isOver) return;
    const bytes = payloadBytes + overheadBytes;
    this.#pending.push({ result, bytes, item, onWritten });
    this.unread.add(bytes);
    this.schedule();
  }

  fail(requestId: string, error: RequestError, item: AnsweredItem | null): void {
    this.add({ request_id: requestId, error: errorView(error) }, error.message.length + error.traceback.length, item);
  }

  /** The newest result turns out to be the end of this request. */
  attributeLast(item: AnsweredItem): void {
    const last = this.#pending.at(-1);
    if (last !== undefined) last.item = item;
  }

  /** Writes what is pending in the next turn. While a message is being written, its end does the same. */
  schedule(): void {
    if (this.#isScheduled || this.#isWriting) return;
    this.#isScheduled = true;
    setImmediate(this.#flush);
  }

  /** The call is over. Returns the requests whose ends were not written. */
  close(): AnsweredItem[] {
    this.#isOver = true;
    this.unread.forget();
    const unwritten = [...this.#underway, ...this.#pending].flatMap(({ item }) => (item === null ? [] : [item]));
    this.#underway = [];
    this.#pending = [];
    return unwritten;
  }

  // Two closures for the whole stream, and none for each message.
  readonly #flush = (): void => {
    const call = this.#call;
    this.#isScheduled = false;
    if (this.#isWriting || call.cancelled || call.destroyed) return;
    const pending = this.#pending;
    if (pending.length === 0) return this.#owner.onDrained();
    const batch = takeMessage(pending);
    this.#pending = batch === pending ? [] : pending.slice(batch.length);
    this.#isWriting = true;
    this.#underway = batch;
    call.write({ results: batch.map(({ result }) => result) }, this.#written);
  };

  readonly #written = (): void => {
    const batch = this.#underway;
    this.#underway = [];
    this.#isWriting = false;
    let bytes = 0;
    for (const { bytes: resultBytes, item, onWritten } of batch) {
      bytes += resultBytes;
      onWritten?.();
      if (item === null) continue;
      this.connection.memory?.give(item.heldBytes);
      awaitReceipt(this.source, this.connection, item.request, item);
    }
    this.unread.taken(bytes);
    this.#owner.onWritten();
    if (this.#pending.length > 0) this.schedule();
  };
}

/** As many results as one message may hold, at least one; `results` itself if the message holds all of them. */
function takeMessage(results: PendingResult[]): PendingResult[] {
  let bytes = 0;
  for (let index = 0; index < results.length; index += 1) {
    bytes += results[index]?.bytes ?? 0;
    if (bytes > messageBytes && index > 0) return results.slice(0, index);
  }
  return results;
}
