import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createServer } from 'node:tls';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { contextOptions } from '../../src/grpc/access/tls-credentials.ts';
import type { TlsPaths } from '../../src/os/certificates/tls-files.ts';
import { readTlsFiles } from '../../src/os/certificates/tls-files.ts';
import type { Certificate } from '../certificates.ts';
import { hasOpenssl, TestAuthority } from '../certificates.ts';
import { needs } from '../needs.ts';

describe('the files of tls', needs('openssl', hasOpenssl), () => {
  let dir: string;
  let first: TestAuthority;
  let second: TestAuthority;
  let node: Certificate;
  let paths: TlsPaths;

  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'pw-'));
    first = new TestAuthority(join(dir, 'first'));
    second = new TestAuthority(join(dir, 'second'));
    node = first.issue('node', { names: ['IP:127.0.0.1'] });
    paths = { ...node, clientCa: both('ca.pem', first.cert, second.cert), crl: both('crl.pem', first.crl, second.crl) };
  });
  afterAll(() => rmSync(dir, { recursive: true }));

  function both(name: string, ...files: string[]): string {
    return written(name, Buffer.concat(files.map((file) => readFileSync(file))));
  }

  function written(name: string, content: Buffer | string): string {
    writeFileSync(join(dir, name), content);
    return join(dir, name);
  }

  test('a list of each of several CAs holds', async () => {
    const revoked = second.issue('revoked');
    const client = second.issue('client');
    second.revoke(revoked);
    const read = await readTlsFiles({ ...paths, crl: both('crls.pem', first.crl, second.crl) });
    if (!read.ok) throw new Error(read.problem);
    const server = createServer({ ...contextOptions(read.files), requestCert: true }, (socket) => socket.end('in'));
    onTestFinished(() => void server.close());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const answer = ({ cert, key }: Certificate) =>
      new Promise<string>((resolve) => {
        const { port } = server.address() as AddressInfo;
        const ca = readFileSync(first.cert);
        const socket = connect({ host: '127.0.0.1', port, ca, cert: readFileSync(cert), key: readFileSync(key) });
        socket.once('data', (data) => resolve(String(data)));
        socket.once('error', () => resolve('refused'));
        socket.once('close', () => resolve('refused'));
      });
    expect(await answer(client)).toBe('in');
    expect(await answer(revoked)).toBe('refused');
  });

  test.each<[string, () => Partial<TlsPaths>, RegExp]>([
    ['a missing file', () => ({ cert: join(dir, 'none') }), /^tls\.cert: expected a readable file, got ENOENT for /],
    ['a folder', () => ({ key: dir }), /^tls\.key: expected a file, got something else at /],
    [
      'a key of another certificate',
      () => ({ key: second.issue('k').key }),
      /^tls\.key: expected the key of the certificate/,
    ],
    ['a key as a CA', () => ({ clientCa: node.key }), /^tls\.client_ca: expected certificates in PEM/],
    [
      'an empty list',
      () => ({ crl: written('empty', '') }),
      /^tls\.crl: expected lists of revoked certificates in PEM/,
    ],
    [
      'a CA file that is cut off in its second certificate',
      () => ({ clientCa: written('cut', readFileSync(paths.clientCa).subarray(0, -100)) }),
      /^tls\.client_ca: expected whole certificates in PEM/,
    ],
    [
      'a file of lists that is cut off in the second',
      () => ({ crl: written('cut-crl', readFileSync(paths.crl ?? '').subarray(0, -100)) }),
      /^tls\.crl: expected lists of revoked certificates in PEM/,
    ],
    [
      'a file that is too large',
      () => ({ cert: written('large', Buffer.alloc(4 * 2 ** 20 + 1)) }),
      /^tls\.cert: expected at most 4 MiB/,
    ],
  ])('%s is refused with the key and the path', async (_, wrong, problem) => {
    expect(await readTlsFiles(paths)).toMatchObject({ ok: true });
    const read = await readTlsFiles({ ...paths, ...wrong() });
    expect(read).toMatchObject({ ok: false, problem: expect.stringMatching(problem) });
    expect(JSON.stringify(read)).not.toContain('PRIVATE KEY');
  });

  test('a certificate and its key may be in one file', async () => {
    const one = both('one.pem', node.cert, node.key);
    expect(await readTlsFiles({ ...paths, cert: one, key: one })).toMatchObject({ ok: true });
  });
});
