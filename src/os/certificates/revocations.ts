import type { X509Certificate } from 'node:crypto';
import type { NamedCertificate } from './named-certificate.ts';
import { namedCertificate } from './named-certificate.ts';
import type { RevocationList } from './revocation-list.ts';

/** Which certificates are revoked by the lists in force. */
export interface Revocations {
  /** Whether the certificate, one that its holder sent with it, or the CA of one of them is revoked. True if it cannot be read. */
  isRevoked(certificate: X509Certificate): boolean;
}

/** A chain of certificates is no longer than this. */
const chainMax = 10;

/** `cas`: those of tls.client_ca, which clients need not send. */
export function revocationsOf(lists: readonly RevocationList[], cas: readonly NamedCertificate[]): Revocations {
  const byIssuer = new Map<string, RevocationList[]>();
  for (const list of lists) byIssuer.set(list.ca.subject, [...(byIssuer.get(list.ca.subject) ?? []), list]);
  const isListed = ({ issuer, serial }: NamedCertificate): boolean =>
    byIssuer.get(issuer)?.some(({ serials }) => serials.has(serial)) ?? false;
  /** CAs that are revoked, or that a revoked CA has issued. */
  const badCas = new Set<NamedCertificate>();
  const isOfBadCa = ({ issuer, isSignedBy }: NamedCertificate): boolean =>
    // Another CA may have the same name.
    [...badCas].some((ca) => ca.subject === issuer && isSignedBy(ca.publicKey));
  for (let known = -1; known < badCas.size; ) {
    known = badCas.size;
    for (const ca of cas) if (isListed(ca) || isOfBadCa(ca)) badCas.add(ca);
  }
  return {
    isRevoked: (certificate) => {
      let each: X509Certificate | undefined = certificate;
      try {
        for (let length = 0; each !== undefined && length < chainMax; length++) {
          const named = namedCertificate(each);
          if (isListed(named) || isOfBadCa(named)) return true;
          each = each.issuerCertificate;
        }
        return false;
      } catch {
        return true;
      }
    },
  };
}
