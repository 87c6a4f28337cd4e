import { isAnswered } from '../../dispatch/delivery.ts';
import type { RequestError } from '../../dispatch/request.ts';
import { code, requestError } from '../../dispatch/request.ts';
import { howEnded } from '../connection.ts';
import { readerOf } from '../incoming/interceptor.ts';
import { UnreadableMessage } from '../proto.ts';
import { toStatus } from '../status.ts';
import { overheadBytes, overMemoryShare, refuseUnread } from './flow-control.ts';
import type { ExecuteMessage, ExecutionSource, SubmitMessage } from './source.ts';
import { SubmitItem } from './submit-item.ts';
import type { SubmitCall } from './submit-results.ts';
import { SubmitResults } from './submit-results.ts';
import { countRefused, requestSpecOf } from './validate.ts';

/** The agent reads nothing from a Submit stream while more bytes of its results than this are unread. */
const readBelowBytes = 8 * 1024 * 1024;

/** Serves many requests over one stream. */
export function submit(source: ExecutionSource, call: SubmitCall): void {
  const stream = new SubmitStream(source, call);
  const reader = readerOf(call);
  const onLeaving = (): void => stream.onLeaving();
  const over = (): void => {
    source.leaving.removeEventListener('abort', onLeaving);
    stream.onOver();
  };
  call.on('data', (message: SubmitMessage | UnreadableMessage) => {
    reader?.messageHandled();
    stream.onMessage(message);
  });
  call.on('end', () => stream.onEnd());
  call.on('cancelled', over);
  call.on('error', over);
  source.leaving.addEventListener('abort', onLeaving);
}

class SubmitStream {
  readonly #source: ExecutionSource;
  readonly #call: SubmitCall;
  readonly #results: SubmitResults;
  /** Requests that have not ended, by request_id. */
  readonly #open = new Map<string, SubmitItem>();
  /** The caller sends no more requests. */
  #isEnded = false;

  constructor(source: ExecutionSource, call: SubmitCall) {
    this.#source = source;
    this.#call = call;
    this.#results = new SubmitResults(source, call, this);
  }

  onMessage(message: SubmitMessage | UnreadableMessage): void {
    if (message instanceof UnreadableMessage) {
      this.#call.emit('error', toStatus(requestError(code.invalidArgument, message.problem)));
      return;
    }
    for (const { request, timeout_ms } of message.items) this.#start(request, timeout_ms);
    for (const requestId of message.cancel_request_ids) {
      const item = this.#open.get(requestId);
      if (item !== undefined) this.#source.dispatch.cancel(item.request, item);
    }
    // A caller that does not read its results may not send more requests.
    if (this.#results.unread.bytes > readBelowBytes) this.#call.pause();
  }

  onEnd(): void {
    this.#isEnded = true;
    this.#results.schedule();
  }

  /** The agent is shutting down: the stream ends when its requests have ended. */
  onLeaving(): void {
    this.#results.schedule();
  }

  onWritten(): void {
    if (this.#call.isPaused() && this.#results.unread.bytes <= readBelowBytes) this.#call.resume();
    if (this.#isEnded || this.#source.leaving.aborted) this.#results.schedule();
  }

  onDrained(): void {
    if (this.#open.size > 0) return;
    if (this.#isEnded) this.#call.end();
    else if (this.#source.leaving.aborted) this.#call.emit('error', toStatus(shuttingDown()));
  }

  onMayResume(): void {
    for (const item of this.#open.values()) this.#source.dispatch.resume(item.request, item);
  }

  /** The call is over, however it ended. */
  onOver(): void {
    const { dispatch } = this.#source;
    const { connection } = this.#results;
    const isCancelled = howEnded(this.#call, connection) === 'cancelled';
    const unwritten = this.#results.close();
    const open = [...this.#open.values()];
    this.#open.clear();
    for (const item of open) {
      item.closeRelay();
      connection.memory?.give(item.heldBytes);
      if (isCancelled) dispatch.cancel(item.request, item);
      else dispatch.settle(item.request, item, false);
    }
    for (const item of unwritten) {
      connection.memory?.give(item.heldBytes);
      dispatch.settle(item.request, item, isCancelled);
    }
  }

  #start(message: ExecuteMessage | null, timeoutMs: number): void {
    const source = this.#source;
    const results = this.#results;
    const { connection } = results;
    const requestId = message?.request_id ?? '';
    const wrong = refuseWhenLeaving(source) ?? refuseItem(message, this.#open) ?? refuseUnread(source, connection);
    const deadlineMs = timeoutMs > 0 ? source.nowMs() + timeoutMs : Number.POSITIVE_INFINITY;
    const spec = wrong ?? requestSpecOf(source, connection, message, deadlineMs, true);
    if ('code' in spec) return this.#refuse(message, spec);
    const heldBytes = spec.payload.length + overheadBytes;
    if (connection.memory?.take(heldBytes) === false) {
      return this.#refuse(message, overMemoryShare(connection.memory, heldBytes));
    }
    const item = new SubmitItem(results, this.#open, requestId, heldBytes, spec.reports);
    const request = source.dispatch.submit(spec, item);
    if (request !== undefined) item.request = request;
    if (request !== undefined && !isAnswered(request)) {
      this.#open.set(requestId, item);
      return;
    }
    connection.memory?.give(heldBytes);
    if (request === undefined) return;
    // The request had ended before it was repeated, and `submit` has just added its end to the results.
    item.heldBytes = 0;
    results.attributeLast(item);
  }

  #refuse(message: ExecuteMessage | null, error: RequestError): void {
    countRefused(this.#source, message, error);
    this.#results.fail(message?.request_id ?? '', error, null);
  }
}

/** Refuses requests of a stream alone: a unary call that came before its connection was retired is still served. */
function refuseWhenLeaving({ leaving }: ExecutionSource): RequestError | undefined {
  return leaving.aborted ? shuttingDown() : undefined;
}

function shuttingDown(): RequestError {
  return requestError(code.unavailable, 'the agent is shutting down; retry with its successor', {
    reason: 'AGENT_STOPPING',
    retryAfterMs: 100,
  });
}

function refuseItem(message: ExecuteMessage | null, open: ReadonlyMap<string, SubmitItem>): RequestError | undefined {
  if (message === null) return requestError(code.invalidArgument, 'request: expected one in each item, got none');
  if (message.request_id === '')
    return requestError(code.invalidArgument, 'request_id: expected one in each item, got none');
  if (!open.has(message.request_id)) return undefined;
  return requestError(
    code.invalidArgument,
    `request_id: expected one that is not running on this stream, got "${message.request_id}"`,
  );
}
