import type { X509Certificate } from 'node:crypto';
import { randomBytes } from 'node:crypto';
import { accessSync, constants, existsSync, lstatSync, mkdirSync, realpathSync } from 'node:fs';
import { mkdtemp, rename, rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { CertificateHolder } from '../../domain/certificate-identity.ts';
import { identityUri } from '../../domain/certificate-identity.ts';
import { createDurably, replaceDurably, syncFolder } from '../storage/durable-file.ts';
import {
  certificatePath,
  checkFolder,
  crlPath,
  keyPath,
  oneLine,
  parseCertificate,
  readOwnCertificate,
  readSigner,
  withLock,
} from './authority-folder.ts';
import { CertificateError } from './certificate-error.ts';
import type { CertificateIndex, IssuedCertificate } from './certificate-index.ts';
import { indexPath, readIndex, writeIndex } from './certificate-index.ts';
import type { HostName } from './host-name.ts';
import type { CertificateAndKey } from './x509.ts';
import { makeAuthority, signCertificate, signRevocationList } from './x509.ts';

/*
 * A certificate authority in a folder that only its user may enter: ca.crt, ca.key, ca.crl, index.json, and a lock. Times are
 * arguments: unix milliseconds.
 */

export interface Authority {
  readonly directory: string;
  readonly expiresAtMs: number;
  /** SHA-256 of the certificate, in hexadecimal with colons, as `openssl x509 -fingerprint` prints it. */
  readonly fingerprint: string;
  readonly index: CertificateIndex;
}

export interface Issue {
  readonly holder: CertificateHolder;
  readonly hosts: readonly HostName[];
  readonly days: number;
  /** The files are OUT.crt and OUT.key. */
  readonly out: string;
}

const dayMs = 86_400_000;
/** Certificates are valid from this long ago on: the clocks of other hosts may be late. */
const clockSkewMs = 300_000;
/** X.520's bound of a common name. */
const commonNameMax = 64;

/** Makes an authority in a folder that does not exist yet or is empty. The folder appears whole, or not at all. */
export async function createAuthority(
  directory: string,
  trustDomain: string,
  days: number,
  nowMs: number,
): Promise<Authority> {
  const target = resolve(directory);
  mkdirSync(dirname(target), { recursive: true });
  const apart = await mkdtemp(`${target}.new-`);
  try {
    const serial = newSerial();
    const made = await makeAuthority({
      serial,
      commonName: `pitwarden CA ${serial.slice(0, 8)}`,
      uri: `spiffe://${trustDomain}`,
      fromMs: wholeSeconds(nowMs - clockSkewMs),
      untilMs: wholeSeconds(nowMs + days * dayMs),
    });
    const index = { authority_serial: serial, trust_domain: trustDomain, crl_number: 1, certificates: [] };
    await createDurably(keyPath(apart), made.key);
    await createDurably(certificatePath(apart), made.certificate, 0o644);
    await writeRevocationList(apart, made, index, nowMs);
    await writeIndex(apart, index);
    await moveInto(apart, target, directory);
  } finally {
    await rm(apart, { recursive: true, force: true });
  }
  await syncFolder(dirname(target));
  return readAuthority(directory);
}

/** Throws if the folder does not hold an authority, or if its files do not belong together. */
export function readAuthority(directory: string): Authority {
  checkFolder(directory);
  const own = readOwnCertificate(directory);
  const index = readIndex(directory);
  if (index.authority_serial !== own.serialNumber) {
    const wanted = `expected the index of the CA beside it, with serial ${own.serialNumber}`;
    throw new CertificateError(`${indexPath(directory)}: ${wanted}, got that of the CA ${index.authority_serial}`);
  }
  const expiresAtMs = Date.parse(own.validTo);
  return { directory, expiresAtMs, fingerprint: own.fingerprint256, index };
}

/** Issues a certificate with a new key, and writes both to files that must not exist yet. */
export async function issueCertificate(directory: string, issue: Issue, nowMs: number): Promise<IssuedCertificate> {
  return withLock(directory, async (checkHeld) => {
    const authority = readAuthority(directory);
    const { certificates, trust_domain } = authority.index;
    const untilMs = wholeSeconds(nowMs + issue.days * dayMs);
    if (untilMs > authority.expiresAtMs) {
      const ends = new Date(authority.expiresAtMs).toISOString();
      const most = Math.max(0, Math.floor((authority.expiresAtMs - nowMs) / dayMs));
      throw new CertificateError(`days: expected at most ${most}, since the CA itself ends ${ends}, got ${issue.days}`);
    }
    const paths = { key: `${issue.out}.key`, certificate: `${issue.out}.crt` };
    for (const path of Object.values(paths)) checkFree(path);
    const issued: IssuedCertificate = {
      serial: newSerial(),
      identity: identityUri(trust_domain, issue.holder),
      hosts: issue.hosts.map(({ value }) => value),
      issued_at_ms: nowMs,
      expires_at_ms: untilMs,
      revoked_at_ms: 0,
    };
    const made = await signCertificate(readSigner(directory), {
      serial: issued.serial,
      commonName: commonNameOf(issue.holder),
      uri: issued.identity,
      hosts: issue.hosts,
      usages: usagesOf(issue),
      fromMs: wholeSeconds(nowMs - clockSkewMs),
      untilMs,
    });
    // First the index: there must be no certificate of which it does not know.
    checkHeld();
    await writeIndex(directory, { ...authority.index, certificates: [...certificates, issued] });
    await writeIssued(paths, made, issued.serial);
    return issued;
  });
}

async function writeIssued(
  paths: { readonly key: string; readonly certificate: string },
  made: CertificateAndKey,
  serial: string,
): Promise<void> {
  try {
    await createDurably(paths.key, made.key);
    await createDurably(paths.certificate, made.certificate, 0o644).catch(async (error) => {
      await rm(paths.key, { force: true });
      throw error;
    });
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    const remedy = `certificate ${serial} stays in the index, but nobody has it: issue another`;
    throw new CertificateError(`${path ?? paths.key}: expected to write a new file, got ${code ?? error}; ${remedy}`);
  }
}

/**
 * Revokes a certificate, given as its serial number or as the path of its file, and writes the next revocation list. A repetition
 * writes the list again: the first attempt may have failed before that.
 */
export async function revokeCertificate(directory: string, which: string, nowMs: number): Promise<IssuedCertificate> {
  return withLock(directory, async (checkHeld) => {
    const authority = readAuthority(directory);
    const { index } = authority;
    const found = findCertificate(authority, which);
    const revoked = found.revoked_at_ms === 0 ? { ...found, revoked_at_ms: nowMs } : found;
    const isKnown = index.certificates.some(({ serial }) => serial === revoked.serial);
    const certificates = isKnown
      ? index.certificates.map((each) => (each.serial === revoked.serial ? revoked : each))
      : [...index.certificates, revoked];
    const next = { ...index, crl_number: index.crl_number + 1, certificates };
    const signer = readSigner(directory);
    checkHeld();
    await writeIndex(directory, next);
    await writeRevocationList(directory, signer, next, nowMs);
    return revoked;
  });
}

/** The list is valid as long as the authority: servers that check it must not begin to refuse everybody on some day. */
async function writeRevocationList(
  directory: string,
  signer: CertificateAndKey,
  index: CertificateIndex,
  nowMs: number,
): Promise<void> {
  const revoked = index.certificates.filter(({ revoked_at_ms }) => revoked_at_ms !== 0);
  const text = await signRevocationList(signer, {
    number: index.crl_number,
    atMs: wholeSeconds(nowMs),
    nextUpdateMs: Date.parse(readOwnCertificate(directory).validTo),
    revoked: revoked.map(({ serial, revoked_at_ms }) => ({ serial, atMs: wholeSeconds(revoked_at_ms) })),
  });
  await replaceDurably(crlPath(directory), text, 0o644);
}

function findCertificate({ directory, index }: Authority, which: string): IssuedCertificate {
  const asSerial = which.replaceAll(':', '').toUpperCase();
  const found = index.certificates.find(({ serial }) => serial === asSerial);
  if (found !== undefined) return found;
  if (lstatSync(which, { throwIfNoEntry: false }) === undefined) {
    const wanted = 'expected the serial of a certificate of this CA (ca show), or the file of one';
    throw new CertificateError(`${wanted}, got "${which.slice(0, 200)}"`);
  }
  const own = readOwnCertificate(directory);
  const given = parseCertificate(realpathSync(which));
  if (given.ca || !given.verify(own.publicKey)) {
    const got = given.ca ? 'the certificate of a CA' : `one of ${oneLine(given.issuer)}`;
    throw new CertificateError(`${which}: expected a certificate that the CA in ${directory} has issued, got ${got}`);
  }
  return index.certificates.find(({ serial }) => serial === given.serialNumber) ?? fromCertificate(given);
}

/** A certificate of this authority that the index has lost, since the index came from an old backup. */
function fromCertificate(given: X509Certificate): IssuedCertificate {
  return {
    serial: given.serialNumber,
    identity: /URI:(spiffe:[^,"\s]{1,2000})/.exec(given.subjectAltName ?? '')?.[1] ?? '',
    hosts: [],
    issued_at_ms: Math.max(0, Date.parse(given.validFrom)),
    expires_at_ms: Math.max(0, Date.parse(given.validTo)),
    revoked_at_ms: 0,
  };
}

function checkFree(path: string): void {
  try {
    accessSync(dirname(path), constants.W_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new CertificateError(`${path}: expected a folder to which this user may write, got ${code}`);
  }
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return;
  throw new CertificateError(
    `${path}: expected no file of this name, got one; issue under another name, then move both`,
  );
}

/** A rename replaces an empty folder, and fails on any other. */
async function moveInto(apart: string, target: string, directory: string): Promise<void> {
  try {
    await rename(apart, target);
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (!['ENOTEMPTY', 'EEXIST', 'ENOTDIR'].includes(code)) throw error;
    const got = existsSync(certificatePath(target)) ? 'the folder of a CA' : 'something else';
    throw new CertificateError(`${directory}: expected a folder that is empty or does not exist, got ${got}`);
  }
}

/** What a holder does with its certificate: a role and a controller call, a node and a controller with host names serve. */
function usagesOf({ holder, hosts }: Issue): ('client' | 'server')[] {
  if (holder.kind === 'node') return ['server'];
  return holder.kind === 'controller' && hosts.length > 0 ? ['client', 'server'] : ['client'];
}

/** For people who look at the certificate; nothing is decided by it. */
function commonNameOf(holder: CertificateHolder): string {
  return (holder.kind === 'role' ? holder.role : holder.name).slice(0, commonNameMax);
}

function newSerial(): string {
  for (;;) {
    const bytes = randomBytes(16);
    // So that each serial number has the same length everywhere: leading zeros are not written.
    if (bytes[0] !== 0) return bytes.toString('hex').toUpperCase();
  }
}

/** Certificates have no milliseconds. */
function wholeSeconds(ms: number): number {
  return Math.floor(ms / 1000) * 1000;
}
