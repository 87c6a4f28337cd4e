import { readSmallFile } from '../storage/read-file.ts';

/** A certificate authority, or what was asked of it, is not as it should be. Its message is for the user. */
export class CertificateError extends Error {
  override readonly name = 'CertificateError';
}

/** Reads a text file. Throws a CertificateError if it is too large or not a regular file, else the error of the system. */
export function readBounded(path: string, maxBytes: number): string {
  try {
    return readSmallFile(path, maxBytes).toString('utf8');
  } catch (error) {
    if (!(error instanceof Error) || 'code' in error) throw error;
    throw new CertificateError(error.message);
  }
}
