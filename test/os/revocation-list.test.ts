import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { element, withoutZeros } from '../../src/os/certificates/der.ts';
import { namedCertificate } from '../../src/os/certificates/named-certificate.ts';
import { blocksOf, bytesOfBlock } from '../../src/os/certificates/pem.ts';
import { readRevocationList } from '../../src/os/certificates/revocation-list.ts';
import { revocationsOf } from '../../src/os/certificates/revocations.ts';
import { hasOpenssl } from '../certificates.ts';
import { needs } from '../needs.ts';

// Keys, certificates and lists by openssl, so that our reader is held against another writer.

describe('a list of revoked certificates', needs('openssl', hasOpenssl), () => {
  let dir: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'pw-'));
    authority('root');
  });
  afterAll(() => rmSync(dir, { recursive: true }));

  const at = (name: string) => join(dir, name);
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const certificate = (name: string) => new X509Certificate(readFileSync(at(`${name}.pem`)));
  const named = (...names: string[]) => names.map((name) => namedCertificate(certificate(name)));

  const keyArgs: Record<string, string[]> = {
    ecdsa: ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'],
    p384: ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384'],
    rsa: ['-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048'],
    ed25519: ['-algorithm', 'ED25519'],
  };

  function authority(name: string, keyType = 'ecdsa', subject = `/CN=${name}`, usage = 'keyCertSign,cRLSign'): void {
    openssl('genpkey', ...(keyArgs[keyType] ?? []), '-out', at(`${name}.key`));
    const more = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', `keyUsage=critical,${usage}`];
    openssl(
      ...['req', '-x509', '-utf8', '-key', at(`${name}.key`), '-subj', subject, '-days', '9', ...more],
      ...['-out', at(`${name}.pem`)],
    );
  }

  function issued(name: string, by: string, extensions = 'basicConstraints=CA:FALSE'): X509Certificate {
    openssl('genpkey', ...(keyArgs['ecdsa'] ?? []), '-out', at(`${name}.key`));
    openssl('req', '-new', '-key', at(`${name}.key`), '-subj', `/CN=${name}`, '-out', at(`${name}.csr`));
    writeFileSync(at('ext'), extensions);
    openssl(
      ...['x509', '-req', '-in', at(`${name}.csr`), '-CA', at(`${by}.pem`), '-CAkey', at(`${by}.key`)],
      ...['-CAcreateserial', '-days', '8', '-extfile', at('ext'), '-out', at(`${name}.pem`)],
    );
    return certificate(name);
  }

  /** The list of an authority with these certificates. */
  function listOf(by: string, revoked: readonly string[], digest = 'sha256', extensions = ''): Buffer {
    const config = at(`${by}.cnf`);
    writeFileSync(at(`${by}.txt`), '');
    writeFileSync(
      config,
      `[ca]\ndefault_ca=o\n[o]\ndatabase=${at(`${by}.txt`)}\ndefault_md=${digest}\ndefault_crl_days=7\n[x]\n${extensions}\n`,
    );
    const signer = ['-config', config, '-cert', at(`${by}.pem`), '-keyfile', at(`${by}.key`)];
    for (const name of revoked) openssl('ca', ...signer, '-revoke', at(`${name}.pem`));
    openssl('ca', ...signer, '-gencrl', ...(extensions === '' ? [] : ['-crlexts', 'x']), '-out', at(`${by}.crl`));
    const [block = Buffer.alloc(0)] = blocksOf(readFileSync(at(`${by}.crl`)));
    return bytesOfBlock(block);
  }

  test.each([
    ['ecdsa', 'sha256'],
    ['p384', 'sha384'],
    ['rsa', 'sha256'],
    ['rsa', 'sha512'],
    ['ed25519', 'default'],
  ])('by %s with %s is read, and its signature verified', (keyType, digest) => {
    const name = `${keyType}-${digest}`;
    authority(name, keyType);
    const bad = issued(`${name}-bad`, name);
    const good = issued(`${name}-good`, name);
    const cas = named(name);
    const der = listOf(name, [`${name}-bad`], digest);
    const list = readRevocationList(der, cas);
    expect(list.serials).toEqual(new Set([withoutZeros(bad.serialNumber)]));
    expect(list.ca).toBe(cas[0]);
    expect(list.nextUpdateMs - list.thisUpdateMs).toBe(7 * 86_400_000);
    expect(Math.abs(Date.now() - list.thisUpdateMs)).toBeLessThan(60_000);
    const revocations = revocationsOf([list], cas);
    expect([bad, good].map((each) => revocations.isRevoked(each))).toEqual([true, false]);
    const forged = Buffer.from(der);
    forged.writeUInt8(forged.readUInt8(forged.length - 1) ^ 1, forged.length - 1);
    expect(() => readRevocationList(forged, cas)).toThrow('has signed, got a signature of somebody else');
  });

  test('of another CA is refused, also of one that has the same name', () => {
    authority('stranger');
    expect(() => readRevocationList(listOf('stranger', []), named('root'))).toThrow(
      'expected lists of the CAs in tls.client_ca (CN=root), got one of another CA',
    );
    authority('impostor', 'rsa', '/CN=root');
    expect(() => readRevocationList(listOf('impostor', []), named('root'))).toThrow(
      'expected a list that CN=root has signed, got a signature of somebody else',
    );
    // The new key of a CA, beside its old one.
    expect(readRevocationList(listOf('impostor', []), named('root', 'impostor')).ca.publicKey.asymmetricKeyType).toBe(
      'rsa',
    );
  });

  test('of a CA whose name has other letters, spaces or encoding than in its certificate is found', () => {
    authority('spaced', 'ecdsa', '/O=Fleet  Example/CN=CÄ');
    openssl(
      ...['req', '-x509', '-utf8', '-key', at('spaced.key'), '-subj', '/O=fleet example/CN=cä', '-days', '9'],
      ...['-addext', 'keyUsage=critical,cRLSign', '-out', at('other.pem')],
    );
    expect(readRevocationList(listOf('spaced', []), named('other')).serials.size).toBe(0);
  });

  test.each<[string, () => Buffer, string]>([
    [
      'of a CA that may sign no lists',
      () => {
        authority('unsigning', 'ecdsa', '/CN=unsigning', 'keyCertSign');
        return listOf('unsigning', []);
      },
      'expected a CA whose key usage includes cRLSign',
    ],
    ['with SHA-1', () => listOf('root', [], 'sha1'), 'got the algorithm 1.2.840.10045.4.1'],
    [
      'of changes alone',
      () => listOf('root', [], 'sha256', '2.5.29.27=critical,DER:020101'),
      'expected a complete list',
    ],
    [
      'with a critical extension that nobody knows',
      () => listOf('root', [], 'sha256', '1.2.3.4=critical,DER:0500'),
      'expected a list without unknown critical extensions, got one with 1.2.3.4',
    ],
  ])('%s is refused', (_, made, message) => {
    const der = made();
    const names = ['root', ...(message.includes('cRLSign') ? ['unsigning'] : [])];
    expect(() => readRevocationList(der, named(...names))).toThrow(message);
  });

  test('revokes what a revoked CA has issued, whether its holder sends the CA or client_ca has it', () => {
    const ca = 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign';
    issued('lost', 'root', ca);
    issued('kept', 'root', ca);
    const [leaf, other] = [issued('leaf', 'lost'), issued('leaf2', 'kept')];
    const cas = named('root', 'lost', 'kept');
    const revocations = revocationsOf([readRevocationList(listOf('root', ['lost']), cas)], cas);
    expect([leaf, other].map((each) => revocations.isRevoked(each))).toEqual([true, false]);
    const sent = { ...viewOf(leaf), issuerCertificate: certificate('lost') } as unknown as X509Certificate;
    const rootOnly = named('root');
    const again = revocationsOf([readRevocationList(listOf('root', ['lost']), rootOnly)], rootOnly);
    expect([sent, leaf].map((each) => again.isRevoked(each))).toEqual([true, false]);
  });

  function viewOf({ raw, subject, fingerprint256, publicKey }: X509Certificate) {
    return { raw, subject, fingerprint256, publicKey, verify: () => true };
  }

  test('with any bytes changed, cut off or made up is refused, and never read as another', () => {
    const cas = named('root');
    const der = listOf('root', []);
    const length = der.length;
    fc.assert(
      fc.property(fc.nat(length - 1), fc.integer({ min: 1, max: 255 }), (where, change) => {
        const damaged = Buffer.from(der);
        damaged.writeUInt8(damaged.readUInt8(where) ^ change, where);
        expect(() => readRevocationList(damaged, cas)).toThrow();
      }),
      { numRuns: 300 },
    );
    for (let end = 0; end < length; end++) expect(() => readRevocationList(der.subarray(0, end), cas)).toThrow();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(() => readRevocationList(Buffer.from(bytes), cas)).toThrow();
      }),
    );
  });

  test('of 50,000 certificates is read within a second', () => {
    writeFileSync(at('root.txt'), '');
    const rows = Array.from(
      { length: 50_000 },
      (_, index) =>
        `R\t301201000000Z\t261101000000Z\t${(2 ** 40 + index).toString(16).padStart(32, 'A')}\tunknown\t/CN=x\n`,
    );
    listOf('root', []);
    writeFileSync(at('root.txt'), rows.join(''));
    const signer = ['-config', at('root.cnf'), '-cert', at('root.pem'), '-keyfile', at('root.key')];
    openssl('ca', ...signer, '-gencrl', '-out', at('large.crl'));
    const [block = Buffer.alloc(0)] = blocksOf(readFileSync(at('large.crl')));
    const der = bytesOfBlock(block);
    const beganMs = performance.now();
    expect(readRevocationList(der, named('root')).serials.size).toBe(50_000);
    expect(performance.now() - beganMs).toBeLessThan(1_000);
  });

  test('an element of more than four bytes of length, or of no length, is no element', () => {
    for (const bytes of [
      [0x30, 0x85, 0, 0, 0, 0, 0],
      [0x30, 0x80, 0, 0],
      [0x30, 5, 0],
      [0x3f, 1, 0],
      [0x30, 1, 0, 0],
    ])
      expect(() => element(Buffer.from(bytes))).toThrow();
  });
});
