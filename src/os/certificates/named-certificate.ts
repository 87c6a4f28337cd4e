import type { KeyObject, X509Certificate } from 'node:crypto';
import type { Validity } from '../../domain/validity.ts';
import { contextTag, element, expectTag, fieldsOf, integerDigits, objectId, tags, timeMs } from './der.ts';
import { comparableName } from './distinguished-name.ts';

/** A certificate with what Node's X509Certificate does not tell: names that can be compared, and whether it may sign lists. */
export interface NamedCertificate {
  /** As people read it: `CN=pitwarden CA`. */
  readonly shown: string;
  readonly subject: string;
  readonly issuer: string;
  readonly serial: string;
  readonly fingerprint: string;
  readonly publicKey: KeyObject;
  /** False: its key usage is for other things than signing revocation lists. */
  readonly maySignLists: boolean;
  readonly validity: Validity;
  isSignedBy(key: KeyObject): boolean;
}

const keyUsageId = '2.5.29.15';
/** The bit of cRLSign, counted from the left of the first byte. */
const signsLists = 0b0000_0010;

/** Throws if it cannot be read. */
export function namedCertificate(certificate: X509Certificate): NamedCertificate {
  const [signedPart] = fieldsOf(element(certificate.raw));
  const fields = fieldsOf(signedPart);
  // The version stands first unless it is 1.
  const [serial, , issuer, validity, subject] = fields[0]?.tag === contextTag(0) ? fields.slice(1) : fields;
  const [from, until] = fieldsOf(validity);
  return {
    shown: oneLine(certificate.subject),
    subject: comparableName(expectTag(subject, tags.sequence)),
    issuer: comparableName(expectTag(issuer, tags.sequence)),
    serial: integerDigits(serial),
    fingerprint: certificate.fingerprint256,
    publicKey: certificate.publicKey,
    maySignLists: maySignLists(fields.find(({ tag }) => tag === contextTag(3))),
    validity: { fromMs: timeMs(from), untilMs: timeMs(until) },
    isSignedBy: (key) => certificate.verify(key),
  };
}

function maySignLists(extensions: ReturnType<typeof element> | undefined): boolean {
  if (extensions === undefined) return true;
  const [list] = fieldsOf(extensions, extensions.tag);
  for (const extension of fieldsOf(list)) {
    const parts = fieldsOf(extension);
    if (objectId(parts[0]) !== keyUsageId) continue;
    const { content } = element(expectTag(parts.at(-1), tags.octetString).content);
    // The first byte counts the unused bits of the last.
    return ((content[1] ?? 0) & signsLists) !== 0;
  }
  return true;
}

/** Names have a line for each part, and come from the certificate. */
function oneLine(name: string | undefined): string {
  return (name ?? '').replace(/[^\x20-\x7e]+/g, ', ').slice(0, 200) || 'a CA without a name';
}
