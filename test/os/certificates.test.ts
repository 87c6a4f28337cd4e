import { spawnSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createServer } from 'node:tls';
import { asyncProperty, ipV4, ipV6, oneof, assert as sampled } from 'fast-check';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import type { CertificateHolder } from '../../src/domain/certificate-identity.ts';
import {
  createAuthority,
  issueCertificate,
  readAuthority,
  revokeCertificate,
} from '../../src/os/certificates/authority.ts';
import type { IssuedCertificate } from '../../src/os/certificates/certificate-index.ts';
import { parseHost } from '../../src/os/certificates/host-name.ts';
import { takeLock } from '../../src/os/storage/lock-file.ts';
import { seal } from '../../src/os/storage/sealed-file.ts';
import { needs } from '../needs.ts';

const nowMs = Date.now();
const dayMs = 86_400_000;
const operator: CertificateHolder = { kind: 'role', role: 'operator', pool: null };
const node: CertificateHolder = { kind: 'node', name: 'n1' };

const root = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(root, { recursive: true }));
let folders = 0;
function newFolder(): string {
  folders += 1;
  const folder = join(root, String(folders));
  mkdirSync(folder);
  return folder;
}

/** A new authority in `folder/ca`. */
async function newAuthority(days = 3650): Promise<{ folder: string; ca: string }> {
  const folder = newFolder();
  const ca = join(folder, 'ca');
  await createAuthority(ca, 'd.example', days, nowMs);
  return { folder, ca };
}

function issue(
  ca: string,
  out: string,
  holder: CertificateHolder = operator,
  hosts: readonly string[] = [],
  days = 90,
): Promise<IssuedCertificate> {
  const names = hosts.map((host) => parseHost(host) ?? expect.fail(`${host} is no host`));
  return issueCertificate(ca, { holder, hosts: names, days, out }, nowMs);
}

const read = (path: string) => readFileSync(path, 'utf8');
const indexFile = (ca: string) => join(ca, 'index.json');
const indexed = (ca: string) => JSON.parse(read(indexFile(ca)).split('\n')[1] ?? '');
const writeIndexed = (ca: string, value: object) => writeFileSync(indexFile(ca), seal('pitwarden-ca', 1, value));
const modeOf = (path: string) => statSync(path).mode & 0o777;

test('keys and the folder are closed to others, whatever the umask', async () => {
  const umask = process.umask(0);
  onTestFinished(() => void process.umask(umask));
  const { folder, ca } = await newAuthority();
  await issue(ca, join(folder, 'op'));
  expect([ca, join(ca, 'ca.key'), join(ca, 'index.json'), join(folder, 'op.key')].map(modeOf)).toEqual([
    0o700, 0o600, 0o600, 0o600,
  ]);
  expect(readdirSync(folder).sort()).toEqual(['ca', 'op.crt', 'op.key']);
  expect(readdirSync(ca).sort()).toEqual(['ca.crl', 'ca.crt', 'ca.key', 'index.json']);
});

test('the index says what the certificate says', async () => {
  const { folder, ca } = await newAuthority();
  const issued = await issue(ca, join(folder, 'n1'), node, ['localhost', '127.0.0.1']);
  const certificate = new X509Certificate(read(join(folder, 'n1.crt')));
  expect(issued).toMatchObject({
    serial: certificate.serialNumber,
    identity: 'spiffe://d.example/node/n1',
    expires_at_ms: Date.parse(certificate.validTo),
  });
  expect(issued.serial).toMatch(/^[0-9A-F]{32}$/);
  expect(certificate.subjectAltName).toBe('URI:spiffe://d.example/node/n1, DNS:localhost, IP Address:127.0.0.1');
  expect(certificate.ca).toBe(false);
  expect(Date.parse(certificate.validTo) - nowMs).toBeGreaterThan(90 * dayMs - 1000);
  expect(readAuthority(ca).index.certificates).toEqual([issued]);
});

describe('openssl', needs('openssl', spawnSync('openssl', ['version']).status === 0), () => {
  const openssl = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync('openssl', args, { encoding: 'utf8' });
    return { status, text: `${stdout}${stderr}` };
  };
  let folder: string;
  let ca: string;
  beforeAll(async () => {
    // Past 2050 the form of dates in certificates is another one.
    ({ folder, ca } = await newAuthority(20_000));
    await issue(ca, join(folder, 'op'));
    await issue(ca, join(folder, 'n1'), node, ['localhost', '::1']);
    await issue(ca, join(folder, 'r1'), { kind: 'controller', name: 'r1' }, ['r1.example'], 10_000);
  });
  const verify = (name: string, ...flags: string[]) =>
    openssl('verify', '-x509_strict', '-CAfile', join(ca, 'ca.crt'), ...flags, join(folder, `${name}.crt`));

  test.each([
    ['op', 'sslclient', true],
    ['op', 'sslserver', false],
    ['n1', 'sslclient', false],
    ['n1', 'sslserver', true],
    ['r1', 'sslclient', true],
    ['r1', 'sslserver', true],
  ])('accepts the certificate %s as %s: %s', (name, purpose, accepted) => {
    expect(verify(name, '-purpose', purpose).status === 0).toBe(accepted);
  });

  test('accepts the names of a server, and no others', () => {
    expect(verify('n1', '-verify_hostname', 'localhost', '-verify_ip', '::1').status).toBe(0);
    expect(verify('n1', '-verify_hostname', 'other').text).toContain('hostname mismatch');
  });

  test('finds the key uses that each certificate needs', () => {
    const text = openssl('x509', '-in', join(ca, 'ca.crt'), '-noout', '-text').text;
    expect(text).toMatch(/Basic Constraints: critical\s+CA:TRUE, pathlen:0/);
    expect(text).toMatch(/Key Usage: critical\s+Certificate Sign, CRL Sign/);
    expect(text).toContain('NIST CURVE: P-256');
    expect(openssl('x509', '-in', join(folder, 'op.crt'), '-noout', '-text').text).toMatch(
      /CA:FALSE[\s\S]*Key Usage: critical\s+Digital Signature/,
    );
  });

  test('finds the revoked certificate, and it alone, in the signed revocation list', async () => {
    const crl = join(ca, 'ca.crl');
    const listed = () => openssl('crl', '-in', crl, '-noout', '-text', '-CAfile', join(ca, 'ca.crt')).text;
    const check = (name: string) => verify(name, '-crl_check_all', '-CRLfile', crl);
    expect(listed()).toContain('verify OK');
    expect(listed()).toMatch(/CRL Number: \s+1\n[\s\S]*No Revoked/);
    expect(check('op').status).toBe(0);
    const { serial } = await revokeCertificate(ca, join(folder, 'op.crt'), nowMs);
    // From 128 on a number takes a byte more than its digits, so that it does not read as a negative one.
    writeIndexed(ca, { ...indexed(ca), crl_number: 128 });
    await revokeCertificate(ca, serial, nowMs);
    expect(listed()).toContain(`Serial Number: ${serial}`);
    expect(listed()).toMatch(/CRL Number: \s+129\n/);
    expect(listed()).toContain('verify OK');
    expect(check('op').text).toContain('certificate revoked');
    expect(check('n1').status).toBe(0);
    const der = openssl('asn1parse', '-in', crl).text;
    expect(der).not.toMatch(/l= {3}0 cons: SEQUENCE/);
  });

  test("revokes with a key in openssl's own form, and refuses certificates of other CAs", async () => {
    const { folder, ca } = await newAuthority();
    const key = join(ca, 'ca.key');
    writeFileSync(key, openssl('pkey', '-in', key, '-traditional').text);
    expect(read(key)).toContain('BEGIN EC PRIVATE KEY');
    const { serial } = await issue(ca, join(folder, 'op'));
    await expect(revokeCertificate(ca, serial.toLowerCase().replaceAll(/..\B/g, '$&:'), nowMs)).resolves.toMatchObject({
      serial,
      revoked_at_ms: nowMs,
    });
    const rsa = join(folder, 'rsa.crt');
    const flags = ['-subj', '/CN=rsa', '-keyout', join(folder, 'rsa.key'), '-addext', 'basicConstraints=CA:FALSE'];
    openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-out', rsa, ...flags);
    await expect(revokeCertificate(ca, rsa, nowMs)).rejects.toThrow(
      `${rsa}: expected a certificate that the CA in ${ca} has issued, got one of CN=rsa`,
    );
  });
});

describe('over TLS 1.3', () => {
  let folder: string;
  let ca: string;
  beforeAll(async () => {
    ({ folder, ca } = await newAuthority());
    await issue(ca, join(folder, 'n1'), node, ['localhost', '127.0.0.1']);
    await issue(ca, join(folder, 'op'));
    await issue(ca, join(folder, 'gone'));
    await revokeCertificate(ca, join(folder, 'gone.crt'), nowMs);
    const other = await newAuthority();
    await issue(other.ca, join(folder, 'stranger'));
  });
  const pair = (name: string) => ({ cert: read(join(folder, `${name}.crt`)), key: read(join(folder, `${name}.key`)) });

  /** The answer to a caller with this certificate: the identity that the server saw, or why there is none. */
  async function greet(name: string, servername = 'localhost'): Promise<string> {
    const trust = { ca: read(join(ca, 'ca.crt')), crl: read(join(ca, 'ca.crl')), minVersion: 'TLSv1.3' as const };
    const server = createServer({ ...trust, ...pair('n1'), requestCert: true, rejectUnauthorized: true }, (socket) => {
      socket.end(`${socket.getProtocol()} ${socket.getPeerX509Certificate()?.subjectAltName}`);
    });
    let refusal = '';
    server.on('tlsClientError', (error, { authorizationError }) => {
      refusal = String(authorizationError ?? error.message);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const socket = connect({ port, host: '127.0.0.1', servername, ...trust, ...pair(name) });
    let received = '';
    socket.on('data', (bytes) => {
      received += bytes;
    });
    let failure = '';
    socket.on('error', (error: NodeJS.ErrnoException) => {
      failure = error.code ?? error.message;
    });
    await new Promise((resolve) => socket.on('close', resolve));
    await new Promise((resolve) => server.close(resolve));
    return received || (failure.startsWith('ERR_TLS') ? failure : refusal);
  }

  test('a server learns the identity of a caller', async () => {
    expect(await greet('op')).toBe('TLSv1.3 URI:spiffe://d.example/role/operator');
  });

  test.each([
    ['a revoked certificate', 'gone', 'CERT_REVOKED'],
    ['a certificate of another CA', 'stranger', /UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER|UNABLE_TO_GET_CRL|SELF_SIGNED/],
    ["a server's certificate as a caller's", 'n1', 'INVALID_PURPOSE'],
  ])('a server refuses %s', async (_, name, reason) => {
    expect(await greet(name)).toMatch(reason);
  });

  test('a caller refuses a server under a name that its certificate does not have', async () => {
    expect(await greet('op', 'other.example')).toBe('ERR_TLS_CERT_ALTNAME_INVALID');
  });
});

test('host names and addresses in every form get into the certificate as they were meant', async () => {
  const { folder, ca } = await newAuthority();
  let count = 0;
  const address = oneof(ipV4(), ipV6());
  await sampled(
    asyncProperty(address, async (text) => {
      count += 1;
      const out = join(folder, String(count));
      await issue(ca, out, node, [text]);
      expect(new X509Certificate(read(`${out}.crt`)).checkIP(text)).toBe(text);
    }),
    { numRuns: 40, examples: [['::ffff:10.0.0.1'], ['::1'], ['::'], ['2001:DB8::1'], ['1::1.2.3.4']] },
  );
});

test.each([
  '',
  '*.example',
  'a..b',
  '-a',
  '10.0.0.256',
  '1',
  '[::1]',
  'fe80::1%eth0',
  'a b',
  'ä.example',
  'a/b',
  'a'.repeat(64),
])('the host %j is refused', (text) => {
  expect(parseHost(text)).toBeUndefined();
});

test('commands that run at once lose no certificate', async () => {
  const { folder, ca } = await newAuthority();
  const issued = await Promise.all(Array.from({ length: 8 }, (_, index) => issue(ca, join(folder, `c${index}`))));
  await Promise.all(issued.slice(4).map(({ serial }) => revokeCertificate(ca, serial, nowMs)));
  const { certificates, crl_number } = readAuthority(ca).index;
  expect(certificates.map(({ serial }) => serial).sort()).toEqual(issued.map(({ serial }) => serial).sort());
  expect(certificates.filter(({ revoked_at_ms }) => revoked_at_ms !== 0)).toHaveLength(4);
  expect(crl_number).toBe(5);
});

test('a command waits for another one, and takes the lock of a dead one', async () => {
  const { folder, ca } = await newAuthority();
  const lock = takeLock(join(ca, 'lock'));
  let isDone = false;
  const waiting = issue(ca, join(folder, 'a')).then(() => {
    isDone = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(isDone).toBe(false);
  lock.release();
  await waiting;
  const dead = { bootId: '00000000-0000-0000-0000-000000000000', pid: 1, startTime: '1' };
  writeFileSync(join(ca, 'lock'), JSON.stringify(dead));
  await issue(ca, join(folder, 'b'));
  expect(existsSync(join(ca, 'lock'))).toBe(false);
});

test('init replaces nothing, and leaves nothing behind', async () => {
  const { folder, ca } = await newAuthority();
  const key = read(join(ca, 'ca.key'));
  await expect(createAuthority(ca, 'd.example', 1, nowMs)).rejects.toThrow(
    `${ca}: expected a folder that is empty or does not exist, got the folder of a CA`,
  );
  const file = join(folder, 'file');
  writeFileSync(file, '');
  await expect(createAuthority(file, 'd.example', 1, nowMs)).rejects.toThrow('got something else');
  expect(read(join(ca, 'ca.key'))).toBe(key);
  expect(readdirSync(folder).sort()).toEqual(['ca', 'file']);
  const twice = ['x', 'x'].map((name) => createAuthority(join(folder, name), 'd.example', 1, nowMs));
  const ends = await Promise.allSettled(twice);
  expect(ends.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
});

test('a certificate may not outlive its CA', async () => {
  const { folder, ca } = await newAuthority(30);
  await expect(issue(ca, join(folder, 'a'), operator, [], 31)).rejects.toThrow(
    /^days: expected at most (29|30), .* got 31$/,
  );
  expect(readdirSync(folder)).toEqual(['ca']);
});

test('issue replaces no file, and then leaves the index as it was', async () => {
  const { folder, ca } = await newAuthority();
  writeFileSync(join(folder, 'a.crt'), 'mine');
  await expect(issue(ca, join(folder, 'a'))).rejects.toThrow(`${folder}/a.crt: expected no file of this name`);
  await expect(issue(ca, join(folder, 'no/a'))).rejects.toThrow(
    'expected a folder to which this user may write, got ENOENT',
  );
  expect(read(join(folder, 'a.crt'))).toBe('mine');
  expect(readAuthority(ca).index.certificates).toEqual([]);
});

describe('a folder that is not whole is refused:', () => {
  const entry = {
    serial: 'AB'.repeat(16),
    identity: '',
    hosts: [],
    issued_at_ms: 0,
    expires_at_ms: 0,
    revoked_at_ms: 0,
  };
  test.each<[string, (ca: string) => unknown, RegExp]>([
    [
      'a torn index',
      (ca) => writeFileSync(indexFile(ca), read(indexFile(ca)).slice(0, -9)),
      /index.json: expected a complete file/,
    ],
    ['an empty index', (ca) => writeFileSync(indexFile(ca), ''), /expected a file that begins with "pitwarden-ca"/],
    [
      'a later version',
      (ca) => writeFileSync(indexFile(ca), seal('pitwarden-ca', 2, {})),
      /version: expected one of 1, got 2/,
    ],
    ['an odd field', (ca) => writeIndexed(ca, { ...indexed(ca), crl_number: -1 }), /index.json: crl_number: /],
    [
      'a serial that stands there twice',
      (ca) => writeIndexed(ca, { ...indexed(ca), certificates: [entry, entry] }),
      /index.json: certificates: expected each serial once; put the file back from a backup/,
    ],
    ['no index', (ca) => rmSync(indexFile(ca)), /ENOENT/],
    [
      'too large an index',
      (ca) => writeFileSync(indexFile(ca), Buffer.alloc(8 * 2 ** 20 + 1)),
      /expected at most \d+ bytes/,
    ],
    [
      'the index of another CA',
      (ca) => writeIndexed(ca, { ...indexed(ca), authority_serial: 'AB'.repeat(16) }),
      /expected the index of the CA beside it, with serial [0-9A-F]{32}, got that of the CA (AB){16}$/,
    ],
    [
      'no certificate',
      (ca) => rmSync(join(ca, 'ca.crt')),
      /expected a CA that ca init made, got a folder without ca.crt/,
    ],
    [
      'a certificate that is none',
      (ca) => writeFileSync(join(ca, 'ca.crt'), 'no'),
      /ca.crt: expected a certificate in PEM/,
    ],
    ['a key that is none', (ca) => writeFileSync(join(ca, 'ca.key'), 'no'), /ca.key: expected a private key in PEM/],
    ['no key', (ca) => rmSync(join(ca, 'ca.key')), /ENOENT/],
    ['a folder that others may enter', (ca) => spawnSync('chmod', ['711', ca]), /expected mode 0700, got mode 0711/],
  ])('%s', async (_, damage, message) => {
    const { folder, ca } = await newAuthority();
    damage(ca);
    await expect(issue(ca, join(folder, 'a'))).rejects.toThrow(message);
    expect(readdirSync(folder)).toEqual(['ca']);
    expect(existsSync(join(ca, 'lock'))).toBe(false);
  });

  test('the key of another CA', async () => {
    const { folder, ca } = await newAuthority();
    const other = await newAuthority();
    copyFileSync(join(other.ca, 'ca.key'), join(ca, 'ca.key'));
    await expect(issue(ca, join(folder, 'a'))).rejects.toThrow(
      'expected the private key of ca.crt beside it, got another',
    );
  });

  test("the certificate of a role in the CA's place", async () => {
    const { folder, ca } = await newAuthority();
    await issue(ca, join(folder, 'op'));
    copyFileSync(join(folder, 'op.crt'), join(ca, 'ca.crt'));
    expect(() => readAuthority(ca)).toThrow('expected the certificate of a CA, got another one');
  });
});

describe('revoke', () => {
  test('knows its certificates, and no others', async () => {
    const { folder, ca } = await newAuthority();
    const other = await newAuthority();
    await issue(other.ca, join(folder, 'stranger'));
    await expect(revokeCertificate(ca, 'AB'.repeat(16), nowMs)).rejects.toThrow(
      `expected the serial of a certificate of this CA (ca show), or the file of one, got "${'AB'.repeat(16)}"`,
    );
    await expect(revokeCertificate(ca, join(ca, 'ca.crt'), nowMs)).rejects.toThrow('got the certificate of a CA');
    await expect(revokeCertificate(ca, join(folder, 'stranger.crt'), nowMs)).rejects.toThrow(
      'got one of CN=pitwarden CA',
    );
    await expect(revokeCertificate(ca, folder, nowMs)).rejects.toThrow('expected a regular file');
    expect(readAuthority(ca).index.crl_number).toBe(1);
  });

  test('keeps the time of the first revocation, and writes a list that is missing', async () => {
    const { folder, ca } = await newAuthority();
    const { serial } = await issue(ca, join(folder, 'op'));
    await revokeCertificate(ca, serial, nowMs);
    const list = read(join(ca, 'ca.crl'));
    rmSync(join(ca, 'ca.crl'));
    await expect(revokeCertificate(ca, serial, nowMs + dayMs)).resolves.toMatchObject({ revoked_at_ms: nowMs });
    expect(read(join(ca, 'ca.crl')).length).toBeGreaterThanOrEqual(list.length - 8);
    expect(readAuthority(ca).index.crl_number).toBe(3);
  });

  test('revokes a certificate that an index from an old backup does not know', async () => {
    const { folder, ca } = await newAuthority();
    const backup = read(join(ca, 'index.json'));
    const issued = await issue(ca, join(folder, 'op'));
    writeFileSync(join(ca, 'index.json'), backup);
    symlinkSync(join(folder, 'op.crt'), join(folder, 'link.crt'));
    await revokeCertificate(ca, join(folder, 'link.crt'), nowMs);
    expect(readAuthority(ca).index.certificates).toMatchObject([
      { serial: issued.serial, identity: issued.identity, expires_at_ms: issued.expires_at_ms, revoked_at_ms: nowMs },
    ]);
  });
});
