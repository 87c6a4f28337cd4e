import { createGunzip, createInflate } from 'node:zlib';
import type { Connection } from '../connection.ts';
import type { Status } from './refusals.ts';
import { failed, tooLarge } from './refusals.ts';

/** zlib's state for one message. */
const unfolderBytes = 64 * 1024;

/** What unfolding needs of the call's reader. */
interface UnfoldingReader {
  /** Largest message, unfolded. */
  readonly unfoldedMaxBytes: number;
  readonly isOver: boolean;
  /** Undefined: the bytes are held now. */
  take(bytes: number, what: string): Status | undefined;
  give(bytes: number): void;
  /** The unfolded message is held in place of the compressed one. `index`: how many messages came before it. */
  replaceUnhandled(index: number, bytes: number): void;
}

/**
 * Unfolds the compressed messages of one call. The messages of a connection are unfolded one after the other, and each only as
 * far as there is room for it.
 */
export class Unfolding {
  readonly #connection: Connection;
  readonly #reader: UnfoldingReader;
  readonly #headBytes: number;
  /** How many messages `unfold` was called with. */
  #count = 0;

  constructor(connection: Connection, reader: UnfoldingReader, headBytes: number) {
    this.#connection = connection;
    this.#reader = reader;
    this.#headBytes = headBytes;
  }

  unfold(message: Buffer, encoding: string): Buffer | Promise<Buffer> {
    const folded = message.subarray(this.#headBytes);
    const index = this.#count;
    this.#count += 1;
    if (message[0] !== 1) return folded;
    const unfolded = this.#connection.unfolding.then(() => unfold(this.#reader, folded, encoding, index));
    this.#connection.unfolding = unfolded.catch(() => undefined);
    return unfolded;
  }
}

function unfold(reader: UnfoldingReader, folded: Buffer, encoding: string, index: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const unfolder = encoding === 'gzip' ? createGunzip() : createInflate();
    const parts: Buffer[] = [];
    let bytes = 0;
    let takenBytes = 0;
    const take = (more: number): Status | undefined => {
      const refused = reader.isOver ? failed('the call is over') : reader.take(more, 'message');
      if (refused === undefined) takenBytes += more;
      return refused;
    };
    const refuse = (refused: Status): void => {
      unfolder.destroy();
      reader.give(takenBytes);
      takenBytes = 0;
      reject(refused);
    };
    unfolder.on('error', () => refuse(failed('expected a message that can be decompressed, got one that cannot')));
    unfolder.on('data', (part: Buffer) => {
      bytes += part.length;
      // Twice: the parts, and the message that they are joined to.
      const most = reader.unfoldedMaxBytes;
      const refused = bytes > most ? tooLarge(bytes, most) : take(2 * part.length);
      if (refused !== undefined) return refuse(refused);
      parts.push(part);
    });
    unfolder.on('end', () => {
      reader.give(takenBytes - bytes);
      reader.replaceUnhandled(index, bytes);
      resolve(Buffer.concat(parts, bytes));
    });
    const refused = take(unfolderBytes);
    if (refused !== undefined) return refuse(refused);
    unfolder.end(folded);
  });
}
