import type { ServerInterceptingCall, ServerInterceptor } from '@grpc/grpc-js';
import { connectionOfStream } from '../connection.ts';
import type { MemoryBudget } from '../memory-budget.ts';
import { createStallWatch } from '../stall-watch.ts';
import { CallMemory } from './call-memory.ts';
import { Decompression } from './decompression.ts';
import type { ReadCall } from './reader.ts';
import { headBytes, MessageReader } from './reader.ts';
import type { Room } from './room.ts';

/**
 * Reads messages from a call's stream in place of grpc-js's own reader. That reader keeps an object for every piece of a message
 * that arrives, and decompresses any number of compressed messages at once. Ours is bounded by the memory budget (reader.ts).
 */

export interface IncomingOptions {
  readonly budget: MemoryBudget;
  /** The budget of calls whose sender has yet to prove who it is: see `MessageReader.proven`. Default: `budget`. */
  readonly unprovenBudget?: MemoryBudget;
  /** Largest message of a method, decompressed; `path` is such as /pitwarden.v1.Execution/Submit. */
  maxBytes(path: string): number;
  /**
   * How long a large message of a stream may wait for room, in ms. Its stream is not read meanwhile. Afterwards the message is
   * read anyway, one such message at a time: a message that takes longer than this to arrive is given up for the next one.
   * Default: 0, which refuses a message that finds no room.
   */
  readonly waitForRoomMs?: number;
  /** How often messages that arrive slowly are checked, in ms: see stall-watch.ts. Default: they may take forever. */
  readonly lookAtStalledMs?: number;
}

/**
 * The parts of grpc-js's BaseServerInterceptingCall that are used here. The class is private: test/grpc/incoming.test.ts fails if
 * grpc-js changes it.
 */
interface BaseCall extends ReadCall {
  readonly handler: { readonly path: string };
  readonly incomingEncoding: string;
  decoder: object;
  decompressMessage(message: Buffer, encoding: string): Buffer | Promise<Buffer>;
}

/** The most that the calls and messages of one connection may hold while its sender has yet to prove who it is. */
const unprovenHeldMaxBytes = 256 * 1024;

/** Makes every call of a server read its messages with a MessageReader. */
export function boundIncoming(options: IncomingOptions): ServerInterceptor {
  const { budget, unprovenBudget, maxBytes, waitForRoomMs = 0, lookAtStalledMs } = options;
  const newAccount = () => unprovenBudget?.account(unprovenHeldMaxBytes) ?? budget.account();
  const stalls = lookAtStalledMs === undefined ? null : createStallWatch(lookAtStalledMs);
  const ofUnary: Room = { budget, waitMs: 0, stalls, overdraft: { reader: null, sinceMs: 0 } };
  const ofStreams: Room = { ...ofUnary, waitMs: waitForRoomMs };
  return (method, call) => {
    const base = call as unknown as BaseCall;
    // Another interceptor has refused the call (access/authorize.ts): nothing of it is read.
    if (base.stream === undefined) return call as ServerInterceptingCall;
    const connection = connectionOfStream(base.stream);
    connection.memory ??= newAccount();
    const room = method.requestStream ? ofStreams : ofUnary;
    const memory = new CallMemory(connection.memory, unprovenBudget ?? budget, method.requestStream);
    const reader = new MessageReader(base, connection, memory, room, maxBytes(base.handler.path));
    base.decoder = reader;
    if (base.incomingEncoding === 'gzip' || base.incomingEncoding === 'deflate') {
      const decompression = new Decompression(connection, reader, memory, headBytes);
      base.decompressMessage = (message, encoding) => decompression.decompress(message, encoding);
    }
    base.stream.once('close', () => reader.close());
    // The call itself is returned: a wrapper would cost every message two more calls.
    return call as ServerInterceptingCall;
  };
}

/** The reader of a call; undefined: its server does not bound what it reads. */
export function readerOf(call: object): MessageReader | undefined {
  const { call: inner } = call as { readonly call?: { readonly decoder?: object } };
  return inner?.decoder instanceof MessageReader ? inner.decoder : undefined;
}
