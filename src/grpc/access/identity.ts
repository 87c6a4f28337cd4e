import type { X509Certificate } from 'node:crypto';
import { isCertificateRole, poolNameProblem } from '../../domain/certificate-identity.ts';
import type { Role } from './roles.ts';
import { roles } from './roles.ts';

/** Who made a call, and what that caller may do. */
export interface Identity {
  /** As error messages name it. */
  readonly name: string;
  readonly roles: ReadonlySet<Role>;
  /** The pools whose commands it may call, if it has the role `caller`; null: all pools. */
  readonly pools: ReadonlySet<string> | null;
  /** How the caller may get other roles, for error messages; undefined: it depends. */
  readonly remedy?: string;
}

/** Whether the identity may run commands of this pool. */
export function mayCall({ roles, pools }: Identity, pool: string): boolean {
  return roles.has('caller') && (pools === null || pools.has(pool));
}

/** How certificates of clients become identities. */
export interface IdentityRules {
  /** The trust domain of this agent's clients: the DOMAIN of `spiffe://DOMAIN/role/viewer`. */
  readonly domain: string;
  /** URIs of certificates that name no role of ours, and the path that each stands for, such as `role/viewer`. */
  readonly mapped: ReadonlyMap<string, string>;
}

/** Any process of this host. `mayControl`: `listen_insecure_control` is set. */
export function insecureTcp(mayControl: boolean): Identity {
  const name = 'a process that connected over TCP without TLS';
  return { name, roles: new Set(mayControl ? roles : ['caller']), pools: null };
}

/** The URIs of more than this many names are not looked at. A certificate of an identity has one or two. */
const namesMax = 20;

/**
 * The identity of a certificate that the TLS handshake has verified. Each URI among its alternative names may grant a role; a
 * certificate without such a name may call nothing.
 */
export function identityOfCertificate(certificate: X509Certificate | undefined, rules: IdentityRules): Identity {
  const uris = urisOf(certificate?.subjectAltName);
  const granted = uris.flatMap((uri) => grantOf(uri, rules) ?? []);
  const name = uris[0] ?? 'a certificate without a URI among its alternative names';
  const pools = granted.flatMap(({ role, pool }) => (role === 'caller' ? [pool] : []));
  return {
    name,
    roles: new Set(granted.map(({ role }) => role)),
    pools: pools.includes(null) ? null : new Set(pools.filter((pool) => pool !== null)),
  };
}

/**
 * Node lists the names with commas, and puts those with characters that matter into quotes. An identity of ours needs no such
 * character, so a list with quotes has no identity: a name within quotes could contain what looks like another name.
 */
function urisOf(names: string | undefined): string[] {
  if (names === undefined || names.includes('"')) return [];
  const listed = names.split(', ', namesMax + 1);
  if (listed.length > namesMax) return [];
  return listed.flatMap((name) => (name.startsWith('URI:') ? [name.slice('URI:'.length)] : []));
}

interface Grant {
  readonly role: Role;
  readonly pool: string | null;
}

const uriPattern = /^spiffe:\/\/([a-z0-9._-]{1,255})\/([A-Za-z0-9._\-/]{1,1000})$/;

function grantOf(uri: string, { domain, mapped }: IdentityRules): Grant | undefined {
  const path = mapped.get(uri);
  if (path !== undefined) return grantOfPath(path);
  const [, uriDomain, uriPath = ''] = uriPattern.exec(uri) ?? [];
  return uriDomain === domain ? grantOfPath(uriPath) : undefined;
}

/** Reads `role/viewer`, `role/operator`, `controller/NAME`, `role/caller` or `role/caller/pool/POOL`. */
export function grantOfPath(path: string): Grant | undefined {
  const [kind, name = '', pools, pool = '', ...more] = path.split('/');
  if (more.length > 0 || name === '') return undefined;
  if (kind === 'controller') return pools === undefined ? { role: 'controller', pool: null } : undefined;
  if (kind !== 'role' || !isCertificateRole(name)) return undefined;
  if (pools === undefined) return { role: name, pool: null };
  // A caller of something that cannot be a pool may call nothing, and never all pools.
  const isPool = pools === 'pool' && poolNameProblem(pool) === undefined;
  return name === 'caller' && isPool ? { role: name, pool } : undefined;
}
