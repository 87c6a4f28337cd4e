import { verify } from 'node:crypto';
import type { Element } from './der.ts';
import { contextTag, element, elementsOf, expectTag, fieldsOf, integerDigits, objectId, tags, timeMs } from './der.ts';
import { comparableName } from './distinguished-name.ts';
import type { NamedCertificate } from './named-certificate.ts';

/** A list of revoked certificates (CRL, RFC 5280 section 5) whose signature was verified. */
export interface RevocationList {
  readonly ca: NamedCertificate;
  /** When it was issued, in unix ms. Before that time OpenSSL accepts no certificate of the CA. */
  readonly thisUpdateMs: number;
  /** When the next list is due, in unix ms. After that time OpenSSL accepts no certificate of the CA. Infinite: never. */
  readonly nextUpdateMs: number;
  /** Serial numbers in hexadecimal digits. */
  readonly serials: ReadonlySet<string>;
}

/** A list that cannot be used; the message is for the operator. */
export class ListProblem extends Error {}

const deltaId = '2.5.29.27';
/** Critical extensions that OpenSSL handles: the issuing distribution point. With any other it accepts no certificate of the CA. */
const knownCritical: ReadonlySet<string> = new Set(['2.5.29.28']);

const hashes: Readonly<Record<string, string | null>> = {
  '1.2.840.113549.1.1.11': 'sha256',
  '1.2.840.113549.1.1.12': 'sha384',
  '1.2.840.113549.1.1.13': 'sha512',
  '1.2.840.10045.4.3.2': 'sha256',
  '1.2.840.10045.4.3.3': 'sha384',
  '1.2.840.10045.4.3.4': 'sha512',
  // Ed25519 and Ed448 name no hash.
  '1.3.101.112': null,
  '1.3.101.113': null,
};

/**
 * Reads a list and checks that one of the CAs has signed it. Throws a ListProblem, or another error if this is no list.
 */
export function readRevocationList(der: Buffer, cas: readonly NamedCertificate[]): RevocationList {
  const [signedPart, algorithm, signature] = fieldsOf(element(der));
  const fields = fieldsOf(signedPart);
  // The version stands first unless it is 1.
  if (fields[0]?.tag === tags.integer) fields.shift();
  const [, issuer, thisUpdate] = fields;
  const rest = fields.slice(3);
  const hasNext = rest[0]?.tag === tags.utcTime || rest[0]?.tag === tags.generalizedTime;
  const nextUpdateMs = hasNext ? timeMs(rest.shift()) : Number.POSITIVE_INFINITY;
  const revoked = rest[0]?.tag === tags.sequence ? rest.shift() : undefined;
  refuseUnknown(rest.find(({ tag }) => tag === contextTag(0)));
  const named = comparableName(expectTag(issuer, tags.sequence));
  const candidates = cas.filter(({ subject }) => subject === named);
  if (candidates.length === 0) {
    const known = cas.map(({ shown }) => shown).join('; ');
    throw new ListProblem(`expected lists of the CAs in tls.client_ca (${known}), got one of another CA`);
  }
  const ca = candidates.find((each) => hasSigned(each, signedPart, algorithm, signature));
  if (ca === undefined) {
    throw new ListProblem(`expected a list that ${candidates[0]?.shown} has signed, got a signature of somebody else`);
  }
  if (!ca.maySignLists) {
    throw new ListProblem(`expected a CA whose key usage includes cRLSign, got a list that ${ca.shown} has signed`);
  }
  return { ca, thisUpdateMs: timeMs(thisUpdate), nextUpdateMs, serials: serialsOf(revoked) };
}

function serialsOf(revoked: Element | undefined): Set<string> {
  const serials = new Set<string>();
  if (revoked === undefined) return serials;
  for (const entry of elementsOf(revoked)) serials.add(integerDigits(fieldsOf(entry)[0]));
  return serials;
}

function refuseUnknown(extensions: Element | undefined): void {
  if (extensions === undefined) return;
  const [list] = fieldsOf(extensions, contextTag(0));
  for (const extension of fieldsOf(list)) {
    const [id, critical] = fieldsOf(extension);
    const name = objectId(id);
    if (name === deltaId)
      throw new ListProblem('expected a complete list, got one of the changes since another (delta)');
    if (critical?.tag === tags.boolean && critical.content[0] !== 0 && !knownCritical.has(name)) {
      throw new ListProblem(`expected a list without unknown critical extensions, got one with ${name}`);
    }
  }
}

function hasSigned(
  { publicKey }: NamedCertificate,
  signedPart: Element | undefined,
  algorithm: Element | undefined,
  signature: Element | undefined,
): boolean {
  if (signedPart === undefined) return false;
  const [id] = fieldsOf(algorithm);
  const hash = hashes[objectId(id)];
  if (hash === undefined) {
    const wanted = 'expected a signature by RSA (PKCS #1), ECDSA or Ed25519 with SHA-256 or a longer hash';
    throw new ListProblem(`${wanted}, got the algorithm ${objectId(id)}`);
  }
  const bits = expectTag(signature, tags.bitString).content;
  // The first byte counts the unused bits of the last.
  if (bits[0] !== 0) return false;
  try {
    return verify(hash, signedPart.whole, publicKey, bits.subarray(1));
  } catch {
    // The key is of another kind than the signature.
    return false;
  }
}
