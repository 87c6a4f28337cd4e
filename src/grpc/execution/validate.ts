import type { RequestError, RequestSpec } from '../../dispatch/request.ts';
import { code, requestError } from '../../dispatch/request.ts';
import { requestIdMaxBytes } from '../../domain/text-bounds.ts';
import { mayCall } from '../access/identity.ts';
import { compact } from '../compact.ts';
import type { Connection } from '../connection.ts';
import { UnreadableMessage } from '../proto.ts';
import { refuseUnread } from './flow-control.ts';
import type { ExecuteMessage, ExecutionSource } from './source.ts';

const contentTypes: readonly string[] = [
  '',
  'application/json',
  'application/octet-stream',
  'application/vnd.pitwarden.arguments+json',
];

export interface CheckedSpec extends RequestSpec {
  /** The caller asked for reports of the command's progress. */
  readonly reports: boolean;
}

interface RequestCall {
  readonly request: ExecuteMessage | UnreadableMessage;
  getDeadline(): Date | number;
}

/** The request of a call that has one, or why it is refused. */
export function specOfCall(
  source: ExecutionSource,
  call: RequestCall,
  connection: Connection,
  streams: boolean,
): CheckedSpec | RequestError {
  const spec =
    refuseUnread(source, connection) ??
    requestSpecOf(source, connection, call.request, deadlineOf(source, call.getDeadline()), streams);
  if ('code' in spec) countRefused(source, call.request, spec);
  return spec;
}

/** Counts a request that dispatch does not see. The pool of an unreadable message is not known. */
export function countRefused(
  { dispatch }: ExecutionSource,
  message: ExecuteMessage | UnreadableMessage | null,
  { code }: RequestError,
): void {
  if (message !== null && 'pool' in message) dispatch.countRefused(message.pool, code);
}

/** Checks the fields of a request, and whether its caller may call the pool. Dispatch checks whether pool and command exist. */
export function requestSpecOf(
  source: ExecutionSource,
  { identity }: Connection,
  message: ExecuteMessage | UnreadableMessage | null,
  deadlineMs: number,
  streams: boolean,
): CheckedSpec | RequestError {
  if (message instanceof UnreadableMessage) return requestError(code.invalidArgument, message.problem);
  if (message === null || message.pool === '')
    return requestError(code.invalidArgument, 'pool: expected a name, got nothing');
  const { pool } = message;
  if (identity !== undefined && !mayCall(identity, pool)) {
    return requestError(code.permissionDenied, `pool: expected one that ${identity.name} may call, got "${pool}"`);
  }
  if (message.command === '') return requestError(code.invalidArgument, 'command: expected a name, got nothing');
  if (message.payload.length > source.payloadMaxBytes) {
    const most = `at most ${source.payloadMaxBytes} bytes (message.max_bytes)`;
    return requestError(code.resourceExhausted, `payload: expected ${most}, got ${message.payload.length}`, {
      reason: 'REQUEST_TOO_LARGE',
    });
  }
  if (!contentTypes.includes(message.content_type)) {
    const wanted = contentTypes.filter((type) => type !== '').join(' or ');
    return requestError(code.invalidArgument, `content_type: expected ${wanted}, got "${message.content_type}"`);
  }
  if (message.progress && !streams) {
    const wanted = 'expected false in Execute, which has no place for reports (ExecuteStream and Submit have)';
    return requestError(code.invalidArgument, `progress: ${wanted}, got true`);
  }
  for (const name of ['request_id', 'session_id'] as const) {
    const bytes = Buffer.byteLength(message[name]);
    if (bytes > requestIdMaxBytes) {
      return requestError(code.invalidArgument, `${name}: expected at most ${requestIdMaxBytes} bytes, got ${bytes}`);
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

/** The monotonic time of a call's deadline. grpc-js gives a date, or infinity if the caller set no deadline. */
function deadlineOf(source: ExecutionSource, deadline: Date | number): number {
  const unixMs = deadline instanceof Date ? deadline.getTime() : deadline;
  return Number.isFinite(unixMs) ? source.toMonotonicMs(unixMs) : Number.POSITIVE_INFINITY;
}
