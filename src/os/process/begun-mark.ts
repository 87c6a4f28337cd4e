import { writeFileSync } from 'node:fs';
import { readSmallFile } from '../storage/read-file.ts';
import { removeFile } from '../storage/remove-file.ts';

/**
 * What a worker says of the requests it began, in a way that outlives its kill: four bytes of a file that it has mapped,
 * in native byte order (PITWARDEN_BEGUN in link.proto).
 */
export interface BegunMark {
  readonly path: string;
  /** The highest link id that it began, 0 before the first; null: the mark cannot be read. */
  read(): number | null;
  remove(): void;
}

/** Throws where the file cannot be made, and then leaves none. */
export function createBegunMark(path: string): BegunMark {
  try {
    writeFileSync(path, Buffer.alloc(Uint32Array.BYTES_PER_ELEMENT), { mode: 0o600 });
  } catch (error) {
    // On a disk that is full each try would leave a file of its own.
    removeFile(path);
    throw error;
  }
  return openBegunMark(path);
}

/** One that is there, or should be: without it nothing is known. */
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
