import type { ServerHttp2Stream } from 'node:http2';
import type { Connection } from '../connection.ts';
import type { CallMemory } from './call-memory.ts';
import type { Status } from './refusals.ts';
import { exhausted, tooLarge } from './refusals.ts';
import type { Room } from './room.ts';
import { endOverdraft, RoomWait, unwaitedBytes } from './room.ts';

/** The first bytes of a message: whether it is compressed, and its length. */
export const headBytes = 5;
/** Memory that grpc-js, Node and V8 hold for one call beside its headers and messages: some 10 KiB. */
const callBytes = 10 * 1024;

/** How many bytes of a message `Unproven.admit` receives. */
const beginningBytes = 1024;

/** The parts of a grpc-js call that a reader uses. */
export interface ReadCall {
  readonly stream: ServerHttp2Stream;
  readonly metadata: { readonly internalRepr?: ReadonlyMap<string, readonly (string | Buffer)[]> };
  handleDataFrame(data: Buffer): void;
  sendStatus(status: Status): void;
}

/** Bounds the messages of a sender that has not proven who it is. */
export interface Unproven {
  /** A larger message is read only if its beginning is admitted. */
  readonly maxBytes: number;
  /** Called with the first bytes of such a message. False: the call has been ended. */
  admit(beginning: Buffer): boolean;
}

/**
 * Cuts the stream of one call into messages. A message is held once, in the size that its head declares, and only if the memory
 * budget has room for it.
 */
export class MessageReader {
  /** Largest message, decompressed. */
  maxBytes: number;
  /** Null: the sender is known. */
  #unproven: Unproven | null = null;
  readonly #base: ReadCall;
  readonly #connection: Connection;
  readonly #memory: CallMemory;
  readonly #room: Room;
  readonly #head = Buffer.allocUnsafe(headBytes);
  #headLength = 0;
  #message: Buffer | null = null;
  #messageLength = 0;
  /** The size of the message of which `#message` is only the beginning; 0: `#message` is a whole message. */
  #unadmittedBytes = 0;
  #wait: RoomWait | null = null;
  /** `write` has returned a message since this was last set to false. */
  #completed = false;
  #isOver = false;

  constructor(base: ReadCall, connection: Connection, memory: CallMemory, room: Room, maxBytes: number) {
    this.#base = base;
    this.#connection = connection;
    this.#memory = memory;
    this.#room = room;
    this.maxBytes = maxBytes;
    const refused = memory.take(callBytes + headerBytes(base), 'call');
    // By the next tick grpc-js has begun the call.
    if (refused !== undefined) process.nextTick(() => this.#refuse(refused));
  }

  /** grpc-js calls this with every piece of the stream. Returns whole messages, with their heads. */
  write(data: Buffer): Buffer[] {
    const messages: Buffer[] = [];
    this.#connection.worked();
    if (this.#wait !== null) {
      // grpc-js resumes the stream when an earlier message has been taken.
      this.#wait.rest = Buffer.concat([this.#wait.rest, data]);
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
      this.#memory.messageArrived(message.length);
      messages.push(message);
    }
    if (this.#message !== null) this.#room.stalls?.add(this);
    return messages;
  }

  /** The service of a stream calls this for each message that it takes. From then on the service holds the message. */
  messageHandled(): void {
    endOverdraft(this.#room, this);
    this.#memory.messageHandled();
  }

  /** The sender has yet to prove who it is. */
  expectProof(unproven: Unproven): void {
    this.#unproven = unproven;
  }

  /** The sender has proven who it is, so the call is counted in the budget of known senders. */
  proven(): void {
    this.#unproven = null;
    this.#memory.moveTo(this.#room.budget);
  }

  /** Bytes that have arrived of the message that is being read. */
  get receivedBytes(): number {
    return this.#messageLength;
  }

  /** The agent itself does not read the stream for now. */
  get isPaused(): boolean {
    return this.#base.stream.isPaused();
  }

  /** Ends the call, because its message has arrived too slowly for too long and keeps room from others. */
  giveUpMessage(): void {
    if (this.#message === null) return;
    const { length } = this.#message;
    const expected = `message: expected ${length} bytes without a pause, got ${this.#messageLength}`;
    this.#message = null;
    endOverdraft(this.#room, this);
    this.#refuse(exhausted(`${expected} and then next to nothing for too long`));
    this.#memory.giveAll();
  }

  /** The stream has closed. */
  close(): void {
    if (this.#base.stream.rstCode !== 0) this.#connection.wasReset();
    this.#isOver = true;
    this.#message = null;
    this.#room.stalls?.delete(this);
    this.#wait?.stop();
    endOverdraft(this.#room, this);
    this.#memory.giveAll();
  }

  /** The call is over, or was refused. */
  get isOver(): boolean {
    return this.#isOver;
  }

  get messageMaxBytes(): number {
    return this.#unproven?.maxBytes ?? this.maxBytes;
  }

  /** The head of a message has arrived, and `rest` after it. Makes room for the message, refuses it, or waits for room. */
  #begin(rest: Buffer): void {
    this.#headLength = 0;
    const bytes = headBytes + this.#head.readUInt32BE(1);
    if (bytes - headBytes > this.maxBytes) return this.#refuse(tooLarge(bytes - headBytes, this.maxBytes));
    if (this.#unproven !== null && bytes - headBytes > this.#unproven.maxBytes) {
      this.#unadmittedBytes = bytes;
      this.#allocate(headBytes + beginningBytes, this.#head);
    } else {
      this.#makeRoom(bytes, this.#head, rest);
    }
  }

  /** The beginning of an unproven sender's large message has arrived. */
  #admit(beginning: Buffer, rest: Buffer): void {
    const bytes = this.#unadmittedBytes;
    this.#unadmittedBytes = 0;
    this.#message = null;
    if (this.#unproven?.admit(beginning.subarray(headBytes)) === false) {
      this.#isOver = true;
      return;
    }
    this.#memory.moveTo(this.#room.budget);
    this.#makeRoom(bytes, beginning, rest);
  }

  /** `beginning` and `rest` are the bytes of the message that have arrived. */
  #makeRoom(bytes: number, beginning: Buffer, rest: Buffer): void {
    const room = this.#room;
    const isUnproven = this.#unproven !== null && bytes - headBytes <= this.#unproven.maxBytes;
    // A worker's frames are not refused. A large one waits for room, and so does a hello that was admitted by its beginning.
    if (room.waitMs > 0 && !isUnproven) {
      const mayWait = bytes > unwaitedBytes || this.#unproven !== null;
      if (mayWait && !this.#memory.fits(bytes)) this.#waitForRoom(bytes, beginning, rest);
      else this.#hold(bytes, beginning);
      return;
    }
    const refused = this.#memory.take(bytes, 'message');
    if (refused !== undefined) return this.#refuse(refused);
    this.#allocate(bytes, beginning);
  }

  /** Holds a message that must not be refused. */
  #hold(bytes: number, beginning: Buffer): void {
    this.#memory.add(bytes);
    this.#allocate(bytes, beginning);
  }

  #allocate(bytes: number, beginning: Buffer): void {
    this.#message = Buffer.allocUnsafe(bytes);
    this.#messageLength = beginning.copy(this.#message);
  }

  #waitForRoom(bytes: number, beginning: Buffer, rest: Buffer): void {
    const wait = new RoomWait(this.#room, this.#memory, this, { bytes, beginning, rest }, () => this.#readOn(wait));
    this.#wait = wait;
    this.#base.stream.pause();
  }

  /** Reads on where the wait began. */
  #readOn(wait: RoomWait): void {
    this.#hold(wait.bytes, wait.beginning);
    // A later turn: this may run within the `give` of another stream, which has not finished its own message.
    setImmediate(() => {
      if (this.#isOver) return;
      this.#wait = null;
      this.#completed = false;
      this.#base.handleDataFrame(wait.rest);
      // After a whole message grpc-js resumes the stream itself, when the message has been taken.
      if (!this.#completed && this.#wait === null) this.#base.stream.resume();
    });
  }

  #refuse(refused: Status): void {
    this.#isOver = true;
    this.#base.sendStatus(refused);
  }
}

function headerBytes({ metadata }: ReadCall): number {
  let bytes = 0;
  for (const [name, values] of metadata.internalRepr ?? []) {
    for (const value of values) bytes += name.length + value.length;
  }
  return bytes;
}
