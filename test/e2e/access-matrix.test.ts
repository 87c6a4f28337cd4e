import { spawnSync } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { roles, rolesByMethod } from '../../src/grpc/access/roles.ts';
import { hasOpenssl, TestAuthority } from '../certificates.ts';
import { statusOf } from '../grpc/rpc-status.ts';
import { needs } from '../needs.ts';
import type { TestAgent } from './agent.ts';
import { examples, node, python, root, spawnAgent, until, untilLogged, untilReady } from './agent.ts';
import { connect } from './grpc.ts';

// Who may do what over real connections, and what a clock does that jumps. The cells of certificates are in mtls.test.ts.

const day = 86_400_000;
const uris = {
  ...{ viewer: 'role/viewer', operator: 'role/operator', caller: 'role/caller', controller: 'controller/c1' },
  nobody: 'node/n1',
};

const built = mkdtempSync(join(tmpdir(), 'pw-'));
const clock = buildClock();
afterAll(() => rmSync(built, { recursive: true }));

/** A library that moves the wall clock of a process; empty where it cannot be built. */
function buildClock(): string {
  const library = join(built, 'clock.so');
  const source = join(root, 'test/fixtures/clock/clock.c');
  const { status: code } = spawnSync('cc', ['-shared', '-fPIC', '-O1', '-o', library, source, '-ldl']);
  return process.platform === 'linux' && code === 0 ? library : '';
}

describe('over TLS', needs('openssl', hasOpenssl), () => {
  let dir: string;
  let authority: TestAuthority;
  let agent: TestAgent;
  let target: string;
  const secured = new Map<string, ReturnType<typeof credentials.createSsl>>();

  /** Sets the agent's wall clock, to so many seconds from now. */
  let setClock: (seconds: number) => void = () => undefined;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'pw-'));
    authority = new TestAuthority(join(dir, 'ca'));
    const own = authority.issue('node', { names: ['IP:127.0.0.1'], until: new Date(Date.now() + 20 * day) });
    for (const [name, path] of Object.entries(uris)) {
      const { cert, key } = authority.issue(name, { names: [`URI:spiffe://test.example/${path}`] });
      secured.set(name, credentials.createSsl(readFileSync(authority.cert), readFileSync(key), readFileSync(cert)));
    }
    agent = await spawnAgent(
      `text: { app: text:app, python: ${python}, cwd: ${examples} }`,
      `listen: 127.0.0.1:0
tls: { cert: ${own.cert}, key: ${own.key}, client_ca: ${authority.cert}, crl: ${authority.crl}, domain: test.example }
`,
      dir,
      withClock(),
    );
    await untilReady(agent, 'text', 1);
    target = (await agent.json<{ node: { listen_address: string } }>('status')).node.listen_address;
  });

  afterAll(async () => {
    await agent?.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  /** The agent's command, with the clock loaded where there is one. */
  function withClock(): [string, ...string[]] {
    if (clock === '') return [node];
    const file = join(dir, 'clock');
    writeFileSync(file, Buffer.alloc(8));
    const fd = openSync(file, 'r+');
    setClock = (seconds) => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigInt64LE(BigInt(seconds));
      writeSync(fd, bytes, 0, 8, 0);
    };
    return ['env', `LD_PRELOAD=${clock}`, `CLOCK_FILE=${file}`, node];
  }

  /** Calls a method with an empty message, and returns its error; undefined: it was answered. A stream is left at its first message. */
  async function call(client: Client, path: string): Promise<ServiceError | undefined> {
    const none = Buffer.alloc(0);
    const stream = client.makeBidiStreamRequest(
      path,
      () => none,
      (bytes) => bytes,
      new Metadata(),
      {
        deadline: Date.now() + 10_000,
      },
    );
    const ended = new Promise<ServiceError | undefined>((resolve) => {
      stream.on('error', (error: ServiceError) => resolve(error));
      stream.on('data', () => resolve(undefined));
      stream.on('end', () => resolve(undefined));
    });
    stream.write(none);
    stream.end();
    const error = await ended;
    stream.cancel();
    return error;
  }

  test.each([...roles, 'nobody'])('a certificate of %s may call the methods of its row, and no other', async (who) => {
    const client = new Client(target, secured.get(who) ?? credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
    });
    onTestFinished(() => client.close());
    for (const [path, allowed] of rolesByMethod) {
      // It would end the agent.
      if (path.endsWith('/Handover') && who === 'operator') continue;
      const error = await call(client, path);
      const isRefused = error?.code === status.PERMISSION_DENIED;
      expect([path, isRefused]).toEqual([path, !(allowed as readonly string[]).includes(who)]);
      if (!isRefused) continue;
      const [bytes] = error.metadata.get('grpc-status-details-bin');
      expect(statusOf(bytes as Buffer)).toEqual({
        code: status.PERMISSION_DENIED,
        message: error.details,
        details: { ErrorInfo: { reason: 'NOT_ALLOWED', domain: 'pitwarden', metadata: {} } },
      });
    }
    if (who !== 'operator') return;
    const drained = await new Promise((resolve) =>
      client.makeUnaryRequest(
        '/pitwarden.v1.Control/ResumeNode',
        () => Buffer.alloc(0),
        (bytes) => bytes,
        {},
        resolve,
      ),
    );
    expect(drained).toBeNull();
  });

  test(
    'a clock that jumps over the end of everything and back ends no worker and no connection, and warnings follow it',
    needs('cc', clock !== ''),
    async () => {
      const dial = () => {
        const client = connect(target, { 'grpc.use_local_subchannel_pool': 1 }, secured.get('caller'));
        onTestFinished(() => client.close());
        return client;
      };
      const word = (client = dial()) => client.execute('text', 'count_words', ['a'], {}, 5_000);
      const warnings = async () => (await agent.json<{ node: { warnings: string[] } }>('status')).node.warnings;
      const open = dial();
      await word(open);
      const [{ pid } = { pid: 0 }] = await agent.workers('text');
      expect(await warnings()).toEqual([]);
      setClock((400 * day) / 1000);
      await untilLogged(agent, /node tls expiring: tls\.cert: \S+ has expired at \S+: clients refuse to connect/);
      expect(await warnings()).toEqual([
        expect.stringMatching(/^tls\.cert: \S+ has expired at/),
        expect.stringMatching(/^tls\.client_ca: \S+ has expired at/),
        expect.stringMatching(/^tls\.crl: \S+ was due for its next update at/),
      ]);
      await expect(word()).rejects.toMatchObject({ code: status.UNAVAILABLE });
      setClock((-400 * day) / 1000);
      await untilLogged(agent, /node tls expiring: tls\.cert: \S+ is not valid before/);
      await expect(word()).rejects.toMatchObject({ code: status.UNAVAILABLE });
      setClock(0);
      await until(async () => (await warnings()).length === 0, 'the warnings to end');
      expect((await word()).value).toEqual({ a: 1 });
      expect((await word(open)).value).toEqual({ a: 1 });
      expect((await agent.workers('text')).map((worker) => worker.pid)).toEqual([pid]);
    },
  );
});
