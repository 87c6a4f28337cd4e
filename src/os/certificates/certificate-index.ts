import { join } from 'node:path';
import { z } from 'zod';
import { replaceDurably } from '../storage/durable-file.ts';
import { seal, unseal } from '../storage/sealed-file.ts';
import { CertificateError, readBounded } from './certificate-error.ts';

/** The record of what an authority has issued and revoked: `index.json` in its folder. */

const kind = 'pitwarden-ca';
const version = 1;
/** About 20,000 certificates. */
const maxBytes = 8 * 2 ** 20;

const unixMs = z.int().min(0).max(8.64e15);
/** As `openssl x509 -serial` and Node print it. Ours have 32 digits; other programs with the same key may make others. */
const serial = z.string().regex(/^[0-9A-F]{1,40}$/);

const certificate = z.object({
  serial,
  /** The SPIFFE id. */
  identity: z.string().max(2048),
  hosts: z.array(z.string().max(253)).max(32),
  issued_at_ms: unixMs,
  expires_at_ms: unixMs,
  /** 0: not revoked. */
  revoked_at_ms: unixMs,
});

const contents = z.object({
  /** That of the authority's own certificate. */
  authority_serial: serial,
  trust_domain: z.string().min(1).max(255),
  /** The number of the revocation list that was written last, or was to be written. */
  crl_number: z.int().min(1),
  /** Oldest first. */
  certificates: z
    .array(certificate)
    .refine((all) => new Set(all.map((each) => each.serial)).size === all.length, 'expected each serial once'),
});

export type IssuedCertificate = Readonly<z.infer<typeof certificate>>;
export type CertificateIndex = Readonly<z.infer<typeof contents>>;

export function indexPath(directory: string): string {
  return join(directory, 'index.json');
}

export function readIndex(directory: string): CertificateIndex {
  const path = indexPath(directory);
  const remedy = 'put the file back from a backup of the folder';
  const unsealed = unseal(readBounded(path, maxBytes), kind, [version]);
  if (!unsealed.ok) throw new CertificateError(`${path}: ${unsealed.why}; ${remedy}`);
  const { data, error } = contents.safeParse(unsealed.value);
  if (data !== undefined) return data;
  throw new CertificateError(`${path}: ${words(error)}; ${remedy}`);
}

export async function writeIndex(directory: string, index: CertificateIndex): Promise<void> {
  const path = indexPath(directory);
  // What cannot be read again must not be written: a certificate that another program made with the same key may have odd fields.
  const { error } = contents.safeParse(index);
  if (error !== undefined) throw new CertificateError(`${path}: ${words(error)}`);
  const text = seal(kind, version, index);
  const remedy = 'make a new CA in a folder of its own with ca init';
  if (text.length > maxBytes) {
    throw new CertificateError(`${path}: expected at most ${maxBytes} bytes, got ${text.length}; ${remedy}`);
  }
  await replaceDurably(path, text);
}

function words({ issues: [issue] }: z.ZodError): string {
  return `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'expected the index of a CA'}`;
}
