import type { ServerDuplexStream } from '@grpc/grpc-js';
import { hasEnded } from '../../dispatch/delivery.ts';
import type { Request, RequestError, ResponseSink } from '../../dispatch/request.ts';
import { code, refusal } from '../../dispatch/request.ts';
import { compact } from '../compact.ts';
import { connectionOf, howEnded } from '../connection.ts';
import { readerOf } from '../incoming.ts';
import { UnreadableMessage } from '../proto.ts';
import { errorView, toStatus } from '../status.ts';
import { awaitReceipt } from './call-end.ts';
import { createUnread, noRoom, overheadBytes, refuseAnswer, refuseUnread } from './flow-control.ts';
import type { ProgressRelay } from './progress-relay.ts';
import { createProgressRelay } from './progress-relay.ts';
import type { ExecuteMessage, ExecutionSource, SubmitMessage } from './source.ts';
import { requestSpecOf } from './validate.ts';

/** A Submit stream is not read from while more of its results than this are unread. */
const readBelowBytes = 8 * 1024 * 1024;
/** Payloads in one message of results; one larger goes alone. gRPC's clients take 4 MiB a message by default. */
const messageBytes = 1024 * 1024;

/** Many requests over one stream: results that are ready in one turn, or while some are being written, leave together. */
export function submit(source: ExecutionSource, call: ServerDuplexStream<SubmitMessage, object>): void {
  const connection = connectionOf(call);
  const open = new Map<string, SubmitItem>();
  const paused = new Set<Request>();
  /** Of requests whose callers asked for reports, by request_id. */
  const relays = new Map<string, ProgressRelay>();
  let results: PendingResult[] = [];
  /** Being written. */
  let underway: readonly PendingResult[] = [];
  let scheduled = false;
  let writing = false;
  let ended = false;
  let isOver = false;
  const unread = createUnread(connection, () => {
    for (const request of paused) source.dispatch.resume(request);
    paused.clear();
  });

  const flush = (): void => {
    scheduled = false;
    if (writing || call.cancelled || call.destroyed) return;
    const batch = takeMessage(results);
    results = batch === results ? [] : results.slice(batch.length);
    if (batch.length > 0) {
      writing = true;
      underway = batch;
      call.write({ results: batch.map(({ result }) => result) }, () => written(batch));
    } else if (ended && open.size === 0) {
      call.end();
    } else if (source.leaving.aborted && open.size === 0) {
      call.emit('error', toStatus(shuttingDown()));
    }
  };
  const written = (batch: readonly PendingResult[]): void => {
    writing = false;
    underway = [];
    let bytes = 0;
    for (const answered of batch) {
      bytes += answered.bytes;
      answered.written?.();
      if (answered.item !== null) {
        const { request, sink, heldBytes } = answered.item;
        connection.memory?.give(heldBytes);
        awaitReceipt(source, connection, request, sink);
      }
    }
    unread.taken(bytes);
    if (call.isPaused() && unread.bytes <= readBelowBytes) call.resume();
    if (results.length > 0 || ended || source.leaving.aborted) schedule();
  };
  const schedule = (): void => {
    if (scheduled || writing) return;
    scheduled = true;
    setImmediate(flush);
  };
  /** `item`: its request ends with this result, and keeps its memory until that is written. */
  const answer = (
    result: object,
    payloadBytes: number,
    item: SubmitItem | null,
    whenWritten: (() => void) | null = null,
  ): void => {
    // An error, to a request that is cancelled when its call is over.
    if (isOver) return;
    const bytes = payloadBytes + overheadBytes;
    results.push({ result, bytes, item, written: whenWritten });
    unread.add(bytes);
    schedule();
  };
  const fail = (requestId: string, error: RequestError, item: SubmitItem | null): void =>
    answer({ request_id: requestId, error: errorView(error) }, error.message.length + error.traceback.length, item);
  const start = (message: ExecuteMessage | null, timeoutMs: number): void => {
    const requestId = message?.request_id ?? '';
    const wrong = refuseWhenLeaving(source) ?? refuseItem(message, open) ?? refuseUnread(source, connection);
    const deadlineMs = timeoutMs > 0 ? source.nowMs() + timeoutMs : Number.POSITIVE_INFINITY;
    const spec = wrong ?? requestSpecOf(source, message, deadlineMs, true);
    if ('code' in spec) return fail(requestId, spec, null);
    const response = (payload: Buffer, contentType: string, workerId: string): object => ({
      // What waits is not to keep the worker's whole frame.
      payload: writing ? compact(payload) : payload,
      content_type: contentType,
      request_id: requestId,
      worker_id: workerId,
    });
    let answered = false;
    const sink: ResponseSink = {
      chunk: (payload, contentType, workerId) => {
        const sent = open.get(requestId);
        if (sent === undefined || answered) return;
        const wrong = refuseAnswer(source, connection, payload, workerId);
        if (wrong !== undefined) {
          answered = true;
          fail(requestId, wrong, null);
          return source.dispatch.cancel(sent.request, sink);
        }
        const chunk = response(payload, contentType, workerId);
        answer({ request_id: requestId, response: chunk, more: true }, payload.length, null);
        if (!unread.isMuch()) return;
        paused.add(sent.request);
        source.dispatch.pause(sent.request);
      },
      result: (payload, contentType, workerId) => {
        const item = forget(requestId);
        const wrong = refuseAnswer(source, connection, payload, workerId);
        if (wrong !== undefined) fail(requestId, wrong, item);
        else
          answer({ request_id: requestId, response: response(payload, contentType, workerId) }, payload.length, item);
        return wrong?.code ?? 0;
      },
      error: (error) => {
        const item = forget(requestId);
        if (!answered) fail(requestId, error, item);
        else if (item !== null) connection.memory?.give(item.heldBytes);
      },
    };
    const heldBytes = spec.payload.length + overheadBytes;
    if (connection.memory?.take(heldBytes) === false)
      return fail(requestId, noRoom(connection.memory, heldBytes), null);
    if (spec.reports) {
      const relay = createProgressRelay((report, whenWritten) =>
        answer({ request_id: requestId, progress: report, more: true }, report.message.length, null, whenWritten),
      );
      relays.set(requestId, relay);
      sink.progress = relay.report;
    }
    const request = source.dispatch.submit(spec, sink);
    if (request !== undefined && !hasEnded(request)) {
      open.set(requestId, { request, sink, heldBytes });
      return;
    }
    connection.memory?.give(heldBytes);
    if (request !== undefined) {
      // It had ended before it was asked for again, and its end has just been answered.
      const last = results.at(-1);
      if (last !== undefined) last.item = { request, sink, heldBytes: 0 };
    }
  };
  const forget = (requestId: string): SubmitItem | null => {
    const item = open.get(requestId) ?? null;
    if (item !== null && paused.size > 0) paused.delete(item.request);
    open.delete(requestId);
    if (relays.size > 0) closeRelay(requestId);
    return item;
  };

  const closeRelay = (requestId: string): void => {
    relays.get(requestId)?.close();
    relays.delete(requestId);
  };

  const reader = readerOf(call);
  call.on('data', (message: SubmitMessage | UnreadableMessage) => {
    reader?.messageHandled();
    if (message instanceof UnreadableMessage) {
      call.emit('error', toStatus(refusal(code.invalidArgument, message.problem)));
      return;
    }
    for (const item of message.items) start(item.request, item.timeout_ms);
    for (const requestId of message.cancel_request_ids) {
      const item = open.get(requestId);
      if (item !== undefined) source.dispatch.cancel(item.request, item.sink);
    }
    // A caller that does not read its results is not read from either.
    if (unread.bytes > readBelowBytes) call.pause();
  });
  call.on('end', () => {
    ended = true;
    schedule();
  });
  source.leaving.addEventListener('abort', schedule);
  const over = (): void => {
    source.leaving.removeEventListener('abort', schedule);
    isOver = true;
    unread.forget();
    for (const relay of relays.values()) relay.close();
    relays.clear();
    const leaves = howEnded(call, connection) === 'cancelled';
    const left = [...open.values()];
    open.clear();
    for (const { request, sink, heldBytes } of left) {
      connection.memory?.give(heldBytes);
      if (leaves) source.dispatch.cancel(request, sink);
      else source.dispatch.settle(request, sink, false);
    }
    for (const { item } of [...underway, ...results]) {
      if (item === null) continue;
      connection.memory?.give(item.heldBytes);
      source.dispatch.settle(item.request, item.sink, leaves);
    }
    results = [];
    underway = [];
  };
  call.on('cancelled', over);
  call.on('error', over);
}

/** A request of a Submit stream, and where its answers go. */
interface SubmitItem {
  readonly request: Request;
  readonly sink: ResponseSink;
  /** What it holds of the memory budget. */
  readonly heldBytes: number;
}

/** One result of Submit that waits to be written. */
interface PendingResult {
  readonly result: object;
  readonly bytes: number;
  item: SubmitItem | null;
  /** Called when it was written. */
  readonly written: (() => void) | null;
}

/** As many as one message may hold, at least one; the same array when that is all of them. */
function takeMessage(results: PendingResult[]): PendingResult[] {
  let bytes = 0;
  for (let index = 0; index < results.length; index += 1) {
    bytes += results[index]?.bytes ?? 0;
    if (bytes > messageBytes && index > 0) return results.slice(0, index);
  }
  return results;
}

/** Said of a stream's requests alone: a call that came before its connection was told to take none is still served. */
function refuseWhenLeaving({ leaving }: ExecutionSource): RequestError | undefined {
  return leaving.aborted ? shuttingDown() : undefined;
}

function shuttingDown(): RequestError {
  return refusal(code.unavailable, 'the agent is shutting down; retry with its successor', { retryAfterMs: 100 });
}

function refuseItem(message: ExecuteMessage | null, open: ReadonlyMap<string, SubmitItem>): RequestError | undefined {
  if (message === null) return refusal(code.invalidArgument, 'request: expected one in each item, got none');
  if (message.request_id === '')
    return refusal(code.invalidArgument, 'request_id: expected one in each item, got none');
  if (!open.has(message.request_id)) return undefined;
  return refusal(
    code.invalidArgument,
    `request_id: expected one that is not running on this stream, got "${message.request_id}"`,
  );
}
