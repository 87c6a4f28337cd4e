import { closeSync, constants, fstatSync, lstatSync, openSync, readSync } from 'node:fs';

/**
 * Reads a small file that others may have replaced: a worker can replace its own files with a FIFO, which would block
 * until someone writes to it, or with a link to an endless device. Never blocks, and reads at most `maxBytes`. Throws
 * if there is no regular file, or a larger one.
 */
export function readSmallFile(path: string, maxBytes: number): Buffer {
  return withRegularFile(path, (fd) => {
    const bytes = readAt(fd, 0, maxBytes + 1);
    if (bytes.length > maxBytes) throw new Error(`${path}: expected at most ${maxBytes} bytes, got more`);
    return bytes;
  });
}

/**
 * Like `readSmallFile`, but reads a part of a file of any size: from an offset, or its end. Undefined if it cannot be
 * read.
 */
export function readPart(path: string, from: 'end' | number, maxBytes: number): Buffer | undefined {
  try {
    return withRegularFile(path, (fd, size) => {
      const start = from === 'end' ? Math.max(0, size - maxBytes) : from;
      return readAt(fd, start, Math.max(0, Math.min(maxBytes, size - start)));
    });
  } catch {
    return undefined;
  }
}

/** 0 if there is no file. */
export function sizeOfFile(path: string): number {
  try {
    return lstatSync(path).size;
  } catch {
    return 0;
  }
}

function withRegularFile<T>(path: string, read: (fd: number, size: number) => T): T {
  const { O_RDONLY, O_NONBLOCK, O_NOFOLLOW, O_NOCTTY } = constants;
  const fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY);
  try {
    const found = fstatSync(fd);
    if (!found.isFile()) throw new Error(`${path}: expected a regular file, got something else`);
    return read(fd, found.size);
  } finally {
    closeSync(fd);
  }
}

function readAt(fd: number, start: number, maxBytes: number): Buffer {
  const bytes = Buffer.allocUnsafe(maxBytes);
  let length = 0;
  for (let count = 1; count > 0 && length < bytes.length; length += count) {
    count = readSync(fd, bytes, length, bytes.length - length, start + length);
  }
  return bytes.subarray(0, length);
}
