import type { ServerUnaryCall, ServerWritableStream, StatusObject, sendUnaryData } from '@grpc/grpc-js';
import { code, refusal } from '../../dispatch/request.ts';
import type { Connection } from '../connection.ts';
import { addUnread, connectionOf, tryAddUnread, unreadOfCall } from '../connection.ts';
import { roomRetryAfterMs } from '../memory-budget.ts';
import { toStatus } from '../status.ts';
import { boundTexts, bytesAtMost } from './view-bounds.ts';

/**
 * Answers of Control: their texts are bounded, and until their caller has taken them they count towards what its connection may
 * leave unread and towards the node's memory budget.
 */

type Request = Readonly<Record<string, unknown>>;
/** What a unary method answers; throws what `refusalOf` understands. */
type Answer = (request: Request) => object | Promise<object>;
export type RefusalOf = (error: unknown) => Partial<StatusObject>;

/** An answer of this size is given even if the budget is full, unless others of its connection are unread. */
const smallBytes = 64 * 1024;

/** A method that only reads: its answer is refused if it finds no room. */
export function reading(answer: Answer, refusalOf: RefusalOf) {
  return unary(answer, refusalOf, (connection, bytes) => {
    if (bytes > smallBytes || connection.unreadBytes > 0) return tryAddUnread(connection, bytes);
    addUnread(connection, bytes);
    return true;
  });
}

/** A method that changes something: it is refused before that, or answered. */
export function changing(answer: Answer, refusalOf: RefusalOf) {
  return unary(answer, refusalOf, (connection, bytes) => {
    addUnread(connection, bytes);
    return true;
  });
}

function unary(answer: Answer, refusalOf: RefusalOf, count: (connection: Connection, bytes: number) => boolean) {
  return (call: ServerUnaryCall<Request, object>, callback: sendUnaryData<object>): void => {
    const connection = connectionOf(call);
    const { memory, unreadBytes } = connection;
    if (unreadBytes > 0 && memory?.fits(smallBytes) === false) return callback(noRoom());
    const give = (made: object): void => {
      if (call.cancelled) return;
      const view = boundTexts(made);
      const bytes = bytesAtMost(view);
      if (!count(connection, bytes)) return callback(noRoom());
      // Emitted at the end of every call.
      call.on('cancelled', () => addUnread(connection, -bytes));
      callback(null, view);
    };
    try {
      const made = answer(call.request);
      if (made instanceof Promise) made.then(give, (error) => callback(refusalOf(error)));
      else give(made);
    } catch (error) {
      callback(refusalOf(error));
    }
  };
}

/** Writes messages to a stream. False: its caller leaves too much unread, and the call has been ended for that. */
export function writerOf(call: ServerWritableStream<Request, object>): (message: object) => boolean {
  const unread = unreadOfCall(connectionOf(call));
  let over = false;
  call.on('cancelled', () => {
    over = true;
    unread.forget();
  });
  return (message) => {
    if (over) return false;
    const view = boundTexts(message);
    const bytes = bytesAtMost(view);
    if (!unread.tryAdd(bytes)) {
      over = true;
      call.emit('error', noRoom());
      return false;
    }
    call.write(view, () => unread.taken(bytes));
    return true;
  };
}

function noRoom(): Partial<StatusObject> {
  const share = "no more than its share of the agent's memory (message.budget)";
  const message = `connection: expected its unread answers to use ${share}; read them, then call again`;
  return toStatus(refusal(code.resourceExhausted, message, { retryAfterMs: roomRetryAfterMs }));
}
