import type {
  ServerDuplexStream,
  ServerUnaryCall,
  ServerWritableStream,
  sendUnaryData,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { Dispatch } from '../dispatch/dispatch.ts';
import type { Ask, Request, RequestError } from '../dispatch/request.ts';
import { code, refusal } from '../dispatch/request.ts';
import { errorView, toStatus } from './status.ts';

export interface ExecutionSource {
  readonly dispatch: Dispatch;
  nowMs(): number;
  toMonotonicMs(unixMs: number): number;
  newRequestId(): string;
  /** Larger results are an error: their callers could not receive them. */
  readonly resultMaxBytes: number;
  /** What one caller may leave unread before its request is ended. */
  readonly unreadMaxBytes: number;
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
}

interface SubmitMessage {
  readonly items: readonly { readonly request: ExecuteMessage | null; readonly timeout_ms: number }[];
  readonly cancel_request_ids: readonly string[];
}

const nameMaxBytes = 128;
const itemsMax = 10_000;
const contentTypes: readonly string[] = ['', 'application/json', 'application/octet-stream'];

export function executionService(source: ExecutionSource): UntypedServiceImplementation {
  return {
    Execute: (call: ServerUnaryCall<ExecuteMessage, object>, callback: sendUnaryData<object>) =>
      execute(source, call, callback),
    ExecuteStream: (call: ServerWritableStream<ExecuteMessage, object>) => executeStream(source, call),
    Submit: (call: ServerDuplexStream<SubmitMessage, object>) => submit(source, call),
  };
}

function execute(
  source: ExecutionSource,
  call: ServerUnaryCall<ExecuteMessage, object>,
  callback: sendUnaryData<object>,
): void {
  const ask = askOf(source, call.request, deadlineOf(source, call.getDeadline()), false);
  if ('code' in ask) return callback(toStatus(ask));
  const request = source.dispatch.submit(ask, {
    chunk: () => undefined,
    result: (payload, contentType, workerId) => {
      const wrong = tooLarge(source, payload, workerId);
      if (wrong !== undefined) return callback(toStatus(wrong));
      callback(null, { payload, content_type: contentType, request_id: ask.requestId, worker_id: workerId });
    },
    error: (error) => callback(toStatus(error)),
  });
  if (request !== undefined) call.on('cancelled', () => source.dispatch.cancel(request));
}

function executeStream(source: ExecutionSource, call: ServerWritableStream<ExecuteMessage, object>): void {
  const fail = (error: RequestError): void => {
    call.emit('error', toStatus(error));
  };
  const ask = askOf(source, call.request, deadlineOf(source, call.getDeadline()), true);
  if ('code' in ask) return fail(ask);
  let unread = 0;
  const write = (payload: Buffer, contentType: string, workerId: string): void => {
    if (call.cancelled || call.destroyed) return;
    const wrong = tooLarge(source, payload, workerId);
    if (wrong !== undefined) return end(wrong);
    unread += payload.length;
    const response = { payload, content_type: contentType, request_id: ask.requestId, worker_id: workerId };
    call.write(response, () => {
      unread -= payload.length;
    });
    if (unread > source.unreadMaxBytes) end(readsTooSlowly(source, ask, workerId));
  };
  /** Ends the call for a reason of its own, and the request with it. */
  const end = (error: RequestError): void => {
    fail(error);
    if (request !== undefined) source.dispatch.cancel(request);
  };
  const request: Request | undefined = source.dispatch.submit(ask, {
    chunk: write,
    result: (payload, contentType, workerId) => {
      if (contentType !== '') write(payload, contentType, workerId);
      call.end();
    },
    error: (error) => {
      if (!call.destroyed) fail(error);
    },
  });
  if (request !== undefined) call.on('cancelled', () => source.dispatch.cancel(request));
}

function tooLarge(source: ExecutionSource, payload: Buffer, workerId: string): RequestError | undefined {
  if (payload.length <= source.resultMaxBytes) return undefined;
  const message = `result: expected at most ${source.resultMaxBytes} bytes (message.max_bytes), got ${payload.length}`;
  return refusal(code.resourceExhausted, message, { workerId });
}

function readsTooSlowly(source: ExecutionSource, ask: Pick<Ask, 'requestId'>, workerId: string): RequestError {
  const message = `request ${ask.requestId}: expected its caller to leave at most ${source.unreadMaxBytes} bytes unread`;
  return refusal(code.resourceExhausted, message, { workerId });
}

/** Many requests over one stream: results that are ready in one turn leave as one message. */
function submit(source: ExecutionSource, call: ServerDuplexStream<SubmitMessage, object>): void {
  const open = new Map<string, Request>();
  let results: object[] = [];
  let resultBytes = 0;
  let scheduled = false;
  let ended = false;
  let unread = 0;

  const flush = (): void => {
    scheduled = false;
    if (call.cancelled || call.destroyed) return;
    const bytes = resultBytes;
    const message = { results };
    results = [];
    resultBytes = 0;
    if (message.results.length > 0) {
      call.write(message, () => {
        unread -= bytes;
        if (call.isPaused() && unread <= source.unreadMaxBytes / 2) call.resume();
      });
    }
    if (ended && open.size === 0) call.end();
  };
  const answer = (result: object, bytes: number): void => {
    results.push(result);
    resultBytes += bytes;
    unread += bytes;
    if (scheduled) return;
    scheduled = true;
    setImmediate(flush);
  };
  const start = (message: ExecuteMessage | null, timeoutMs: number): void => {
    const requestId = message?.request_id ?? '';
    const wrong = refuseItem(message, open);
    const deadlineMs = timeoutMs > 0 ? source.nowMs() + timeoutMs : Number.POSITIVE_INFINITY;
    const ask = wrong ?? askOf(source, message, deadlineMs, true);
    if ('code' in ask) return answer({ request_id: requestId, error: errorView(ask) }, 0);
    const response = (payload: Buffer, contentType: string, workerId: string): object => ({
      payload,
      content_type: contentType,
      request_id: requestId,
      worker_id: workerId,
    });
    let answered = false;
    const request = source.dispatch.submit(ask, {
      chunk: (payload, contentType, workerId) => {
        const sent = open.get(requestId);
        const wrong = tooLarge(source, payload, workerId);
        if (sent === undefined || answered) return;
        if (wrong !== undefined || unread > source.unreadMaxBytes) {
          answered = true;
          answer({ request_id: requestId, error: errorView(wrong ?? readsTooSlowly(source, sent, workerId)) }, 0);
          return source.dispatch.cancel(sent);
        }
        const chunk = response(payload, contentType, workerId);
        answer({ request_id: requestId, response: chunk, more: true }, payload.length);
      },
      result: (payload, contentType, workerId) => {
        open.delete(requestId);
        const wrong = tooLarge(source, payload, workerId);
        if (wrong !== undefined) return answer({ request_id: requestId, error: errorView(wrong) }, 0);
        answer({ request_id: requestId, response: response(payload, contentType, workerId) }, payload.length);
      },
      error: (error) => {
        open.delete(requestId);
        if (!answered) answer({ request_id: requestId, error: errorView(error) }, 0);
      },
    });
    if (request !== undefined && request.state !== 'ended') open.set(requestId, request);
  };

  call.on('data', (message: SubmitMessage) => {
    if (message.items.length > itemsMax) {
      const got = message.items.length;
      call.emit('error', toStatus(refusal(code.invalidArgument, `items: expected at most ${itemsMax}, got ${got}`)));
      return;
    }
    for (const item of message.items) start(item.request, item.timeout_ms);
    for (const requestId of message.cancel_request_ids) {
      const request = open.get(requestId);
      if (request !== undefined) source.dispatch.cancel(request);
    }
    // A caller that does not read its results is not read from either.
    if (unread > source.unreadMaxBytes / 2) call.pause();
  });
  call.on('end', () => {
    ended = true;
    if (open.size === 0 && !scheduled) flush();
  });
  call.on('cancelled', () => {
    for (const request of [...open.values()]) source.dispatch.cancel(request);
  });
  call.on('error', () => {
    for (const request of [...open.values()]) source.dispatch.cancel(request);
  });
}

function refuseItem(message: ExecuteMessage | null, open: ReadonlyMap<string, Request>): RequestError | undefined {
  if (message === null) return refusal(code.invalidArgument, 'request: expected one in each item, got none');
  if (message.request_id === '')
    return refusal(code.invalidArgument, 'request_id: expected one in each item, got none');
  if (!open.has(message.request_id)) return undefined;
  return refusal(
    code.invalidArgument,
    `request_id: expected one that is not running on this stream, got "${message.request_id}"`,
  );
}

/** Checks what a caller sent; what it means for pool and command dispatch says. */
function askOf(
  source: ExecutionSource,
  message: ExecuteMessage | null,
  deadlineMs: number,
  streams: boolean,
): Ask | RequestError {
  if (message === null || message.pool === '')
    return refusal(code.invalidArgument, 'pool: expected a name, got nothing');
  if (message.command === '') return refusal(code.invalidArgument, 'command: expected a name, got nothing');
  if (!contentTypes.includes(message.content_type)) {
    const wanted = 'application/json or application/octet-stream';
    return refusal(code.invalidArgument, `content_type: expected ${wanted}, got "${message.content_type}"`);
  }
  for (const name of ['request_id', 'session_id'] as const) {
    const bytes = Buffer.byteLength(message[name]);
    if (bytes > nameMaxBytes) {
      return refusal(code.invalidArgument, `${name}: expected at most ${nameMaxBytes} bytes, got ${bytes}`);
    }
  }
  return {
    pool: message.pool,
    command: message.command,
    payload: message.payload,
    contentType: message.content_type,
    requestId: message.request_id === '' ? source.newRequestId() : message.request_id,
    sessionId: message.session_id,
    idempotent: message.idempotent,
    deadlineMs,
    streams,
  };
}

/** grpc-js gives a date, or infinity where the caller set none. */
function deadlineOf(source: ExecutionSource, deadline: Date | number): number {
  const unixMs = deadline instanceof Date ? deadline.getTime() : deadline;
  return Number.isFinite(unixMs) ? source.toMonotonicMs(unixMs) : Number.POSITIVE_INFINITY;
}
