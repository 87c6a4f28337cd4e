import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { credentials, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import type { Certificate } from '../certificates.ts';
import { hasOpenssl, TestAuthority } from '../certificates.ts';
import { needs } from '../needs.ts';
import type { TestAgent } from './agent.ts';
import { examples, python, spawnAgent, until, untilLogged, untilReady } from './agent.ts';
import type { TestClient } from './grpc.ts';
import { connect } from './grpc.ts';

const day = 86_400_000;
const inDays = (days: number) => new Date(Date.now() + days * day);

describe('gRPC over TLS with certificates of clients', needs('openssl', hasOpenssl), () => {
  let dir: string;
  let ours: TestAuthority;
  let theirs: TestAuthority;
  let agent: TestAgent;
  let target: string;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'pw-'));
    ours = new TestAuthority(join(dir, 'ours'));
    theirs = new TestAuthority(join(dir, 'theirs'));
    use(ours.issue('node', { names: ['IP:127.0.0.1', 'URI:spiffe://test.example/node/n1'] }));
    const tls = `tls:
  cert: ${dir}/cert.pem
  key: ${dir}/key.pem
  client_ca: ${ours.cert}
  crl: ${ours.crl}
  domain: test.example
  identities: { "spiffe://corp.example/ns/ops": role/operator }
`;
    const pool = (name: string) => `${name}: { app: text:app, python: ${python}, cwd: ${examples} }`;
    agent = await spawnAgent(`${pool('text')}\n${pool('other')}`, `listen: 127.0.0.1:0\n${tls}`);
    await untilReady(agent, 'text', 1);
    await untilReady(agent, 'other', 1);
    const { node } = await agent.json<{ node: { listen_address: string; warnings: string[] } }>('status');
    target = node.listen_address;
    expect(node.warnings).toEqual([]);
  });

  afterAll(async () => {
    await agent?.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  /** Puts the certificate where the agent reads it. */
  function use({ cert, key }: Certificate): void {
    copyFileSync(key, join(dir, 'key.pem'));
    copyFileSync(cert, join(dir, 'cert.pem'));
  }

  function dial({ cert, key }: Certificate): TestClient {
    const secured = credentials.createSsl(readFileSync(ours.cert), readFileSync(key), readFileSync(cert));
    // Without a channel of its own a client would share the connection of another with the same certificate.
    const client = connect(target, { 'grpc.use_local_subchannel_pool': 1 }, secured);
    onTestFinished(() => client.close());
    return client;
  }

  const issued = (name: string, ...names: string[]) => ours.issue(name, { names });
  const word = (client: TestClient, pool = 'text') => client.execute(pool, 'count_words', ['a'], {}, 5_000);
  const refusedWith = (code: number, text: RegExp) => ({ code, message: expect.stringMatching(text) });

  test.each<[string, () => Certificate]>([
    ['of another CA', () => theirs.issue('operator', { names: ['URI:spiffe://test.example/role/operator'] })],
    [
      'that has expired',
      () =>
        ours.issue('late', { from: inDays(-3), until: inDays(-1), names: ['URI:spiffe://test.example/role/caller'] }),
    ],
    [
      'that is not valid yet',
      () =>
        ours.issue('early', { from: inDays(1), until: inDays(2), names: ['URI:spiffe://test.example/role/caller'] }),
    ],
  ])('a certificate %s cannot connect', async (_, certificate) => {
    await expect(word(dial(certificate()))).rejects.toMatchObject({ code: status.UNAVAILABLE });
  });

  test('a client without TLS, without a certificate or with TLS 1.2 cannot connect, and its connection is closed', async () => {
    const plain = connect(target);
    onTestFinished(() => plain.close());
    await expect(word(plain)).rejects.toMatchObject({ code: status.UNAVAILABLE });
    const bare = connect(target, {}, credentials.createSsl(readFileSync(ours.cert)));
    onTestFinished(() => bare.close());
    await expect(word(bare)).rejects.toMatchObject({ code: status.UNAVAILABLE });
    const { cert, key } = issued('old-tls', 'URI:spiffe://test.example/role/caller');
    const [host = '', port = ''] = target.split(':');
    const old = connectTls({
      ...{ host, port: Number(port), ca: readFileSync(ours.cert), cert: readFileSync(cert), key: readFileSync(key) },
      maxVersion: 'TLSv1.2',
    });
    const error = await new Promise<NodeJS.ErrnoException>((resolve) => old.once('error', resolve));
    expect(error.code).toMatch(/PROTOCOL_VERSION/);
  });

  test('bytes that are no TLS end their connection', async () => {
    const [host = '', port = ''] = target.split(':');
    const socket = connectTcp({ host, port: Number(port) });
    socket.write('GET / HTTP/1.1\r\n\r\n');
    socket.resume();
    await new Promise((resolve) => socket.once('close', resolve).once('error', () => undefined));
  });

  test.each<[string, string[], string]>([
    ['no URI', [], 'got a certificate without a URI among its alternative names (roles: none)'],
    [
      'another domain',
      ['URI:spiffe://other.example/role/operator'],
      'got spiffe://other.example/role/operator (roles: none)',
    ],
    ['no role', ['URI:spiffe://test.example/node/n1'], 'got spiffe://test.example/node/n1 (roles: none)'],
    ['a longer path', ['URI:spiffe://test.example/role/operator/more'], '(roles: none)'],
    ['a role as its DNS name', ['DNS:spiffe://test.example/role/operator'], 'without a URI'],
    // openssl cannot write commas into a name.
    ['a pool of a role that has no pools', ['URI:spiffe://test.example/role/operator/pool/text'], '(roles: none)'],
  ])('a certificate with %s may call nothing', async (name, names, text) => {
    const client = dial(issued(name.replaceAll(' ', '-'), ...names));
    await expect(client.control('GetNode')).rejects.toMatchObject({
      code: status.PERMISSION_DENIED,
      message: expect.stringContaining(text),
    });
    await expect(word(client)).rejects.toMatchObject({ code: status.PERMISSION_DENIED });
  });

  test('each role may do its part', async () => {
    const denied = expect.objectContaining({ code: status.PERMISSION_DENIED });
    const viewer = dial(issued('viewer', 'URI:spiffe://test.example/role/viewer'));
    await viewer.control('ListWorkers');
    await expect(viewer.control('DrainPool', { pool: 'text' })).rejects.toEqual(denied);
    await expect(word(viewer)).rejects.toEqual(denied);
    const operator = dial(issued('operator', 'URI:spiffe://test.example/role/operator'));
    await operator.control('ScalePool', { pool: 'text', size: 1 });
    await expect(word(operator)).rejects.toEqual(denied);
    const controller = dial(issued('controller', 'URI:spiffe://test.example/controller/c1'));
    await controller.control('ScalePool', { pool: 'text', size: 1 });
    await expect(controller.control('Handover')).rejects.toEqual(denied);
    const caller = dial(issued('caller', 'URI:spiffe://test.example/role/caller'));
    expect((await word(caller)).value).toEqual({ a: 1 });
    await expect(caller.control('GetNode')).rejects.toMatchObject(
      refusedWith(
        status.PERMISSION_DENIED,
        /expected the role viewer or operator or controller, got spiffe:.*\(roles: caller\)$/,
      ),
    );
    const both = dial(issued('both', 'URI:spiffe://test.example/role/caller', 'URI:spiffe://test.example/role/viewer'));
    expect((await word(both)).value).toEqual({ a: 1 });
    await both.control('GetNode');
    const mapped = dial(issued('mapped', 'URI:spiffe://corp.example/ns/ops'));
    await mapped.control('ScalePool', { pool: 'text', size: 1 });
  });

  test('a controller manages the node over its connection; an operator is refused with its name, and may release by force', async () => {
    const controller = dial(issued('controller', 'URI:spiffe://test.example/controller/r1'));
    const operator = dial(issued('operator', 'URI:spiffe://test.example/role/operator'));
    const pools = [{ pool: 'text', size: 1, admission: 'POOL_ADMISSION_OPEN' }];
    const intent = { cluster_uid: 'c', epoch: 1, generation: 1, pools };
    await expect(operator.control('SetDesired', intent)).rejects.toMatchObject({ code: status.PERMISSION_DENIED });
    await controller.control('SetDesired', intent);
    await expect(operator.control('ScalePool', { pool: 'text', size: 2 })).rejects.toMatchObject(
      refusedWith(
        status.FAILED_PRECONDITION,
        /managed by spiffe:\/\/test\.example\/controller\/r1 \(cluster c, epoch 1/,
      ),
    );
    await controller.control('ScalePool', { pool: 'text', size: 1 });
    await expect(operator.control('ReleaseNode', { cluster_uid: 'c', epoch: 1 })).rejects.toMatchObject(
      refusedWith(status.FAILED_PRECONDITION, /pitwarden release --force/),
    );
    await operator.control('ReleaseNode', { force: true });
    await operator.control('ScalePool', { pool: 'text', size: 1 });
  });

  test('a caller of one pool may call no other, by no method', async () => {
    const client = dial(issued('of-text', 'URI:spiffe://test.example/role/caller/pool/text'));
    expect((await word(client)).value).toEqual({ a: 1 });
    const told = 'pool: expected one that spiffe://test.example/role/caller/pool/text may call, got "other"';
    const denied = { code: status.PERMISSION_DENIED, message: told };
    await expect(word(client, 'other')).rejects.toMatchObject(denied);
    const streaming = await new Promise((resolve) =>
      client.stream('other', 'count_words', ['a']).once('error', resolve),
    );
    expect(streaming).toMatchObject({ code: status.PERMISSION_DENIED });
    const submit = client.submit();
    submit.on('error', () => undefined);
    const answer = new Promise((resolve) => submit.once('data', resolve));
    submit.write({
      items: [{ request: { request_id: 'r', pool: 'other', command: 'count_words', payload: Buffer.from('["a"]') } }],
    });
    expect(JSON.stringify(await answer)).toContain('may call, got');
    submit.cancel();
  });

  test('a revoked certificate loses its connection with its calls, and cannot connect again; others keep theirs', async () => {
    const certificate = issued('revoked', 'URI:spiffe://test.example/role/caller');
    const client = dial(certificate);
    const other = dial(issued('not-revoked', 'URI:spiffe://test.example/role/caller'));
    await word(client);
    const stubborn = await unwilling(certificate);
    const [running, othersRunning] = [client.submit(), other.submit()];
    const cut = new Promise((resolve) => running.once('error', resolve));
    let othersEnd: unknown;
    othersRunning.on('error', (error) => {
      othersEnd = error;
    });
    othersRunning.resume();
    running.resume();
    await word(other);
    ours.revoke(certificate);
    expect(await cut).toMatchObject({ code: status.UNAVAILABLE });
    await stubborn.cut;
    await expect(word(client)).rejects.toMatchObject({ code: status.UNAVAILABLE });
    expect((await word(other)).value).toEqual({ a: 1 });
    expect(othersEnd).toBeUndefined();
    othersRunning.cancel();
  });

  test('a list that another CA has signed is refused by name, and the last good one stays in force', async () => {
    const [good, revoked] = ['kept', 'out'].map((name) => issued(name, 'URI:spiffe://test.example/role/caller'));
    if (good === undefined || revoked === undefined) throw new Error('unreachable');
    const known = dial(revoked);
    await word(known);
    ours.revoke(revoked);
    await until(
      () =>
        word(known).then(
          () => false,
          () => true,
        ),
      'the certificate to be revoked',
    );
    copyFileSync(theirs.crl, ours.crl);
    const problem = `tls.crl: expected lists of the CAs in tls.client_ca (CN=ours), got one of another CA in ${ours.crl}`;
    await untilLogged(agent, `node tls refused: ${problem}; the agent goes on with the files that it has read before`);
    expect(await metric('pitwarden_tls_last_reload_successful')).toBe(0);
    expect((await word(dial(good))).value).toEqual({ a: 1 });
    await expect(word(dial(revoked))).rejects.toMatchObject({ code: status.UNAVAILABLE });
    expect((await agent.json<{ node: { warnings: string[] } }>('status')).node.warnings).toEqual([problem]);
    use(ours.issue('node4', { names: ['IP:127.0.0.1'], until: inDays(0.5) }));
    await until(
      async () => (await metric('pitwarden_tls_expiry_timestamp_seconds{file="cert"}')) < inDays(0.6).getTime() / 1000,
      'the new certificate in spite of the list',
    );
    use(ours.issue('node5', { names: ['IP:127.0.0.1'] }));
    ours.writeCrl({ days: -1 });
    await untilLogged(
      agent,
      /node tls refused: tls\.crl: \S+ was due for its next update at \S+: no client can connect/,
    );
    expect((await word(dial(good))).value).toEqual({ a: 1 });
    ours.writeCrl();
    await until(async () => (await metric('pitwarden_tls_last_reload_successful')) === 1, 'the good list');
    expect(await metric('pitwarden_tls_expiry_timestamp_seconds{file="crl"}')).toBeCloseTo(
      (Date.now() + 30 * day) / 1000,
      -3,
    );
  });

  async function metric(series: string): Promise<number> {
    const body = await (await fetch(`http://${agent.http}/metrics`)).text();
    const line = body.split('\n').find((each) => each.startsWith(`${series} `));
    return Number(line?.slice(series.length + 1));
  }

  /** A connection that does not hang up when the agent does. Resolves to a promise that settles when it is cut. */
  async function unwilling({ cert, key }: Certificate): Promise<{ readonly cut: Promise<void> }> {
    const [host = '', port = ''] = target.split(':');
    const socket = connectTls({
      ...{ host, port: Number(port), ca: readFileSync(ours.cert), cert: readFileSync(cert), key: readFileSync(key) },
      ...{ ALPNProtocols: ['h2'], allowHalfOpen: true },
    });
    socket.on('error', () => undefined);
    const cut = new Promise<void>((resolve) => {
      socket.once('end', () => {
        // Only a write shows that the other end is gone, and not just silent.
        const writing = setInterval(() => socket.write('x'), 200);
        socket.once('close', () => {
          clearInterval(writing);
          resolve();
        });
      });
    });
    socket.resume();
    await new Promise((resolve) => socket.once('secureConnect', resolve));
    // The preface of HTTP/2, and empty settings.
    socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0');
    return { cut };
  }

  test('a new certificate holds for new connections while calls run, and none of them fails', async () => {
    const certificate = issued('steady', 'URI:spiffe://test.example/role/caller');
    let goesOn = true;
    let calls = 0;
    const steady = dial(certificate);
    const load = (async () => {
      for (; goesOn; calls++) await word(steady);
    })();
    const serialOf = () =>
      new Promise<string>((resolve) => {
        const [host = '', port = ''] = target.split(':');
        const socket = connectTls({
          ...{ host, port: Number(port), ca: readFileSync(ours.cert), ALPNProtocols: ['h2'] },
          ...{ cert: readFileSync(certificate.cert), key: readFileSync(certificate.key) },
        });
        socket.once('secureConnect', () => {
          resolve(socket.getPeerCertificate().serialNumber);
          socket.destroy();
        });
      });
    const before = await serialOf();
    use(ours.issue('node2', { names: ['IP:127.0.0.1'] }));
    await until(async () => (await serialOf()) !== before, 'the new certificate');
    goesOn = false;
    await load;
    expect(calls).toBeGreaterThan(10);
  });

  test('files that do not belong together are named, and the last good ones go on', async () => {
    const caller = issued('goes-on', 'URI:spiffe://test.example/role/caller');
    const next = ours.issue('node3', { names: ['IP:127.0.0.1'] });
    copyFileSync(next.key, join(dir, 'key.pem'));
    await untilLogged(agent, `tls.key: expected the key of the certificate in ${dir}/cert.pem`);
    expect((await word(dial(caller))).value).toEqual({ a: 1 });
    const { node } = await agent.json<{ node: { warnings: string[] } }>('status');
    expect(node.warnings).toEqual([expect.stringContaining('tls.key: expected the key of the certificate')]);
    const revoked = issued('meanwhile', 'URI:spiffe://test.example/role/caller');
    const client = dial(revoked);
    await word(client);
    ours.revoke(revoked);
    await until(
      () =>
        word(client).then(
          () => false,
          () => true,
        ),
      'the revocation in spite of the key',
    );
    writeFileSync(join(dir, 'cert.pem'), 'half a certif');
    await untilLogged(agent, 'tls.cert: expected a certificate in PEM');
    expect((await word(dial(caller))).value).toEqual({ a: 1 });
    rmSync(join(dir, 'key.pem'));
    await untilLogged(agent, `tls.key: expected a readable file, got ENOENT for ${dir}/key.pem`);
    expect((await word(dial(caller))).value).toEqual({ a: 1 });
    use(next);
    await until(async () => {
      const { node } = await agent.json<{ node: { warnings: string[] } }>('status');
      return node.warnings.length === 0;
    }, 'the warning to end');
  });

  test('an agent does not start with files of tls that it cannot use', async () => {
    const tls = `tls: { cert: ${dir}/nothing.pem, key: ${dir}/key.pem, client_ca: ${ours.cert} }`;
    await expect(spawnAgent('{}', `listen: 127.0.0.1:0\n${tls}`)).rejects.toThrow(
      `tls.cert: expected a readable file, got ENOENT for ${dir}/nothing.pem`,
    );
  });
});
