import type { MemoryBudget } from '../memory-budget.ts';
import type { StallWatch } from '../stall-watch.ts';
import type { CallMemory } from './call-memory.ts';

/** The room that the calls of one server share for their messages. */
export interface Room {
  readonly budget: MemoryBudget;
  /** How long a large message of a stream may wait for room, in ms; 0: it is refused. */
  readonly waitMs: number;
  readonly stalls: StallWatch | null;
  readonly overdraft: Overdraft;
}

/** The one message of a server that is read although there is no room for it. */
interface Overdraft {
  reader: OverdraftReader | null;
  sinceMs: number;
}

interface OverdraftReader {
  giveUpMessage(): void;
}

/**
 * A message of at most this size does not wait, so that pongs and ordinary results do not queue behind others' large results.
 * The size is that of a frame of small results.
 */
export const unwaitedBytes = 1024 * 1024 + 64 * 1024;

/**
 * A message whose beginning has arrived and that waits for room. Its stream is paused meanwhile. `onRoom` is called when the
 * message fits, or after `waitMs` if no other message of the server is being read without room.
 */
export class RoomWait {
  readonly bytes: number;
  /** The first bytes of the message. */
  readonly beginning: Buffer;
  /** The bytes that arrived after them. */
  rest: Buffer;
  readonly #room: Room;
  readonly #reader: OverdraftReader;
  readonly #onRoom: () => void;
  readonly #forget: () => void;
  #timer: NodeJS.Timeout;
  #isOver = false;

  constructor(
    room: Room,
    memory: CallMemory,
    reader: OverdraftReader,
    message: { readonly bytes: number; readonly beginning: Buffer; readonly rest: Buffer },
    onRoom: () => void,
  ) {
    this.#room = room;
    this.#reader = reader;
    this.bytes = message.bytes;
    // The reader uses its own Buffer again for the next message.
    this.beginning = Buffer.from(message.beginning);
    this.rest = message.rest;
    this.#onRoom = onRoom;
    this.#forget = room.budget.onGiven(() => {
      if (memory.fits(this.bytes)) this.#end();
    });
    this.#timer = setTimeout(() => this.#overdraw(), room.waitMs);
  }

  stop(): void {
    this.#isOver = true;
    this.#forget();
    clearTimeout(this.#timer);
  }

  #end(): void {
    if (this.#isOver) return;
    this.stop();
    this.#onRoom();
  }

  /** Reads the message without room, or waits until another message has had its time for that. */
  #overdraw(): void {
    const { overdraft, waitMs } = this.#room;
    const leftMs = overdraft.reader === null ? 0 : overdraft.sinceMs + waitMs - performance.now();
    if (leftMs > 0) {
      this.#timer = setTimeout(() => this.#overdraw(), leftMs);
      return;
    }
    overdraft.reader?.giveUpMessage();
    // The memory that was given back may have been enough for this message.
    if (this.#isOver) return;
    overdraft.reader = this.#reader;
    overdraft.sinceMs = performance.now();
    this.#end();
  }
}

/** The message of this reader is read, or given up: another message may be read without room. */
export function endOverdraft({ overdraft }: Room, reader: OverdraftReader): void {
  if (overdraft.reader === reader) overdraft.reader = null;
}
