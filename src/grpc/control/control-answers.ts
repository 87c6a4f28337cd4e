import type { ServerUnaryCall, ServerWritableStream, StatusObject, sendUnaryData } from '@grpc/grpc-js';
import { code, requestError } from '../../dispatch/request.ts';
import type { Identity } from '../access/identity.ts';
import type { Connection } from '../connection.ts';
import { addUnread, connectionOf, tryAddUnread, unreadOfCall } from '../connection.ts';
import { roomRetryAfterMs } from '../memory-budget.ts';
import { toStatus } from '../status.ts';
import type { ControlRequest } from './source.ts';
import { boundTexts, bytesAtMost } from './view-bounds.ts';

/**
 * Answers of Control. Their texts are bounded. Until the caller has received an answer, it counts as unread on its connection, and
 * towards the node's memory budget.
 */

/** Makes the answer of a unary method, or throws an error that `refusalOf` understands. */
export type Answer = (request: ControlRequest, caller: Caller) => object | Promise<object>;

/** Who made a call, and which. */
export interface Caller {
  /** The name of the method, such as `ScalePool`. */
  readonly method: string;
  /** Undefined: whoever can connect may call everything. */
  readonly identity: Identity | undefined;
  /** The caller's address as grpc-js shows it. */
  readonly peer: string;
}

export type RefusalOf = (error: unknown) => Partial<StatusObject>;

/** A smaller answer is sent even if the budget is full, unless other answers of its connection are unread. */
const smallBytes = 64 * 1024;

/** A method that only reads. If there is no room for its answer, the call is refused. */
export function reading(answer: Answer, refusalOf: RefusalOf) {
  return unary(answer, refusalOf, (connection, bytes) => {
    if (bytes > smallBytes || connection.unreadBytes > 0) return tryAddUnread(connection, bytes);
    addUnread(connection, bytes);
    return true;
  });
}

/** A method that changes something. It is refused before the change, or answered in any case. */
export function changing(answer: Answer, refusalOf: RefusalOf) {
  return unary(answer, refusalOf, (connection, bytes) => {
    addUnread(connection, bytes);
    return true;
  });
}

function unary(answer: Answer, refusalOf: RefusalOf, count: (connection: Connection, bytes: number) => boolean) {
  return (call: ServerUnaryCall<ControlRequest, object>, callback: sendUnaryData<object>): void => {
    const connection = connectionOf(call);
    const { memory, unreadBytes } = connection;
    if (unreadBytes > 0 && memory?.fits(smallBytes) === false) return callback(unreadOverShare());
    const give = (made: object): void => {
      if (call.cancelled) return;
      const view = boundTexts(made);
      const bytes = bytesAtMost(view);
      if (!count(connection, bytes)) return callback(unreadOverShare());
      // grpc-js emits `cancelled` at the end of every call.
      call.on('cancelled', () => addUnread(connection, -bytes));
      callback(null, view);
    };
    try {
      const made = answer(call.request, callerOf(call));
      if (made instanceof Promise) made.then(give, (error) => callback(refusalOf(error)));
      else give(made);
    } catch (error) {
      callback(refusalOf(error));
    }
  };
}

export function callerOf(
  call: ServerUnaryCall<ControlRequest, object> | ServerWritableStream<ControlRequest, object>,
): Caller {
  const method = call.getPath().split('/').at(-1) ?? '';
  return { method, identity: connectionOf(call).identity, peer: call.getPeer() };
}

/**
 * Writes messages to a stream, and calls `onTaken` when the caller's flow control has let the message go. False: the call has ended,
 * or was ended because the caller leaves too much unread.
 */
export function writerOf(
  call: ServerWritableStream<ControlRequest, object>,
): (message: object, onTaken?: () => void) => boolean {
  const unread = unreadOfCall(connectionOf(call));
  let over = false;
  call.on('cancelled', () => {
    over = true;
    unread.forget();
  });
  return (message, onTaken) => {
    if (over) return false;
    // A message of the change log is encoded, and its texts are bounded.
    const view = Buffer.isBuffer(message) ? message : boundTexts(message);
    const bytes = Buffer.isBuffer(view) ? view.length : bytesAtMost(view);
    if (!unread.tryAdd(bytes)) {
      over = true;
      call.emit('error', unreadOverShare());
      return false;
    }
    call.write(view, () => {
      unread.taken(bytes);
      onTaken?.();
    });
    return true;
  };
}

function unreadOverShare(): Partial<StatusObject> {
  const share = "no more than its share of the agent's memory (message.budget)";
  const message = `connection: expected its unread answers to use ${share}; read them, then call again`;
  return toStatus(
    requestError(code.resourceExhausted, message, { reason: 'READS_TOO_SLOWLY', retryAfterMs: roomRetryAfterMs }),
  );
}
