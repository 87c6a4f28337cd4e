import type { RequestError } from '../../dispatch/request.ts';
import { code, requestError } from '../../dispatch/request.ts';
import type { CallUnread, Connection } from '../connection.ts';
import { unreadOfCall } from '../connection.ts';
import type { MemoryAccount } from '../memory-budget.ts';
import type { ExecutionSource } from './source.ts';

/** Memory of one chunk or result beside its payload: some 300 bytes of objects, and its share of the connection's buffers. */
export const overheadBytes = 512;
/** Above the first bound of unread bytes a worker has to hold back its chunks. At the second it may go on. */
const pauseAboveBytes = 1024 * 1024;
const resumeBelowBytes = 256 * 1024;

/** Bytes that the caller of one call has not received yet. */
export interface Unread extends Omit<CallUnread, 'tryAdd'> {
  /** Whether the workers that send more must wait until `onMayResume` is called. */
  mustPause(): boolean;
}

export function createUnread(connection: Connection, onMayResume: () => void): Unread {
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
      onMayResume();
    },
    forget: unread.forget,
    mustPause: () => {
      if (unread.bytes > pauseAboveBytes) waits = true;
      return waits;
    },
  };
}

/** Refuses new requests of a connection that leaves too many bytes of answers unread. */
export function refuseUnread(source: ExecutionSource, { unreadBytes }: Connection): RequestError | undefined {
  if (unreadBytes < source.unreadMaxBytes) return undefined;
  return readsTooSlowly(source, unreadBytes, '');
}

export function refuseAnswer(
  source: ExecutionSource,
  { unreadBytes, memory }: Connection,
  payload: Buffer,
  workerId: string,
): RequestError | undefined {
  if (payload.length > source.payloadMaxBytes) {
    const message = `result: expected at most ${source.payloadMaxBytes} bytes (message.max_bytes), got ${payload.length}`;
    return requestError(code.resourceExhausted, message, { reason: 'ANSWER_TOO_LARGE', workerId, mayHaveBegun: true });
  }
  const would = unreadBytes + payload.length;
  if (memory !== undefined && !memory.fits(payload.length)) return overMemoryShare(memory, payload.length, workerId);
  // If nothing else is unread, an answer may be as large as any message.
  return unreadBytes > 0 && would > source.unreadMaxBytes ? readsTooSlowly(source, would, workerId) : undefined;
}

export function overMemoryShare({ usedBytes }: MemoryAccount, bytes: number, workerId = ''): RequestError {
  const share = "no more than its share of the agent's memory (message.budget)";
  const message = `connection: expected it to use ${share}, got ${bytes} bytes in addition to the ${usedBytes} that it uses`;
  return requestError(code.resourceExhausted, message, {
    reason: 'MEMORY_FULL',
    workerId,
    mayHaveBegun: workerId !== '',
  });
}

function readsTooSlowly(source: ExecutionSource, unreadBytes: number, workerId: string): RequestError {
  const most = `at most ${source.unreadMaxBytes} bytes (message.max_unread_bytes)`;
  const message = `connection: expected ${most} of unread answers, got ${unreadBytes}`;
  return requestError(code.resourceExhausted, message, {
    reason: 'READS_TOO_SLOWLY',
    workerId,
    mayHaveBegun: workerId !== '',
  });
}
