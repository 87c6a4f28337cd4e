import type { ServerHttp2Stream } from 'node:http2';
import { createGunzip, createInflate } from 'node:zlib';
import type { Metadata, ServerInterceptingCall, ServerInterceptor } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { code, refusal } from '../dispatch/request.ts';
import type { Connection } from './connection.ts';
import { connectionOfStream } from './connection.ts';
import type { MemoryAccount, MemoryBudget } from './memory-budget.ts';
import { roomRetryAfterMs } from './memory-budget.ts';
import type { StallWatch } from './stall-watch.ts';
import { createStallWatch } from './stall-watch.ts';
import { toStatus } from './status.ts';

/**
 * Reads messages off a call's stream in place of grpc-js's own reader. That one keeps an object for every piece of a message
 * that arrives, and unfolds compressed messages in whatever number they come. This one holds a message once, in the size
 * that its head declares, and only if the memory budget has room for it.
 */

export interface IncomingOptions {
  readonly budget: MemoryBudget;
  /** Largest message of a method, unfolded; `path` is such as /pitwarden.v1.Execution/Submit. */
  maxBytes(path: string): number;
  /**
   * How long a large message of a stream may wait for room, in ms; its stream is not read meanwhile. After that it is read all
   * the same, one such message at a time: one that takes longer than this to arrive is given up for the next. Default: 0, which
   * refuses a message that finds no room.
   */
  readonly waitForRoomMs?: number;
  /** How often messages that arrive slowly are looked at, in ms: see stall-watch.ts. Default: they may take for ever. */
  readonly lookAtStalledMs?: number;
}

/** As much of grpc-js's BaseServerInterceptingCall as is used. It is private there: test/grpc/incoming.test.ts fails if it moves. */
interface BaseCall {
  readonly stream: ServerHttp2Stream;
  readonly handler: { readonly path: string };
  readonly incomingEncoding: string;
  readonly metadata: { readonly internalRepr?: ReadonlyMap<string, readonly (string | Buffer)[]> };
  decoder: object;
  decompressMessage(message: Buffer, encoding: string): Buffer | Promise<Buffer>;
  handleDataFrame(data: Buffer): void;
  sendStatus(status: Status): void;
}

interface Status {
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata | null;
}

/** A message's first bytes: whether it is compressed, and its length. */
const headBytes = 5;
/** What grpc-js, Node and V8 hold for one call beside its headers and messages: some 10 KiB. */
const callBytes = 10 * 1024;
/** The state of zlib for one message. */
const unfolderBytes = 64 * 1024;

/**
 * A message of at most this size does not wait: pongs and ordinary results must not stand behind others' large ones. It is the
 * size of a frame of small results.
 */
const unwaitedBytes = 1024 * 1024 + 64 * 1024;

/** As much of a message as `Unproven.admit` is shown. */
const beginningBytes = 1024;

/** Makes every call of a server read its messages here. */
export function boundIncoming(options: IncomingOptions): ServerInterceptor {
  const { budget, maxBytes, waitForRoomMs = 0, lookAtStalledMs } = options;
  const stalls = lookAtStalledMs === undefined ? null : createStallWatch(lookAtStalledMs);
  const overdraft: Overdraft = { reader: null, sinceMs: 0 };
  return (method, call) => {
    const base = call as unknown as BaseCall;
    const connection = connectionOfStream(base.stream);
    connection.memory ??= budget.account();
    const waitMs = method.requestStream ? waitForRoomMs : 0;
    const room = { memory: connection.memory, budget, waitMs, stalls, overdraft };
    const reader = new MessageReader(base, connection, room, maxBytes(base.handler.path), method.requestStream);
    base.decoder = reader;
    if (base.incomingEncoding === 'gzip' || base.incomingEncoding === 'deflate') {
      base.decompressMessage = (message, encoding) => reader.unfold(message, encoding);
    }
    base.stream.once('close', () => reader.close());
    // As it is: one that wraps it would cost every message two more calls.
    return call as ServerInterceptingCall;
  };
}

/** The reader of a call; undefined: its server bounds nothing. */
export function readerOf(call: object): MessageReader | undefined {
  const { call: inner } = call as { readonly call?: { readonly decoder?: object } };
  return inner?.decoder instanceof MessageReader ? inner.decoder : undefined;
}

/** How large the messages of a sender are that has not proven itself. */
export interface Unproven {
  /** A message of more bytes is read only if its beginning is admitted. */
  readonly maxBytes: number;
  /** Asked with the first bytes of such a message. False: the call has been ended. */
  admit(beginning: Buffer): boolean;
}

interface Room {
  readonly memory: MemoryAccount;
  readonly budget: MemoryBudget;
  readonly waitMs: number;
  readonly stalls: StallWatch | null;
  readonly overdraft: Overdraft;
}

/** The one message of a server that is read though there is no room for it. */
interface Overdraft {
  reader: MessageReader | null;
  sinceMs: number;
}

/** A message whose beginning has come and that waits for room. */
interface Waiting {
  readonly bytes: number;
  /** Its first bytes, and those that came after them. */
  readonly beginning: Buffer;
  rest: Buffer;
  /** It has room, and is read in the next turn. */
  isOver: boolean;
  /** Stops waiting for room. */
  stop(): void;
}

export class MessageReader {
  /** Largest message, unfolded. */
  maxBytes: number;
  /** Null: who sends is known. */
  unproven: Unproven | null = null;
  readonly #base: BaseCall;
  readonly #connection: Connection;
  readonly #room: Room;
  /** Of one that streams, who handles a message holds it; that of a single one is held until the call is over. */
  readonly #isStream: boolean;
  #heldBytes = 0;
  /** Of a stream: bytes of the messages that are whole and not handled yet. */
  readonly #unhandled: number[] = [];
  /** Messages that were handled, and those that were given to `unfold`. */
  #handledCount = 0;
  #unfoldedCount = 0;
  readonly #head = Buffer.allocUnsafe(headBytes);
  #headLength = 0;
  #message: Buffer | null = null;
  #messageLength = 0;
  /** `#message` is only the beginning of a message of so many bytes; 0: it is a whole message. */
  #unadmittedBytes = 0;
  #waiting: Waiting | null = null;
  /** `write` has returned a message since this was last set to false. */
  #completed = false;
  #isOver = false;

  constructor(base: BaseCall, connection: Connection, room: Room, maxBytes: number, isStream: boolean) {
    this.#base = base;
    this.#connection = connection;
    this.#room = room;
    this.#isStream = isStream;
    this.maxBytes = maxBytes;
    const refused = this.#take(callBytes + headerBytes(base), 'call');
    // Once grpc-js has begun the call.
    if (refused !== undefined) process.nextTick(() => this.#refuse(refused));
  }

  /** grpc-js calls it with every piece of the stream. Whole messages come back, with their heads. */
  write(data: Buffer): Buffer[] {
    const messages: Buffer[] = [];
    this.#connection.worked();
    if (this.#waiting !== null) {
      // grpc-js may read on for a message that came before this one.
      this.#waiting.rest = Buffer.concat([this.#waiting.rest, data]);
      this.#base.stream.pause();
      return messages;
    }
    let at = 0;
    while (at < data.length && !this.#isOver) {
      if (this.#message === null) {
        const copied = data.copy(this.#head, this.#headLength, at, at + headBytes - this.#headLength);
        this.#headLength += copied;
        at += copied;
        if (this.#headLength < headBytes) break;
        this.#begin(data.subarray(at));
        if (this.#message === null) break;
      }
      const message = this.#message;
      const copied = data.copy(message, this.#messageLength, at);
      this.#messageLength += copied;
      at += copied;
      if (this.#messageLength < message.length) continue;
      if (this.#unadmittedBytes > 0) {
        this.#admit(message, data.subarray(at));
        if (this.#message === null) break;
        continue;
      }
      this.#message = null;
      this.#room.stalls?.delete(this);
      this.#completed = true;
      if (this.#isStream) this.#unhandled.push(message.length);
      messages.push(message);
    }
    if (this.#message !== null) this.#room.stalls?.add(this);
    return messages;
  }

  /** Called by the service of a stream with each message that it takes, which the service holds from now on. */
  messageHandled(): void {
    this.#handledCount += 1;
    this.#endOverdraft();
    this.#give(this.#unhandled.shift() ?? 0);
  }

  /** Bytes of the message that arrives, of which there are `receivedBytes`. */
  get receivedBytes(): number {
    return this.#messageLength;
  }

  /** The agent itself reads no more of it for now. */
  get isPaused(): boolean {
    return this.#base.stream.isPaused();
  }

  /** The message that arrives has come too slowly for too long, and keeps the room for it from others. */
  giveUpMessage(): void {
    if (this.#message === null) return;
    const { length } = this.#message;
    const expected = `message: expected ${length} bytes without a pause, got ${this.#messageLength}`;
    this.#message = null;
    this.#endOverdraft();
    this.#refuse(exhausted(`${expected} and then next to nothing for too long`));
    this.#give(this.#heldBytes);
  }

  /** Makes room for the message whose head is here, refuses it, or waits for room. `rest` came after the head. */
  #begin(rest: Buffer): void {
    this.#headLength = 0;
    const bytes = headBytes + this.#head.readUInt32BE(1);
    if (bytes - headBytes > this.maxBytes) return this.#refuse(tooLarge(bytes - headBytes, this.maxBytes));
    if (this.unproven !== null && bytes - headBytes > this.unproven.maxBytes) {
      this.#unadmittedBytes = bytes;
      this.#allocate(headBytes + beginningBytes, this.#head);
    } else {
      this.#makeRoom(bytes, this.#head, rest);
    }
  }

  /** The beginning of a large message of somebody unproven has come. */
  #admit(beginning: Buffer, rest: Buffer): void {
    const bytes = this.#unadmittedBytes;
    this.#unadmittedBytes = 0;
    this.#message = null;
    if (this.unproven?.admit(beginning.subarray(headBytes)) === false) this.#isOver = true;
    else this.#makeRoom(bytes, beginning, rest);
  }

  /** `beginning` and `rest` are what has come of it. */
  #makeRoom(bytes: number, beginning: Buffer, rest: Buffer): void {
    const { memory, waitMs } = this.#room;
    if (this.#isTooMuchUnproven(bytes)) return this.#refuse(noRoom(this.#room.budget, 'message', bytes));
    if (waitMs > 0) {
      if (bytes > unwaitedBytes && !memory.fits(bytes)) return this.#wait(bytes, beginning, rest);
      // A worker's small frames are not refused.
      if (this.unproven === null || bytes > unwaitedBytes) return this.#hold(bytes, beginning);
    }
    if (!memory.take(bytes)) return this.#refuse(noRoom(this.#room.budget, 'message', bytes));
    this.#heldBytes += bytes;
    this.#allocate(bytes, beginning);
  }

  /** One frame at a time and the calls around it: strangers leave room for what workers send. */
  #isTooMuchUnproven(bytes: number): boolean {
    if (this.unproven === null) return false;
    const { maxBytes } = this.unproven;
    return bytes <= headBytes + maxBytes && this.#room.memory.usedBytes + bytes > 2 * maxBytes;
  }

  /** Holds a message that is not refused. */
  #hold(bytes: number, beginning: Buffer): void {
    this.#room.memory.add(bytes);
    this.#heldBytes += bytes;
    this.#allocate(bytes, beginning);
  }

  #allocate(bytes: number, beginning: Buffer): void {
    this.#message = Buffer.allocUnsafe(bytes);
    this.#messageLength = beginning.copy(this.#message);
  }

  #wait(bytes: number, beginning: Buffer, rest: Buffer): void {
    const { memory, budget, waitMs } = this.#room;
    const forget = budget.onGiven(() => {
      if (memory.fits(bytes)) this.#goOn();
    });
    let timer = setTimeout(() => overdraw(), waitMs);
    const overdraw = (): void => {
      const leftMs = this.#overdraw(waiting);
      if (leftMs > 0) timer = setTimeout(overdraw, leftMs);
    };
    const stop = (): void => {
      forget();
      clearTimeout(timer);
    };
    const waiting: Waiting = { bytes, beginning: Buffer.from(beginning), rest, isOver: false, stop };
    this.#waiting = waiting;
    this.#base.stream.pause();
  }

  /** Reads on without room, unless another message does: how long that may go on, in ms. */
  #overdraw(waiting: Waiting): number {
    const { overdraft, waitMs } = this.#room;
    const leftMs = overdraft.reader === null ? 0 : overdraft.sinceMs + waitMs - performance.now();
    if (leftMs > 0) return leftMs;
    overdraft.reader?.giveUpMessage();
    // What that gave back may have been enough.
    if (waiting.isOver) return 0;
    overdraft.reader = this;
    overdraft.sinceMs = performance.now();
    this.#goOn();
    return 0;
  }

  #endOverdraft(): void {
    if (this.#room.overdraft.reader === this) this.#room.overdraft.reader = null;
  }

  /** Reads on where the wait began. */
  #goOn(): void {
    const waiting = this.#waiting;
    if (waiting === null) return;
    waiting.stop();
    waiting.isOver = true;
    this.#hold(waiting.bytes, waiting.beginning);
    // Not from within the `give` of another stream, which has not finished its own message.
    setImmediate(() => {
      if (this.#isOver) return;
      this.#waiting = null;
      this.#completed = false;
      this.#base.handleDataFrame(waiting.rest);
      // After a whole message grpc-js reads on by itself, once the message has been taken.
      if (!this.#completed && this.#waiting === null) this.#base.stream.resume();
    });
  }

  /** The messages of a connection are unfolded one after the other, and each only as far as there is room for it. */
  unfold(message: Buffer, encoding: string): Buffer | Promise<Buffer> {
    const folded = message.subarray(headBytes);
    const count = this.#unfoldedCount;
    this.#unfoldedCount += 1;
    if (message[0] !== 1) return folded;
    const unfolded = this.#connection.unfolding.then(() => this.#unfold(folded, encoding, count));
    this.#connection.unfolding = unfolded.catch(() => undefined);
    return unfolded;
  }

  /** `count`: messages that came before it. */
  #unfold(folded: Buffer, encoding: string, count: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const unfolder = encoding === 'gzip' ? createGunzip() : createInflate();
      const parts: Buffer[] = [];
      let bytes = 0;
      let takenBytes = 0;
      const take = (more: number): Status | undefined => {
        const refused = this.#isOver ? failed('the call is over') : this.#take(more, 'message');
        if (refused === undefined) takenBytes += more;
        return refused;
      };
      const refuse = (refused: Status): void => {
        unfolder.destroy();
        this.#give(takenBytes);
        takenBytes = 0;
        reject(refused);
      };
      unfolder.on('error', () => refuse(failed('expected a message that can be decompressed, got one that cannot')));
      unfolder.on('data', (part: Buffer) => {
        bytes += part.length;
        // Twice: the parts, and the message that they are joined to.
        const most = this.unproven?.maxBytes ?? this.maxBytes;
        const refused = bytes > most ? tooLarge(bytes, most) : take(2 * part.length);
        if (refused !== undefined) return refuse(refused);
        parts.push(part);
      });
      unfolder.on('end', () => {
        this.#give(takenBytes - bytes);
        if (this.#isStream) this.#replaceUnhandled(count - this.#handledCount, bytes);
        resolve(Buffer.concat(parts, bytes));
      });
      const refused = take(unfolderBytes);
      if (refused !== undefined) return refuse(refused);
      unfolder.end(folded);
    });
  }

  /** In place of the compressed message the unfolded one is held. */
  #replaceUnhandled(index: number, bytes: number): void {
    const foldedBytes = this.#unhandled[index] ?? 0;
    this.#unhandled[index] = bytes;
    this.#give(foldedBytes);
  }

  close(): void {
    if (this.#base.stream.rstCode !== 0) this.#connection.wasReset();
    this.#isOver = true;
    this.#message = null;
    this.#room.stalls?.delete(this);
    this.#waiting?.stop();
    this.#endOverdraft();
    this.#give(this.#heldBytes);
  }

  #take(bytes: number, what: string): Status | undefined {
    const { memory, budget } = this.#room;
    if (!memory.take(bytes)) return noRoom(budget, what, bytes);
    this.#heldBytes += bytes;
    return undefined;
  }

  #give(bytes: number): void {
    // What was held is given back at once when the call is over.
    const known = Math.min(bytes, this.#heldBytes);
    this.#heldBytes -= known;
    this.#room.memory.give(known);
  }

  #refuse(refused: Status): void {
    this.#isOver = true;
    this.#base.sendStatus(refused);
  }
}

function headerBytes({ metadata }: BaseCall): number {
  let bytes = 0;
  for (const [name, values] of metadata.internalRepr ?? []) {
    for (const value of values) bytes += name.length + value.length;
  }
  return bytes;
}

/** In the words of grpc-js, by which clients know it. */
function tooLarge(bytes: number, maxBytes: number): Status {
  const details = `Received message larger than max (${bytes} vs ${maxBytes})`;
  return { code: status.RESOURCE_EXHAUSTED, details, metadata: null };
}

function noRoom({ maxBytes, usedBytes }: MemoryBudget, what: string, bytes: number): Status {
  const free = `${usedBytes} of ${maxBytes} bytes (message.budget) are in use`;
  return exhausted(
    `${what}: expected no more than this connection's share of the agent's memory, got ${bytes} bytes while ${free}`,
  );
}

/** Nothing of the call has begun: it may be made again. */
function exhausted(details: string): Status {
  const { metadata = null } = toStatus(refusal(code.resourceExhausted, details, { retryAfterMs: roomRetryAfterMs }));
  return { code: status.RESOURCE_EXHAUSTED, details, metadata };
}

function failed(details: string): Status {
  return { code: status.INTERNAL, details, metadata: null };
}
