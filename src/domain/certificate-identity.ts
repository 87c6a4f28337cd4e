import { nodeIdPattern, poolNamePattern } from './names.ts';

/**
 * Whom a certificate names: a SPIFFE id, which is a URI in the certificate's subject alternative names. docs/control-plane-tls.md
 * lists the forms.
 */
export type CertificateHolder =
  /** `pool`: the only pool whose commands a caller may call; null: all of them, or another role. */
  | { readonly kind: 'role'; readonly role: CertificateRole; readonly pool: string | null }
  | { readonly kind: 'controller'; readonly name: string }
  | { readonly kind: 'node'; readonly name: string };

export const certificateRoles = ['viewer', 'operator', 'caller'] as const;
export type CertificateRole = (typeof certificateRoles)[number];

export const defaultTrustDomain = 'pitwarden.local';

/** As the SPIFFE standard has it, and with a letter or digit at both ends, so that it can be a DNS name. */
export const trustDomainPattern = '^[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?$';
const namePattern = new RegExp(nodeIdPattern);
const poolPattern = new RegExp(poolNamePattern);

export function identityUri(trustDomain: string, holder: CertificateHolder): string {
  const domain = `spiffe://${trustDomain}`;
  if (holder.kind === 'node') return `${domain}/node/${holder.name}`;
  if (holder.kind === 'controller') return `${domain}/controller/${holder.name}`;
  return `${domain}/role/${holder.role}${holder.pool === null ? '' : `/pool/${holder.pool}`}`;
}

export function isCertificateRole(text: string): text is CertificateRole {
  return (certificateRoles as readonly string[]).includes(text);
}

/** Why this cannot be a trust domain; undefined if it can. */
export function trustDomainProblem(text: string): string | undefined {
  if (new RegExp(trustDomainPattern).test(text)) return undefined;
  return `expected lower-case letters, digits, dots, _ and -, as in ${defaultTrustDomain}, got ${quoted(text)}`;
}

/** Why this cannot name a node or a controller; undefined if it can. */
export function holderNameProblem(text: string): string | undefined {
  if (namePattern.test(text)) return undefined;
  return `expected a name of letters, digits, dots, _ and -, got ${quoted(text)}`;
}

/** Why this cannot name a pool; undefined if it can. */
export function poolNameProblem(text: string): string | undefined {
  if (poolPattern.test(text)) return undefined;
  return `expected a pool's name: a lower-case letter, then lower-case letters, digits, _ or -, got ${quoted(text)}`;
}

function quoted(text: string): string {
  return `"${text.length > 80 ? `${text.slice(0, 80)}…` : text}"`;
}
