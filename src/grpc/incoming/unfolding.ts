import { createGunzip, createInflate } from 'node:zlib';
import type { Connection } from '../connection.ts';
import type { CallMemory } from './call-memory.ts';
import type { Status } from './refusals.ts';
import { internalError, tooLarge } from './refusals.ts';

/** zlib's state for one message. */
const unfolderBytes = 64 * 1024;

/** The parts of the call's reader that unfolding uses. */
interface UnfoldingReader {
  /** Largest message, unfolded. */
  readonly unfoldedMaxBytes: number;
  readonly isOver: boolean;
}

/**
 * Unfolds the compressed messages of one call. The messages of a connection are unfolded one after the other, and each only as
 * far as there is room for it.
 */
export class Unfolding {
  readonly #connection: Connection;
  readonly #reader: UnfoldingReader;
  readonly #memory: CallMemory;
  readonly #headBytes: number;
  /** How many messages `unfold` was called with. */
  #count = 0;

  constructor(connection: Connection, reader: UnfoldingReader, memory: CallMemory, headBytes: number) {
    this.#connection = connection;
    this.#reader = reader;
    this.#memory = memory;
    this.#headBytes = headBytes;
  }

  unfold(message: Buffer, encoding: string): Buffer | Promise<Buffer> {
    const folded = message.subarray(this.#headBytes);
    const index = this.#count;
    this.#count += 1;
    if (message[0] !== 1) return folded;
    const unfolded = this.#connection.unfolding.then(() => this.#unfold(folded, encoding, index));
    this.#connection.unfolding = unfolded.catch(() => undefined);
    return unfolded;
  }

  #unfold(folded: Buffer, encoding: string, index: number): Promise<Buffer> {
    const reader = this.#reader;
    const memory = this.#memory;
    return new Promise((resolve, reject) => {
      const unfolder = encoding === 'gzip' ? createGunzip() : createInflate();
      const parts: Buffer[] = [];
      let bytes = 0;
      let takenBytes = 0;
      const take = (more: number): Status | undefined => {
        const refused = reader.isOver ? internalError('the call is over') : memory.take(more, 'message');
        if (refused === undefined) takenBytes += more;
        return refused;
      };
      const refuse = (refused: Status): void => {
        unfolder.destroy();
        memory.give(takenBytes);
        takenBytes = 0;
        reject(refused);
      };
      unfolder.on('error', () =>
        refuse(internalError('expected a message that can be decompressed, got one that cannot')),
      );
      unfolder.on('data', (part: Buffer) => {
        bytes += part.length;
        // Twice: the parts, and the message that they are joined to.
        const most = reader.unfoldedMaxBytes;
        const refused = bytes > most ? tooLarge(bytes, most) : take(2 * part.length);
        if (refused !== undefined) return refuse(refused);
        parts.push(part);
      });
      unfolder.on('end', () => {
        memory.give(takenBytes - bytes);
        memory.messageUnfolded(index, bytes);
        resolve(Buffer.concat(parts, bytes));
      });
      const refused = take(unfolderBytes);
      if (refused !== undefined) return refuse(refused);
      unfolder.end(folded);
    });
  }
}
