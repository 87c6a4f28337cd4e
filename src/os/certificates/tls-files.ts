import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';

/** Paths of the files of `tls`. `crl` null: no revocation list. */
export interface TlsPaths {
  readonly cert: string;
  readonly key: string;
  readonly clientCa: string;
  readonly crl: string | null;
}

export interface TlsFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly clientCa: Buffer;
  /** The lists in the file of `crl`; empty: none is configured. */
  readonly crls: readonly Buffer[];
  /** When the agent's own certificate expires, in ms of Unix time. */
  readonly expiresAtMs: number;
  /** Differs if any file's content differs. */
  readonly digest: string;
}

export type TlsFilesRead =
  | { readonly ok: true; readonly files: TlsFiles }
  | { readonly ok: false; readonly problem: string };

/** A chain or a list of revoked certificates of this size is no mistake, and a larger one would take long to parse. */
const fileMaxBytes = 4 * 1024 * 1024;

/** Reads the files and checks that they belong together. Never rejects. */
export async function readTlsFiles(paths: TlsPaths): Promise<TlsFilesRead> {
  try {
    const [cert, key, clientCa, crl] = await Promise.all([
      read('cert', paths.cert),
      read('key', paths.key),
      read('client_ca', paths.clientCa),
      paths.crl === null ? null : read('crl', paths.crl),
    ]);
    const own = parsed('cert', paths.cert, 'a certificate in PEM', () => new X509Certificate(cert));
    const privateKey = parsed('key', paths.key, 'a private key in PEM without a passphrase', () =>
      createPrivateKey(key),
    );
    if (!own.checkPrivateKey(privateKey)) {
      throw new Problem(
        `tls.key: expected the key of the certificate in ${paths.cert}, got another one in ${paths.key}`,
      );
    }
    parsed('cert', paths.cert, 'a chain of certificates that TLS accepts', () => createSecureContext({ cert, key }));
    parsed('client_ca', paths.clientCa, 'certificates in PEM', () => {
      // TLS itself takes a file without any certificate, and then accepts nobody.
      new X509Certificate(clientCa);
      createSecureContext({ ca: clientCa });
    });
    for (const [name, path, pem] of [
      ['cert', paths.cert, cert],
      ['client_ca', paths.clientCa, clientCa],
    ] as const) {
      // TLS takes the certificates of a file that is cut off in the middle.
      parsed(name, path, 'whole certificates in PEM', () =>
        blocksOf(pem)
          .filter((block) => block.includes('CERTIFICATE-----'))
          .map((block) => new X509Certificate(block)),
      );
    }
    const crls =
      crl === null
        ? []
        : parsed('crl', paths.crl ?? '', 'lists of revoked certificates in PEM', () => {
            const lists = blocksOf(crl);
            createSecureContext({ crl: lists });
            return lists;
          });
    const expiresAtMs = Date.parse(own.validTo);
    if (!Number.isFinite(expiresAtMs)) {
      throw new Problem(`tls.cert: expected a certificate with an end, got "${own.validTo}" in ${paths.cert}`);
    }
    const digest = digestOf([cert, key, clientCa, crl ?? Buffer.alloc(0)]);
    return { ok: true, files: { cert, key, clientCa, crls, expiresAtMs, digest } };
  } catch (error) {
    return { ok: false, problem: error instanceof Problem ? error.message : `tls: ${String(error)}` };
  }
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
  } catch {
    // What the library says may quote the file, which may be a key.
    throw new Problem(`tls.${key}: expected ${wanted}, got a file that cannot be read as that: ${path}`);
  }
}

/** The blocks of a file in PEM. Throws if there is none, or if one is not whole. */
function blocksOf(pem: Buffer): Buffer[] {
  const text = pem.toString('latin1');
  const blocks = text.match(/-----BEGIN ([A-Z0-9 ]+)-----[^-]+-----END \1-----/g) ?? [];
  const begun = text.split('-----BEGIN ').length - 1;
  if (blocks.length === 0 || begun !== blocks.length) throw new Error('expected whole blocks');
  return blocks.map((block) => Buffer.from(`${block}\n`, 'latin1'));
}

function digestOf(parts: readonly Buffer[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return hash.digest('hex');
}
