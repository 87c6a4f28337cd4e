import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import type { Validity } from '../../domain/validity.ts';
import type { NamedCertificate } from './named-certificate.ts';
import { namedCertificate } from './named-certificate.ts';
import { blocksOf, bytesOfBlock } from './pem.ts';
import type { RevocationList } from './revocation-list.ts';
import { ListProblem, readRevocationList } from './revocation-list.ts';
import type { Revocations } from './revocations.ts';
import { revocationsOf } from './revocations.ts';

/** Paths of the files of `tls`. `crl` null: no revocation list. */
export interface TlsPaths {
  readonly cert: string;
  readonly key: string;
  readonly clientCa: string;
  readonly crl: string | null;
}

/** The files that can expire. */
export const expiringFiles = ['cert', 'client_ca', 'crl'] as const;
export type ExpiringFile = (typeof expiringFiles)[number];

export interface TlsFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly clientCa: Buffer;
  /** The whole file; null: none is configured. */
  readonly crl: Buffer | null;
  /** The lists in the file of `crl`; empty: none is configured. */
  readonly crls: readonly Buffer[];
  /** Fingerprints of the CAs in `clientCa`. */
  readonly caFingerprints: ReadonlySet<string>;
  /** Of the certificate with its chain, of the CA that expires first, and of all lists together. `crl` is left out if there is none. */
  readonly validity: ReadonlyMap<ExpiringFile, Validity>;
  /** CAs of `clientCa` without a list in `crls`. OpenSSL then accepts none of their certificates. */
  readonly casWithoutList: readonly string[];
  readonly revocations: Revocations;
  /** Differs if any file's content differs. */
  readonly digest: string;
}

export type TlsFilesRead =
  | { readonly ok: true; readonly files: TlsFiles }
  | { readonly ok: false; readonly problem: string };

/** A chain or a list of revoked certificates of this size is no mistake, and a larger one would take long to parse. */
const fileMaxBytes = 4 * 1024 * 1024;

/** Files that are not read, because those on disk cannot be used: the agent's own, or those that say whom it trusts. */
export type KeptFiles = Partial<Pick<TlsFiles, 'cert' | 'key' | 'clientCa' | 'crl'>>;

/** Reads the files and checks that they belong together. `kept` stands for files on disk. Never rejects. */
export async function readTlsFiles(paths: TlsPaths, kept: KeptFiles = {}): Promise<TlsFilesRead> {
  try {
    const [cert, key, clientCa, crl] = await Promise.all([
      kept.cert ?? read('cert', paths.cert),
      kept.key ?? read('key', paths.key),
      kept.clientCa ?? read('client_ca', paths.clientCa),
      kept.crl ?? (paths.crl === null ? null : read('crl', paths.crl)),
    ]);
    checkPair(paths, cert, key);
    const chain = certificatesOf('cert', paths.cert, cert);
    const cas = certificatesOf('client_ca', paths.clientCa, clientCa);
    const { crls, lists } = crl === null ? { crls: [], lists: [] } : listsOf(paths.crl ?? '', crl, cas);
    const validity = new Map<ExpiringFile, Validity>([
      ['cert', common(chain.map((each) => each.validity))],
      ['client_ca', endingFirst(cas.map((each) => each.validity))],
    ]);
    if (crl !== null) validity.set('crl', common(lists.map(validityOfList)));
    const files: TlsFiles = {
      ...{ cert, key, clientCa, crl, crls, validity },
      caFingerprints: new Set(cas.map(({ fingerprint }) => fingerprint)),
      casWithoutList:
        crl === null ? [] : cas.filter((ca) => !lists.some((list) => list.ca === ca)).map(({ shown }) => shown),
      revocations: revocationsOf(lists, cas),
      digest: digestOf([cert, key, clientCa, crl ?? Buffer.alloc(0)]),
    };
    return { ok: true, files };
  } catch (error) {
    return { ok: false, problem: error instanceof Problem ? error.message : `tls: ${String(error)}` };
  }
}

function checkPair(paths: TlsPaths, cert: Buffer, key: Buffer): void {
  const own = parsed('cert', paths.cert, 'a certificate in PEM', () => new X509Certificate(cert));
  const privateKey = parsed('key', paths.key, 'a private key in PEM without a passphrase', () => createPrivateKey(key));
  if (!own.checkPrivateKey(privateKey)) {
    throw new Problem(`tls.key: expected the key of the certificate in ${paths.cert}, got another one in ${paths.key}`);
  }
  parsed('cert', paths.cert, 'a chain of certificates that TLS accepts', () => createSecureContext({ cert, key }));
}

/** All of a file. TLS takes a file without any certificate, and the certificates of one that is cut off in the middle. */
function certificatesOf(name: 'cert' | 'client_ca', path: string, pem: Buffer): NamedCertificate[] {
  parsed(name, path, 'certificates in PEM', () => {
    new X509Certificate(pem);
    if (name === 'client_ca') createSecureContext({ ca: pem });
  });
  return parsed(name, path, 'whole certificates in PEM', () =>
    blocksOf(pem)
      .filter((block) => block.includes('CERTIFICATE-----'))
      .map((block) => namedCertificate(new X509Certificate(block))),
  );
}

function listsOf(path: string, pem: Buffer, cas: readonly NamedCertificate[]) {
  return parsed('crl', path, 'lists of revoked certificates in PEM', () => {
    const crls = blocksOf(pem);
    createSecureContext({ crl: crls });
    const newest = new Map<NamedCertificate, RevocationList>();
    for (const list of crls.map((block) => readRevocationList(bytesOfBlock(block), cas))) {
      if ((newest.get(list.ca)?.thisUpdateMs ?? Number.NEGATIVE_INFINITY) < list.thisUpdateMs)
        newest.set(list.ca, list);
    }
    return { crls, lists: [...newest.values()] };
  });
}

function validityOfList({ thisUpdateMs, nextUpdateMs }: RevocationList): Validity {
  return { fromMs: thisUpdateMs, untilMs: nextUpdateMs };
}

/** When all are valid. */
function common(all: readonly Validity[]): Validity {
  return {
    fromMs: Math.max(...all.map(({ fromMs }) => fromMs)),
    untilMs: Math.min(...all.map(({ untilMs }) => untilMs)),
  };
}

/** Differs if a file was replaced or written since. Never rejects. */
export async function signatureOf({ cert, key, clientCa, crl }: TlsPaths): Promise<string> {
  const paths = [cert, key, clientCa, ...(crl === null ? [] : [crl])];
  const seen = paths.map((path) =>
    stat(path).then(
      ({ dev, ino, size, mtimeMs, ctimeMs }) => [dev, ino, size, mtimeMs, ctimeMs].join(' '),
      (error: NodeJS.ErrnoException) => error.code ?? 'unreadable',
    ),
  );
  return (await Promise.all(seen)).join('\n');
}

class Problem extends Error {}

async function read(key: string, path: string): Promise<Buffer> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: NodeJS.ErrnoException) => {
    throw new Problem(`tls.${key}: expected a readable file, got ${error.code ?? error.message} for ${path}`);
  });
  try {
    const found = await file.stat();
    const { size } = found;
    if (!found.isFile()) throw new Problem(`tls.${key}: expected a file, got something else at ${path}`);
    if (size > fileMaxBytes) throw new Problem(`tls.${key}: expected at most 4 MiB, got ${size} bytes in ${path}`);
    const bytes = Buffer.alloc(size + 1);
    const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close().catch(() => undefined);
  }
}

function parsed<T>(key: string, path: string, wanted: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof ListProblem) throw new Problem(`tls.${key}: ${error.message} in ${path}`);
    // What the library says may quote the file, which may be a key.
    throw new Problem(`tls.${key}: expected ${wanted}, got a file that cannot be read as that: ${path}`);
  }
}

/** Of several CAs some may be of later or of earlier. */
function endingFirst(all: readonly Validity[]): Validity {
  return all.reduce((first, each) => (each.untilMs < first.untilMs ? each : first));
}

function digestOf(parts: readonly Buffer[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return hash.digest('hex');
}
