import type { CertificateHolder } from '../domain/certificate-identity.ts';
import {
  certificateRoles,
  defaultTrustDomain,
  holderNameProblem,
  isCertificateRole,
  poolNameProblem,
  trustDomainProblem,
} from '../domain/certificate-identity.ts';
import type { Authority } from '../os/certificates/authority.ts';
import { createAuthority, issueCertificate, readAuthority, revokeCertificate } from '../os/certificates/authority.ts';
import { certificatePath, crlPath } from '../os/certificates/authority-folder.ts';
import { CertificateError } from '../os/certificates/certificate-error.ts';
import type { IssuedCertificate } from '../os/certificates/certificate-index.ts';
import type { HostName } from '../os/certificates/host-name.ts';
import { parseHost } from '../os/certificates/host-name.ts';
import { CliError, exitCode } from './exit.ts';
import { ownName, shellWord } from './own-name.ts';
import { print, printJson } from './print.ts';
import { table } from './table.ts';

/** `pitwarden ca …`: a small certificate authority, for trying out TLS and for small fleets. */

interface CaOptions {
  readonly dir: string;
  readonly json?: boolean;
}

export interface IssueOptions extends CaOptions {
  readonly out: string;
  readonly role?: string;
  readonly controller?: string;
  readonly node?: string;
  readonly pool?: string;
  readonly host?: string;
  readonly days: string;
}

const daysMax = 36_500;
const hostsMax = 32;

export async function caInit(options: CaOptions & { readonly domain?: string; readonly days: string }): Promise<void> {
  const domain = options.domain ?? defaultTrustDomain;
  refuse('--domain', trustDomainProblem(domain));
  const days = parseDays(options.days);
  const made = await explained(() => createAuthority(options.dir, domain, days, Date.now()));
  if (options.json === true) return printJson(authorityView(made));
  print(`CA of ${domain} made in ${options.dir}, valid until ${day(made.expiresAtMs)}; keep ca.key secret`);
  print(`next: ${ownName()} ca issue --dir ${shellWord(options.dir)} --role operator --out operator`);
}

export async function caIssue(options: IssueOptions): Promise<void> {
  const holder = parseHolder(options);
  const hosts = parseHosts(options.host, holder);
  const issue = { holder, hosts, days: parseDays(options.days), out: options.out };
  if (/(^|\/)\.{0,2}$/.test(issue.out)) throw usage(`--out: expected the name of files, got "${issue.out}"`);
  const issued = await explained(() => issueCertificate(options.dir, issue, Date.now()));
  const files = { certificate: `${issue.out}.crt`, key: `${issue.out}.key` };
  if (options.json === true) return printJson({ ...issued, ...files });
  print(`${files.certificate}, ${files.key}: ${issued.identity}, valid until ${day(issued.expires_at_ms)}`);
  print(`serial ${issued.serial}`);
}

export async function caRevoke(which: string, options: CaOptions): Promise<void> {
  const revoked = await explained(() => revokeCertificate(options.dir, which, Date.now()));
  const { index } = await explained(() => readAuthority(options.dir));
  const crl = crlPath(options.dir);
  if (options.json === true) return printJson({ ...revoked, crl, crl_number: index.crl_number });
  print(`${revoked.serial} (${revoked.identity}) is revoked since ${new Date(revoked.revoked_at_ms).toISOString()}`);
  print(`${crl} is revocation list ${index.crl_number}; give it to your servers`);
}

export async function caShow(options: CaOptions): Promise<void> {
  const authority = await explained(() => readAuthority(options.dir));
  const { certificates } = authority.index;
  if (options.json === true) return printJson({ ...authorityView(authority), certificates });
  const nowMs = Date.now();
  const state = authority.expiresAtMs > nowMs ? 'valid until' : 'expired';
  print(
    `CA of ${authority.index.trust_domain}, ${state} ${day(authority.expiresAtMs)}, SHA-256 ${authority.fingerprint}`,
  );
  const rows = certificates.map((each) => [
    each.serial,
    each.identity,
    each.hosts.join(',') || '-',
    day(each.expires_at_ms),
    stateOf(each, nowMs),
  ]);
  print(`\n${table(['SERIAL', 'IDENTITY', 'HOSTS', 'EXPIRES', 'STATE'], rows)}`);
}

function authorityView({ directory, expiresAtMs, fingerprint, index }: Authority) {
  return {
    dir: directory,
    domain: index.trust_domain,
    serial: index.authority_serial,
    fingerprint_sha256: fingerprint,
    expires_at_ms: expiresAtMs,
    certificate: certificatePath(directory),
    crl: crlPath(directory),
    crl_number: index.crl_number,
  };
}

function stateOf({ revoked_at_ms, expires_at_ms }: IssuedCertificate, nowMs: number): string {
  if (revoked_at_ms !== 0) return `revoked ${day(revoked_at_ms)}`;
  return expires_at_ms > nowMs ? 'valid' : 'expired';
}

function parseHolder({ role, controller, node, ...options }: IssueOptions): CertificateHolder {
  const pool = options.pool ?? null;
  const given = Object.entries({ role, controller, node }).filter(([, value]) => value !== undefined);
  if (given.length !== 1) {
    const got = given.map(([name]) => `--${name}`).join(' and ') || 'none of them';
    throw usage(`expected one of --role, --controller and --node, got ${got}`);
  }
  if (pool !== null) {
    refuse('--pool', poolNameProblem(pool));
    if (role !== 'caller') throw usage('--pool: expected it with --role caller, got it without');
  }
  if (role !== undefined) {
    if (isCertificateRole(role)) return { kind: 'role', role, pool };
    throw usage(`--role: expected one of ${certificateRoles.join(', ')}, got "${role}"`);
  }
  if (controller !== undefined) {
    refuse('--controller', holderNameProblem(controller));
    return { kind: 'controller', name: controller };
  }
  const name = node ?? '';
  refuse('--node', holderNameProblem(name));
  return { kind: 'node', name };
}

function parseHosts(text: string | undefined, holder: CertificateHolder): readonly HostName[] {
  if (text === undefined) {
    if (holder.kind !== 'node') return [];
    throw usage('--node: expected --host HOST[,HOST] with it, the names and addresses that callers dial, got none');
  }
  if (holder.kind === 'role') throw usage('--host: expected it with --node or --controller, got it with --role');
  const hosts = text.split(',').map((each) => {
    const host = parseHost(each);
    if (host !== undefined) return host;
    throw usage(`--host: expected host names and IP addresses, separated by commas, got "${each.slice(0, 253)}"`);
  });
  const unique = [...new Map(hosts.map((host) => [host.value, host])).values()];
  if (unique.length > hostsMax) throw usage(`--host: expected at most ${hostsMax}, got ${unique.length}`);
  return unique;
}

function parseDays(text: string): number {
  const days = /^[1-9]\d{0,4}$/.test(text) ? Number(text) : 0;
  if (days >= 1 && days <= daysMax) return days;
  throw usage(`--days: expected a whole number from 1 to ${daysMax}, got "${text}"`);
}

/** Errors of the authority and of its files end the command with their message, others with their stack. */
async function explained<T>(work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof CertificateError) throw new CliError(exitCode.failed, error.message);
    const { code, syscall, path } = error as NodeJS.ErrnoException;
    if (code === undefined || syscall === undefined) throw error;
    throw new CliError(exitCode.failed, `${path ?? 'the CA'}: expected ${syscall} to succeed, got ${code}`);
  }
}

function refuse(flag: string, problem: string | undefined): void {
  if (problem !== undefined) throw usage(`${flag}: ${problem}`);
}

function usage(message: string): CliError {
  return new CliError(exitCode.usage, message);
}

function day(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}
