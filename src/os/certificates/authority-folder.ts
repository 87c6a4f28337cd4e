import { createPrivateKey, X509Certificate } from 'node:crypto';
import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { FileLock } from '../storage/lock-file.ts';
import { holderOf, LockHeld, takeLock } from '../storage/lock-file.ts';
import { CertificateError, readBounded } from './certificate-error.ts';
import type { CertificateAndKey } from './x509.ts';

/** The folder of an authority, which only its user may enter: its files, who may use it, and one command at a time. */

/** How long to wait for another command on the same authority, which takes a fraction of a second. */
const lockWaitMs = 10_000;
const lockLookMs = 20;
/** A certificate or key has about 1 KiB. */
const pemMaxBytes = 65_536;

export const certificatePath = (directory: string): string => join(directory, 'ca.crt');
export const keyPath = (directory: string): string => join(directory, 'ca.key');
export const crlPath = (directory: string): string => join(directory, 'ca.crl');

/** Runs one command at a time on an authority. `checkHeld` throws if another process has taken the lock away meanwhile. */
export async function withLock<T>(directory: string, command: (checkHeld: () => void) => Promise<T>): Promise<T> {
  checkFolder(directory);
  const path = join(directory, 'lock');
  const lock = await waitForLock(path);
  try {
    return await command(() => {
      if (holderOf(path) === 'us') return;
      throw new CertificateError(`${path}: expected to hold it still, got another holder; run the command again`);
    });
  } finally {
    lock.release();
  }
}

async function waitForLock(path: string): Promise<FileLock> {
  const untilMs = performance.now() + lockWaitMs;
  for (;;) {
    try {
      return takeLock(path);
    } catch (error) {
      if (!(error instanceof LockHeld)) throw error;
      if (performance.now() > untilMs) {
        const wanted = `expected that no other command uses this CA for ${lockWaitMs / 1000} s`;
        throw new CertificateError(`${path}: ${wanted}, got one with pid ${error.pid}`);
      }
    }
    await delay(lockLookMs);
  }
}

/** The authority's own certificate. */
export function readOwnCertificate(directory: string): X509Certificate {
  const path = certificatePath(directory);
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) {
    throw new CertificateError(`${directory}: expected a CA that ca init made, got a folder without ca.crt`);
  }
  const own = parseCertificate(path);
  if (!own.ca) throw new CertificateError(`${path}: expected the certificate of a CA, got another one`);
  return own;
}

export function readSigner(directory: string): CertificateAndKey {
  const own = readOwnCertificate(directory);
  const path = keyPath(directory);
  const key = readBounded(path, pemMaxBytes);
  try {
    if (own.checkPrivateKey(createPrivateKey(key))) return { certificate: own.toString(), key };
  } catch (error) {
    const got = error instanceof Error ? error.message : String(error);
    throw new CertificateError(`${path}: expected a private key in PEM without a passphrase, got: ${oneLine(got)}`);
  }
  throw new CertificateError(`${path}: expected the private key of ca.crt beside it, got another key`);
}

export function parseCertificate(path: string): X509Certificate {
  const text = readBounded(path, pemMaxBytes);
  try {
    return new X509Certificate(text);
  } catch (error) {
    const got = error instanceof Error ? error.message : String(error);
    throw new CertificateError(`${path}: expected a certificate in PEM, got: ${oneLine(got)}`);
  }
}

/** Refuses a folder into which another user could have put files. */
export function checkFolder(directory: string): void {
  const stat = lstatSync(directory, { throwIfNoEntry: false });
  const refuse = (wanted: string, got: string): never => {
    throw new CertificateError(`${directory}: expected ${wanted}, got ${got}`);
  };
  if (stat === undefined) return refuse('the folder of a CA, which ca init makes', 'nothing of this name');
  if (!stat.isDirectory()) return refuse('the folder of a CA', 'something else');
  const uid = process.geteuid?.() ?? stat.uid;
  if (stat.uid !== uid) refuse(`a folder of user ${uid}`, `one of user ${stat.uid}`);
  if ((stat.mode & 0o077) !== 0) refuse('mode 0700', `mode 0${(stat.mode & 0o777).toString(8)}`);
}

/** Of texts from outside, for a message. */
export function oneLine(text: string): string {
  return text.replaceAll('\n', ', ').slice(0, 200);
}
