// The packages below find their parts by this one's metadata, so it must be loaded first.
import 'reflect-metadata';
import { createPrivateKey, webcrypto } from 'node:crypto';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
  X509CrlGenerator,
  X509CrlReason,
} from '@peculiar/x509';
import type { HostName } from './host-name.ts';

/*
 * Makes certificates and revocation lists: ECDSA with P-256 and SHA-256. The only file that knows @peculiar/x509. Loading it
 * takes a third of a second, so only the commands that need it import it.
 */

/** PEM texts. */
export interface CertificateAndKey {
  readonly certificate: string;
  readonly key: string;
}

export interface Validity {
  readonly fromMs: number;
  readonly untilMs: number;
}

export interface AuthorityRequest extends Validity {
  readonly serial: string;
  readonly commonName: string;
  readonly uri: string;
}

export interface CertificateRequest extends AuthorityRequest {
  readonly hosts: readonly HostName[];
  readonly usages: readonly ('client' | 'server')[];
}

export interface RevocationList {
  readonly number: number;
  readonly atMs: number;
  readonly nextUpdateMs: number;
  readonly revoked: readonly { readonly serial: string; readonly atMs: number }[];
}

const keys = { name: 'ECDSA', namedCurve: 'P-256' };
const signature = { name: 'ECDSA', hash: 'SHA-256' };
const crlNumber = '2.5.29.20';

cryptoProvider.set(webcrypto);

/** A certificate authority: it signs itself, and may sign certificates but no further authorities. */
export async function makeAuthority(request: AuthorityRequest): Promise<CertificateAndKey> {
  const pair = await webcrypto.subtle.generateKey(keys, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: request.serial,
    name: [{ CN: [request.commonName] }],
    notBefore: new Date(request.fromMs),
    notAfter: new Date(request.untilMs),
    keys: pair,
    signingAlgorithm: signature,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      new SubjectAlternativeNameExtension([{ type: 'url', value: request.uri }]),
      await SubjectKeyIdentifierExtension.create(pair.publicKey),
    ],
  });
  return pem(certificate, pair.privateKey);
}

export async function signCertificate(
  authority: CertificateAndKey,
  request: CertificateRequest,
): Promise<CertificateAndKey> {
  const issuer = new X509Certificate(authority.certificate);
  const pair = await webcrypto.subtle.generateKey(keys, true, ['sign', 'verify']);
  const usage = { client: ExtendedKeyUsage.clientAuth, server: ExtendedKeyUsage.serverAuth };
  const certificate = await X509CertificateGenerator.create({
    serialNumber: request.serial,
    subject: [{ CN: [request.commonName] }],
    issuer: issuer.subjectName,
    notBefore: new Date(request.fromMs),
    notAfter: new Date(request.untilMs),
    publicKey: pair.publicKey,
    signingKey: await signingKey(authority),
    signingAlgorithm: signature,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension(request.usages.map((kind) => usage[kind])),
      new SubjectAlternativeNameExtension([{ type: 'url', value: request.uri }, ...request.hosts]),
      await SubjectKeyIdentifierExtension.create(pair.publicKey),
      await AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return pem(certificate, pair.privateKey);
}

/** PEM. */
export async function signRevocationList(authority: CertificateAndKey, list: RevocationList): Promise<string> {
  const issuer = new X509Certificate(authority.certificate);
  const crl = await X509CrlGenerator.create({
    issuer: issuer.subjectName,
    thisUpdate: new Date(list.atMs),
    nextUpdate: new Date(list.nextUpdateMs),
    // Without a reason the library writes an empty list of extensions, which RFC 5280 forbids.
    entries: list.revoked.map(({ serial, atMs }) => ({
      serialNumber: serial,
      revocationDate: new Date(atMs),
      reason: X509CrlReason.privilegeWithdrawn,
    })),
    extensions: [
      await AuthorityKeyIdentifierExtension.create(issuer.publicKey),
      new Extension(crlNumber, false, derInteger(list.number)),
    ],
    signingKey: await signingKey(authority),
    signingAlgorithm: signature,
  });
  // The library's own tag, CRL, is one that OpenSSL and Node do not read.
  return withNewline(PemConverter.encode(crl.rawData, 'X509 CRL'));
}

async function pem(certificate: X509Certificate, privateKey: webcrypto.CryptoKey): Promise<CertificateAndKey> {
  const key = await webcrypto.subtle.exportKey('pkcs8', privateKey);
  return {
    certificate: withNewline(certificate.toString('pem')),
    key: withNewline(PemConverter.encode(key, PemConverter.PrivateKeyTag)),
  };
}

function signingKey({ key }: CertificateAndKey): Promise<webcrypto.CryptoKey> {
  // Node reads more forms of PEM than WebCrypto, such as the EC PRIVATE KEY of openssl.
  const der = createPrivateKey(key).export({ format: 'der', type: 'pkcs8' });
  return webcrypto.subtle.importKey('pkcs8', der, keys, false, ['sign']);
}

/** A whole number from 0 in ASN.1: with a leading zero where its first bit would read as a minus. */
function derInteger(value: number): Uint8Array {
  const hex = value.toString(16);
  const even = hex.length % 2 === 0 ? hex : `0${hex}`;
  const bytes = Buffer.from(/^[89a-f]/.test(even) ? `00${even}` : even, 'hex');
  return Uint8Array.of(2, bytes.length, ...bytes);
}

function withNewline(text: string): string {
  return `${text.trimEnd()}\n`;
}
