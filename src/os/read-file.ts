import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';

/**
 * A small file that others may have replaced: a worker can put a FIFO in the place of its own files, whose open would wait for a
 * writer while nothing else runs, or a link to a device without an end. Never waits, and reads `maxBytes` at most. Throws
 * where there is no regular file, or a larger one.
 */
export function readSmallFile(path: string, maxBytes: number): Buffer {
  const { O_RDONLY, O_NONBLOCK, O_NOFOLLOW, O_NOCTTY } = constants;
  const fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY);
  try {
    if (!fstatSync(fd).isFile()) throw new Error(`${path}: expected a regular file, got something else`);
    const bytes = Buffer.allocUnsafe(maxBytes + 1);
    let length = 0;
    for (let count = 1; count > 0 && length < bytes.length; length += count) {
      count = readSync(fd, bytes, length, bytes.length - length, length);
    }
    if (length > maxBytes) throw new Error(`${path}: expected at most ${maxBytes} bytes, got more`);
    return bytes.subarray(0, length);
  } finally {
    closeSync(fd);
  }
}
