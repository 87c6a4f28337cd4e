import { writeFileSync } from 'node:fs';
import { readSmallFile } from '../storage/read-file.ts';
import { removeFile } from '../storage/remove-file.ts';

/**
 * Where a worker records which requests it has begun, in a form that survives a SIGKILL: a memory-mapped file of four
 * bytes in native byte order (PITWARDEN_BEGUN in link.proto).
 */
export interface BegunMark {
  readonly path: string;
  /** The highest link id that the worker has begun, 0 before the first; null if the mark cannot be read. */
  read(): number | null;
  remove(): void;
}

/** Throws if the file cannot be created, and then leaves none behind. */
export function createBegunMark(path: string): BegunMark {
  try {
    writeFileSync(path, Buffer.alloc(Uint32Array.BYTES_PER_ELEMENT), { mode: 0o600 });
  } catch (error) {
    // On a full disk each attempt would otherwise leave a file behind.
    removeFile(path);
    throw error;
  }
  return openBegunMark(path);
}

/** Opens a mark that should exist. If it is missing, `read` returns null. */
export function openBegunMark(path: string): BegunMark {
  return {
    path,
    read: () => {
      try {
        const bytes = readSmallFile(path, Uint32Array.BYTES_PER_ELEMENT);
        return bytes.length === Uint32Array.BYTES_PER_ELEMENT
          ? (new Uint32Array(new Uint8Array(bytes).buffer)[0] ?? null)
          : null;
      } catch {
        return null;
      }
    },
    remove: () => removeFile(path),
  };
}
