import { createGunzip, createInflate } from 'node:zlib';
import type { Connection } from '../connection.ts';
import type { CallMemory } from './call-memory.ts';
import type { Status } from './refusals.ts';
import { internalError, tooLarge } from './refusals.ts';

/** zlib's state for one message. */
const decompressorBytes = 64 * 1024;

/** The parts of the call's reader that decompression uses. */
interface DecompressionReader {
  /** Largest message, decompressed. */
  readonly messageMaxBytes: number;
  readonly isOver: boolean;
}

/**
 * Decompresses the compressed messages of one call. The messages of a connection are decompressed one after the other, and each only as
 * far as there is room for it.
 */
export class Decompression {
  readonly #connection: Connection;
  readonly #reader: DecompressionReader;
  readonly #memory: CallMemory;
  readonly #headBytes: number;
  /** How many messages `decompress` was called with. */
  #count = 0;

  constructor(connection: Connection, reader: DecompressionReader, memory: CallMemory, headBytes: number) {
    this.#connection = connection;
    this.#reader = reader;
    this.#memory = memory;
    this.#headBytes = headBytes;
  }

  decompress(message: Buffer, encoding: string): Buffer | Promise<Buffer> {
    const body = message.subarray(this.#headBytes);
    const index = this.#count;
    this.#count += 1;
    if (message[0] !== 1) return body;
    const decompressed = this.#connection.decompression.then(() => this.#decompress(body, encoding, index));
    this.#connection.decompression = decompressed.catch(() => undefined);
    return decompressed;
  }

  #decompress(compressed: Buffer, encoding: string, index: number): Promise<Buffer> {
    const reader = this.#reader;
    const memory = this.#memory;
    return new Promise((resolve, reject) => {
      const decompressor = encoding === 'gzip' ? createGunzip() : createInflate();
      const parts: Buffer[] = [];
      let bytes = 0;
      let takenBytes = 0;
      const take = (more: number): Status | undefined => {
        const refused = reader.isOver ? internalError('the call is over') : memory.take(more, 'message');
        if (refused === undefined) takenBytes += more;
        return refused;
      };
      const refuse = (refused: Status): void => {
        decompressor.destroy();
        memory.give(takenBytes);
        takenBytes = 0;
        reject(refused);
      };
      decompressor.on('error', () =>
        refuse(internalError('expected a message that can be decompressed, got one that cannot')),
      );
      decompressor.on('data', (part: Buffer) => {
        bytes += part.length;
        // Twice: the parts, and the message that they are joined to.
        const most = reader.messageMaxBytes;
        const refused = bytes > most ? tooLarge(bytes, most) : take(2 * part.length);
        if (refused !== undefined) return refuse(refused);
        parts.push(part);
      });
      decompressor.on('end', () => {
        memory.give(takenBytes - bytes);
        memory.messageDecompressed(index, bytes);
        resolve(Buffer.concat(parts, bytes));
      });
      const refused = take(decompressorBytes);
      if (refused !== undefined) return refuse(refused);
      decompressor.end(compressed);
    });
  }
}
