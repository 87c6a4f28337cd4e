import { constants, type Stats } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { Parsed } from './units.ts';
import { failed, formatSize } from './units.ts';

/**
 * A configuration has a few kilobytes. Parsing a mebibyte of YAML takes about a second, during which nothing else runs.
 */
export const configMaxBytes = 1024 * 1024;

/**
 * Reads a text file. Refuses anything but a regular file: opening a FIFO waits for its writer, and a device may be
 * endless. Never throws, and never blocks the event loop, however slow the disk is.
 */
export async function readTextFile(path: string): Promise<Parsed<string>> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const found = await file.stat();
    if (!found.isFile()) return failed(`expected a file, got ${kindOf(found)}`);
    if (found.size > configMaxBytes) return tooLarge(found.size);
    return decode(await readBounded(file));
  } catch (error) {
    return failed(explain(error));
  } finally {
    await file?.close().catch(() => undefined);
  }
}

/** Reads one byte more than allowed at most, because the size from `stat` may be wrong, as in /proc, or grow. */
async function readBounded(file: FileHandle): Promise<Buffer> {
  const bytes = Buffer.alloc(configMaxBytes + 1);
  let length = 0;
  while (length < bytes.length) {
    const { bytesRead } = await file.read(bytes, length, bytes.length - length, null);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return bytes.subarray(0, length);
}

function decode(bytes: Buffer): Parsed<string> {
  if (bytes.length > configMaxBytes) return tooLarge(bytes.length);
  return { ok: true, value: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
}

function tooLarge(bytes: number): Parsed<string> {
  return failed(`expected a file of at most ${formatSize(configMaxBytes)}, got at least ${bytes} bytes`);
}

function kindOf(found: Stats): string {
  if (found.isDirectory()) return 'a folder';
  if (found.isFIFO()) return 'a FIFO';
  if (found.isCharacterDevice() || found.isBlockDevice()) return 'a device';
  return 'something else';
}

function explain(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    case 'ENOENT':
      return 'expected a file, got nothing: it does not exist';
    case 'EISDIR':
      return 'expected a file, got a folder';
    case 'EACCES':
      return 'expected a file that this user may read, got permission denied';
    // open(2) returns this for a socket, and for a device without a driver.
    case 'ENXIO':
      return 'expected a file, got a socket or a device';
    case 'ERR_ENCODING_INVALID_ENCODED_DATA':
      return 'expected UTF-8 text, got other bytes';
    default:
      return `could not be read: ${message}`;
  }
}
