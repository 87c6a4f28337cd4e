import type {
  ServerDuplexStream,
  ServerUnaryCall,
  ServerWritableStream,
  sendUnaryData,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { hasEnded } from '../../dispatch/delivery.ts';
import type { Dispatch } from '../../dispatch/dispatch.ts';
import type { Request, RequestError, RequestSpec, ResponseSink } from '../../dispatch/request.ts';
import { code, needsReceipt, refusal } from '../../dispatch/request.ts';
import { requestBytesOf } from '../../dispatch/unclaimed.ts';
import { requestIdMaxBytes } from '../../domain/text-bounds.ts';
import { compact } from '../compact.ts';
import type { Asked, CallUnread, Connection } from '../connection.ts';
import { addUnread, connectionOf, howEnded, unreadOfCall } from '../connection.ts';
import { readerOf } from '../incoming.ts';
import type { MemoryAccount } from '../memory-budget.ts';
import { UnreadableMessage } from '../proto.ts';
import { errorView, toStatus } from '../status.ts';
import type { ProgressRelay } from './progress-relay.ts';
import { createProgressRelay } from './progress-relay.ts';
import { createReceipts } from './receipts.ts';

export interface ExecutionSource {
  readonly dispatch: Dispatch;
  nowMs(): number;
  toMonotonicMs(unixMs: number): number;
  newRequestId(): string;
  /** Larger payloads are refused, of requests and of results. */
  readonly payloadMaxBytes: number;
  /** Bytes of answers that one connection may leave unread. */
  readonly unreadMaxBytes: number;
  /** Aborted when the agent goes: streams of requests take no more of them, and end. */
  readonly leaving: AbortSignal;
}

/** ExecuteRequest as it comes off the wire. */
interface ExecuteMessage {
  readonly pool: string;
  readonly command: string;
  readonly payload: Buffer;
  readonly content_type: string;
  readonly request_id: string;
  readonly session_id: string;
  readonly idempotent: boolean;
  readonly progress: boolean;
}

interface SubmitMessage {
  readonly items: readonly { readonly request: ExecuteMessage | null; readonly timeout_ms: number }[];
  readonly cancel_request_ids: readonly string[];
}

/** Bytes of chunks that a caller may leave unread before its worker is told to wait, and at which it may go on. */
const pauseAboveBytes = 1024 * 1024;
const resumeBelowBytes = 256 * 1024;
/** What one chunk or result costs beside its payload: some 300 bytes as objects, and what is around it on the line. */
const overheadBytes = 512;
/** Payloads of answered requests that one connection keeps until its caller is known to have read the answers. */
const unprovenMaxBytes = 1024 * 1024;
/** A Submit stream is not read from while more of its results than this are unread. */
const readBelowBytes = 8 * 1024 * 1024;
/** Payloads in one message of results; one larger goes alone. gRPC's clients take 4 MiB a message unless told otherwise. */
const messageBytes = 1024 * 1024;
const contentTypes: readonly string[] = [
  '',
  'application/json',
  'application/octet-stream',
  'application/vnd.pitwarden.arguments+json',
];

export function executionService(source: ExecutionSource): UntypedServiceImplementation {
  return {
    Execute: (call: ServerUnaryCall<ExecuteMessage | UnreadableMessage, object>, callback: sendUnaryData<object>) =>
      execute(source, call, callback),
    ExecuteStream: (call: ServerWritableStream<ExecuteMessage | UnreadableMessage, object>) =>
      executeStream(source, call),
    Submit: (call: ServerDuplexStream<SubmitMessage, object>) => submit(source, call),
  };
}

function execute(
  source: ExecutionSource,
  call: ServerUnaryCall<ExecuteMessage | UnreadableMessage, object>,
  callback: sendUnaryData<object>,
): void {
  const connection = connectionOf(call);
  const ask =
    refuseUnread(source, connection) ?? askOf(source, call.request, deadlineOf(source, call.getDeadline()), false);
  if ('code' in ask) return callback(toStatus(ask));
  let unread = 0;
  const answers: ResponseSink = {
    chunk: () => undefined,
    result: (payload, contentType, workerId) => {
      const wrong = refuseAnswer(source, connection, payload, workerId);
      if (wrong !== undefined) {
        callback(toStatus(wrong));
        return wrong.code;
      }
      unread = payload.length;
      addUnread(connection, unread);
      callback(null, { payload, content_type: contentType, request_id: ask.requestId, worker_id: workerId });
      return 0;
    },
    error: (error) => callback(toStatus(error)),
  };
  const request = source.dispatch.submit(ask, answers);
  if (request === undefined) return;
  // Said of every call: when its answer has left, or when its caller has.
  call.on('cancelled', () => {
    addUnread(connection, -unread);
    callOver(source, call, connection, request, answers);
  });
}

/** A caller that went by itself wants no answer; one whose connection broke may ask for it again. */
function callOver(
  source: ExecutionSource,
  call: object,
  connection: Connection,
  request: Request,
  answers: ResponseSink,
): void {
  const how = howEnded(call, connection);
  if (how === 'cancelled') source.dispatch.cancel(request, answers);
  else if (how === 'broken') source.dispatch.settle(request, answers, false);
  else awaitReceipt(source, connection, request, answers);
}

/** Its answer is on its way. A named request is forgotten, here and by its worker, when the caller is known to have read it. */
function awaitReceipt(source: ExecutionSource, connection: Connection, request: Request, answers: ResponseSink): void {
  const { dispatch } = source;
  const { session } = connection;
  if (!needsReceipt(request)) return dispatch.settle(request, answers, true);
  if (session === undefined || session.destroyed) return dispatch.settle(request, answers, false);
  const { memory } = connection;
  connection.receipts ??= createReceipts<Asked>(session, (asked, isRead) => {
    connection.unprovenBytes -= asked.payloadBytes;
    memory?.give(asked.heldBytes);
    dispatch.settle(asked.request, asked.answers, isRead);
  });
  const { payload } = request;
  const fits = connection.unprovenBytes + payload.length <= unprovenMaxBytes && memory?.fits(payload.length) !== false;
  if (!fits) dispatch.dropPayload(request, answers);
  const payloadBytes = request.payload.length;
  const heldBytes = requestBytesOf(request) + payloadBytes;
  connection.unprovenBytes += payloadBytes;
  memory?.add(heldBytes);
  connection.receipts.add({ request, answers, payloadBytes, heldBytes });
}

function executeStream(
  source: ExecutionSource,
  call: ServerWritableStream<ExecuteMessage | UnreadableMessage, object>,
): void {
  const fail = (error: RequestError): void => {
    call.emit('error', toStatus(error));
  };
  const connection = connectionOf(call);
  const ask =
    refuseUnread(source, connection) ?? askOf(source, call.request, deadlineOf(source, call.getDeadline()), true);
  if ('code' in ask) return fail(ask);
  const unread = createUnread(connection, () => request !== undefined && source.dispatch.resume(request));
  const write = (payload: Buffer, contentType: string, workerId: string): number => {
    if (over || call.cancelled || call.destroyed) return code.cancelled;
    const wrong = refuseAnswer(source, connection, payload, workerId);
    if (wrong !== undefined) {
      end(wrong);
      return wrong.code;
    }
    const bytes = payload.length + overheadBytes;
    // What waits behind others is not to keep the worker's whole frame.
    const own = unread.bytes > 0 ? compact(payload) : payload;
    unread.add(bytes);
    const response = { payload: own, content_type: contentType, request_id: ask.requestId, worker_id: workerId };
    call.write(response, () => unread.taken(bytes));
    if (unread.isMuch() && request !== undefined) source.dispatch.pause(request);
    return 0;
  };
  let over = false;
  /** Ends the call for a reason of its own, and the request with it. */
  const end = (error: RequestError): void => {
    over = true;
    fail(error);
    if (request !== undefined) source.dispatch.cancel(request, answers);
  };
  const relay = ask.reports
    ? createProgressRelay((report, written) => {
        if (over || call.cancelled || call.destroyed) return;
        const bytes = overheadBytes + report.message.length;
        unread.add(bytes);
        call.write({ request_id: ask.requestId, progress: report }, () => {
          unread.taken(bytes);
          written();
        });
      })
    : null;
  const answers: ResponseSink = {
    chunk: write,
    result: (payload, contentType, workerId) => {
      relay?.close();
      const told = contentType === '' ? 0 : write(payload, contentType, workerId);
      if (told === 0) call.end();
      return told;
    },
    error: (error) => {
      relay?.close();
      if (!over && !call.destroyed) fail(error);
    },
  };
  if (relay !== null) answers.progress = relay.report;
  const request: Request | undefined = source.dispatch.submit(ask, answers);
  call.on('cancelled', () => {
    relay?.close();
    unread.forget();
    if (request !== undefined) callOver(source, call, connection, request, answers);
  });
}

/** What one call's caller has not taken yet. */
interface Unread extends Omit<CallUnread, 'tryAdd'> {
  /** So much that the workers that make more of it should wait; `onLittle` is called when they may go on. */
  isMuch(): boolean;
}

function createUnread(connection: Connection, onLittle: () => void): Unread {
  const unread = unreadOfCall(connection);
  let waits = false;
  return {
    get bytes() {
      return unread.bytes;
    },
    add: unread.add,
    taken: (bytes) => {
      unread.taken(bytes);
      if (!waits || unread.bytes > resumeBelowBytes) return;
      waits = false;
      onLittle();
    },
    forget: unread.forget,
    isMuch: () => {
      if (unread.bytes > pauseAboveBytes) waits = true;
      return waits;
    },
  };
}

/** A connection that takes no answers is given no more of them. */
function refuseUnread(source: ExecutionSource, { unreadBytes }: Connection): RequestError | undefined {
  if (unreadBytes < source.unreadMaxBytes) return undefined;
  return readsTooSlowly(source, unreadBytes, '');
}

function refuseAnswer(
  source: ExecutionSource,
  { unreadBytes, memory }: Connection,
  payload: Buffer,
  workerId: string,
): RequestError | undefined {
  if (payload.length > source.payloadMaxBytes) {
    const message = `result: expected at most ${source.payloadMaxBytes} bytes (message.max_bytes), got ${payload.length}`;
    return refusal(code.resourceExhausted, message, { workerId, mayHaveBegun: true });
  }
  const would = unreadBytes + payload.length;
  if (memory !== undefined && !memory.fits(payload.length)) return noRoom(memory, payload.length, workerId);
  // One answer alone may be as large as any message.
  return unreadBytes > 0 && would > source.unreadMaxBytes ? readsTooSlowly(source, would, workerId) : undefined;
}

function noRoom({ usedBytes }: MemoryAccount, bytes: number, workerId = ''): RequestError {
  const share = "no more than its share of the agent's memory (message.budget)";
  const message = `connection: expected it to use ${share}, got ${bytes} bytes in addition to the ${usedBytes} that it uses`;
  return refusal(code.resourceExhausted, message, { workerId, mayHaveBegun: workerId !== '' });
}

function readsTooSlowly(source: ExecutionSource, unreadBytes: number, workerId: string): RequestError {
  const most = `at most ${source.unreadMaxBytes} bytes (message.max_unread_bytes)`;
  const message = `connection: expected ${most} of unread answers, got ${unreadBytes}`;
  return refusal(code.resourceExhausted, message, { workerId, mayHaveBegun: workerId !== '' });
}

/** Many requests over one stream: results that are ready in one turn, or while some are being written, leave together. */
function submit(source: ExecutionSource, call: ServerDuplexStream<SubmitMessage, object>): void {
  const connection = connectionOf(call);
  const open = new Map<string, SubmitItem>();
  const paused = new Set<Request>();
  /** Of requests whose callers asked for reports, by request_id. */
  const relays = new Map<string, ProgressRelay>();
  let results: Answered[] = [];
  /** Being written. */
  let underway: readonly Answered[] = [];
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
      call.emit('error', toStatus(goes()));
    }
  };
  const written = (batch: readonly Answered[]): void => {
    writing = false;
    underway = [];
    let bytes = 0;
    for (const answered of batch) {
      bytes += answered.bytes;
      answered.written?.();
      if (answered.asked !== null) {
        const { request, answers, heldBytes } = answered.asked;
        connection.memory?.give(heldBytes);
        awaitReceipt(source, connection, request, answers);
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
  /** `asked`: the last word on it, which holds what the request held until it is written. */
  const answer = (
    result: object,
    payloadBytes: number,
    asked: SubmitItem | null,
    whenWritten: (() => void) | null = null,
  ): void => {
    // An error, to a request that is cancelled when its call is over.
    if (isOver) return;
    const bytes = payloadBytes + overheadBytes;
    results.push({ result, bytes, asked, written: whenWritten });
    unread.add(bytes);
    schedule();
  };
  const fail = (requestId: string, error: RequestError, asked: SubmitItem | null): void =>
    answer({ request_id: requestId, error: errorView(error) }, error.message.length + error.traceback.length, asked);
  const start = (message: ExecuteMessage | null, timeoutMs: number): void => {
    const requestId = message?.request_id ?? '';
    const wrong = refuseWhenLeaving(source) ?? refuseItem(message, open) ?? refuseUnread(source, connection);
    const deadlineMs = timeoutMs > 0 ? source.nowMs() + timeoutMs : Number.POSITIVE_INFINITY;
    const ask = wrong ?? askOf(source, message, deadlineMs, true);
    if ('code' in ask) return fail(requestId, ask, null);
    const response = (payload: Buffer, contentType: string, workerId: string): object => ({
      // What waits is not to keep the worker's whole frame.
      payload: writing ? compact(payload) : payload,
      content_type: contentType,
      request_id: requestId,
      worker_id: workerId,
    });
    let answered = false;
    const answers: ResponseSink = {
      chunk: (payload, contentType, workerId) => {
        const sent = open.get(requestId);
        if (sent === undefined || answered) return;
        const wrong = refuseAnswer(source, connection, payload, workerId);
        if (wrong !== undefined) {
          answered = true;
          fail(requestId, wrong, null);
          return source.dispatch.cancel(sent.request, answers);
        }
        const chunk = response(payload, contentType, workerId);
        answer({ request_id: requestId, response: chunk, more: true }, payload.length, null);
        if (!unread.isMuch()) return;
        paused.add(sent.request);
        source.dispatch.pause(sent.request);
      },
      result: (payload, contentType, workerId) => {
        const asked = forget(requestId);
        const wrong = refuseAnswer(source, connection, payload, workerId);
        if (wrong !== undefined) fail(requestId, wrong, asked);
        else
          answer({ request_id: requestId, response: response(payload, contentType, workerId) }, payload.length, asked);
        return wrong?.code ?? 0;
      },
      error: (error) => {
        const asked = forget(requestId);
        if (!answered) fail(requestId, error, asked);
        else if (asked !== null) connection.memory?.give(asked.heldBytes);
      },
    };
    const heldBytes = ask.payload.length + overheadBytes;
    if (connection.memory?.take(heldBytes) === false)
      return fail(requestId, noRoom(connection.memory, heldBytes), null);
    if (ask.reports) {
      const relay = createProgressRelay((report, whenWritten) =>
        answer({ request_id: requestId, progress: report, more: true }, report.message.length, null, whenWritten),
      );
      relays.set(requestId, relay);
      answers.progress = relay.report;
    }
    const request = source.dispatch.submit(ask, answers);
    if (request !== undefined && !hasEnded(request)) {
      open.set(requestId, { request, answers, heldBytes });
      return;
    }
    connection.memory?.give(heldBytes);
    if (request !== undefined) {
      // How it had ended before it was asked for again: that has just been answered.
      const last = results.at(-1);
      if (last !== undefined) last.asked = { request, answers, heldBytes: 0 };
    }
  };
  const forget = (requestId: string): SubmitItem | null => {
    const asked = open.get(requestId) ?? null;
    if (asked !== null && paused.size > 0) paused.delete(asked.request);
    open.delete(requestId);
    if (relays.size > 0) closeRelay(requestId);
    return asked;
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
      const asked = open.get(requestId);
      if (asked !== undefined) source.dispatch.cancel(asked.request, asked.answers);
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
    for (const { request, answers, heldBytes } of left) {
      connection.memory?.give(heldBytes);
      if (leaves) source.dispatch.cancel(request, answers);
      else source.dispatch.settle(request, answers, false);
    }
    for (const { asked } of [...underway, ...results]) {
      if (asked === null) continue;
      connection.memory?.give(asked.heldBytes);
      source.dispatch.settle(asked.request, asked.answers, leaves);
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
  readonly answers: ResponseSink;
  /** What it holds of the memory budget. */
  readonly heldBytes: number;
}

/** One result of Submit that waits to be written. */
interface Answered {
  readonly result: object;
  readonly bytes: number;
  asked: SubmitItem | null;
  /** Called when it was written. */
  readonly written: (() => void) | null;
}

/** As many as one message may hold, at least one; the same array when that is all of them. */
function takeMessage(results: Answered[]): Answered[] {
  let bytes = 0;
  for (let index = 0; index < results.length; index += 1) {
    bytes += results[index]?.bytes ?? 0;
    if (bytes > messageBytes && index > 0) return results.slice(0, index);
  }
  return results;
}

/** Said of a stream's requests alone: a call that came before its connection was told to take none is still served. */
function refuseWhenLeaving({ leaving }: ExecutionSource): RequestError | undefined {
  return leaving.aborted ? goes() : undefined;
}

function goes(): RequestError {
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

interface CheckedAsk extends RequestSpec {
  /** The caller wants to know what its command reports of its progress. */
  readonly reports: boolean;
}

/** Checks what a caller sent; what it means for pool and command dispatch says. */
function askOf(
  source: ExecutionSource,
  message: ExecuteMessage | UnreadableMessage | null,
  deadlineMs: number,
  streams: boolean,
): CheckedAsk | RequestError {
  if (message instanceof UnreadableMessage) return refusal(code.invalidArgument, message.problem);
  if (message === null || message.pool === '')
    return refusal(code.invalidArgument, 'pool: expected a name, got nothing');
  if (message.command === '') return refusal(code.invalidArgument, 'command: expected a name, got nothing');
  if (message.payload.length > source.payloadMaxBytes) {
    const most = `at most ${source.payloadMaxBytes} bytes (message.max_bytes)`;
    return refusal(code.resourceExhausted, `payload: expected ${most}, got ${message.payload.length}`);
  }
  if (!contentTypes.includes(message.content_type)) {
    const wanted = contentTypes.filter((type) => type !== '').join(' or ');
    return refusal(code.invalidArgument, `content_type: expected ${wanted}, got "${message.content_type}"`);
  }
  if (message.progress && !streams) {
    const wanted = 'expected false in Execute, which has no place for reports (ExecuteStream and Submit have)';
    return refusal(code.invalidArgument, `progress: ${wanted}, got true`);
  }
  for (const name of ['request_id', 'session_id'] as const) {
    const bytes = Buffer.byteLength(message[name]);
    if (bytes > requestIdMaxBytes) {
      return refusal(code.invalidArgument, `${name}: expected at most ${requestIdMaxBytes} bytes, got ${bytes}`);
    }
  }
  return {
    pool: message.pool,
    command: message.command,
    payload: compact(message.payload),
    contentType: message.content_type,
    requestId: message.request_id === '' ? source.newRequestId() : message.request_id,
    hasCallerId: message.request_id !== '',
    sessionId: message.session_id,
    idempotent: message.idempotent,
    deadlineMs,
    streams,
    reports: message.progress,
  };
}

/** grpc-js gives a date, or infinity where the caller set none. */
function deadlineOf(source: ExecutionSource, deadline: Date | number): number {
  const unixMs = deadline instanceof Date ? deadline.getTime() : deadline;
  return Number.isFinite(unixMs) ? source.toMonotonicMs(unixMs) : Number.POSITIVE_INFINITY;
}
