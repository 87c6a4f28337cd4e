import { mkdtempSync, rmSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceDefinition } from '@grpc/grpc-js';
import { credentials, Metadata, Server, status } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest';
import type { Identity } from '../../src/grpc/access/identity.ts';
import type { Role } from '../../src/grpc/access/roles.ts';
import { roles, rolesByMethod } from '../../src/grpc/access/roles.ts';
import { socketAccess } from '../../src/grpc/access/socket-access.ts';
import type { TcpAccess } from '../../src/grpc/access/tcp-access.ts';
import { insecureAccess } from '../../src/grpc/access/tcp-access.ts';
import { addApi } from '../../src/grpc/api.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { clients, services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';

/** A method of a client; a stream if the method streams. */
type Method = (...args: unknown[]) => Stream;
interface Stream {
  on(event: string, listener: (error: GrpcError) => void): void;
  resume(): void;
  write(message: object): void;
  end(): void;
}
interface GrpcError {
  readonly code: number;
  readonly details: string;
}

/** Paths that a handler has seen. */
let handled: string[];
let api: ApiServer | undefined;

beforeEach(() => (handled = []));
afterEach(async () => api?.stop(0));

/** Each method answers its first message with an empty one. */
function answering(service: ServiceDefinition) {
  return Object.fromEntries(
    Object.entries(service).map(([name, { path, requestStream, responseStream }]) => {
      const handle = (call: Stream, done?: (error: null, answer: object) => void) => {
        handled.push(path);
        if (requestStream) call.on('data', () => call.end());
        else if (responseStream) call.end();
        else done?.(null, {});
      };
      return [name, handle as never];
    }),
  );
}

function somebody(granted: readonly Role[]): TcpAccess {
  const identity: Identity = { name: 'somebody', roles: new Set(granted), pools: null };
  return { ...insecureAccess(false), identityOf: () => identity };
}

async function serve(overTcp: TcpAccess): Promise<string> {
  api = createServer({
    ...{ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20) },
    connections: { max: () => 100, onRefused: () => undefined, overTcp },
  });
  addApi(api.server, answering(services.Execution), answering(services.Control));
  return `127.0.0.1:${await api.bind('127.0.0.1:0')}`;
}

/** Calls every method of Execution and Control once, and returns the error of each. */
async function callAll(target: string): Promise<Map<string, GrpcError>> {
  const errors = new Map<string, GrpcError>();
  for (const [name, Client] of Object.entries(clients)) {
    const client = new Client(target, credentials.createInsecure()) as never as Record<string, Method>;
    for (const [method, { path, requestStream, responseStream }] of Object.entries(
      services[name as keyof typeof clients],
    )) {
      const error = await new Promise<GrpcError | null>((resolve) => {
        const args = requestStream ? [] : [{}];
        const call = responseStream ? client[method]?.(...args) : client[method]?.({}, new Metadata(), {}, resolve);
        if (!responseStream || call === undefined) return;
        call.on('error', resolve);
        call.on('end', () => resolve(null));
        call.resume();
        if (requestStream) call.write({});
      });
      if (error !== null) errors.set(path, error);
    }
    client['close']?.();
  }
  return errors;
}

test('every method of every service that the agent offers has a row, and there is no row without a method', () => {
  const server = new Server();
  addApi(server, answering(services.Execution), answering(services.Control));
  const { handlers } = server as unknown as { readonly handlers: ReadonlyMap<string, unknown> };
  expect([...rolesByMethod.keys()].sort()).toEqual([...handlers.keys()].sort());
  for (const [path, allowed] of rolesByMethod) expect(allowed, path).not.toEqual([]);
});

test.each(roles)('the role %s may call what its rows say, and no handler sees any other call', async (role: Role) => {
  const target = await serve(somebody([role]));
  const errors = await callAll(target);
  const ours = [...rolesByMethod].filter(([path]) => path.startsWith('/pitwarden.'));
  for (const [path, allowed] of ours) {
    if (allowed.includes(role)) expect(errors.has(path), path).toBe(false);
    else expect(errors.get(path), path).toMatchObject({ code: status.PERMISSION_DENIED });
  }
  expect([...new Set(handled)].sort()).toEqual(
    ours
      .filter(([, allowed]) => allowed.includes(role))
      .map(([path]) => path)
      .sort(),
  );
});

test('an identity without a role may call nothing', async () => {
  const target = await serve(somebody([]));
  const errors = await callAll(target);
  expect([...errors.keys()].sort()).toEqual(
    [...rolesByMethod.keys()].filter((path) => path.startsWith('/pitwarden.')).sort(),
  );
  expect(handled).toEqual([]);
  expect(errors.get('/pitwarden.v1.Control/Handover')?.details).toBe(
    'pitwarden.v1.Control/Handover: expected the role operator, got somebody (roles: none)',
  );
});

test('over TCP without TLS callers may run commands, and control the agent only if that is allowed on purpose', async () => {
  const errors = await callAll(await serve(insecureAccess(false)));
  expect([...new Set(handled)].every((path) => path.startsWith('/pitwarden.v1.Execution/'))).toBe(true);
  expect(errors.get('/pitwarden.v1.Control/GetNode')?.details).toBe(
    'pitwarden.v1.Control/GetNode: expected the role viewer or operator or controller, got a process that connected over TCP without TLS (roles: caller)',
  );
  await api?.stop(0);
  expect(await callAll(await serve(insecureAccess(true)))).toEqual(new Map());
});

test('the stream of a refused call is closed although its client goes on sending', async () => {
  const target = await serve(somebody([]));
  const session = connectHttp2(`http://${target}`);
  onTestFinished(() => session.destroy());
  const stream = session.request({
    ...{ ':method': 'POST', ':path': '/pitwarden.v1.Execution/Submit' },
    ...{ 'content-type': 'application/grpc', te: 'trailers' },
  });
  stream.on('error', () => undefined);
  stream.resume();
  stream.write(Buffer.alloc(1_000));
  const headers = await new Promise<Record<string, unknown>>((resolve) => stream.once('response', resolve));
  expect(headers['grpc-status']).toBe(String(status.PERMISSION_DENIED));
  await new Promise((resolve) => stream.once('close', resolve));
  expect(session.closed).toBe(false);
});

test('a refused call with a large message is answered at once, and nothing of the message is held', async () => {
  const budget = createMemoryBudget(2 ** 20);
  api = createServer({
    ...{ messageMaxBytes: 2 ** 20, budget },
    connections: { max: () => 100, onRefused: () => undefined, overTcp: somebody([]) },
  });
  addApi(api.server, answering(services.Execution), answering(services.Control));
  const target = `127.0.0.1:${await api.bind('127.0.0.1:0')}`;
  const client = new clients.Execution(target, credentials.createInsecure()) as never as Record<string, Method>;
  const error = await new Promise((resolve) =>
    client['Execute']?.({ pool: 'p', command: 'c', payload: Buffer.alloc(900_000) }, resolve),
  );
  expect(error).toMatchObject({ code: status.PERMISSION_DENIED });
  expect(budget.usedBytes).toBe(0);
  client['close']?.();
});

test('agent.sock serves calls and what only reads, and names control.sock for the rest; control.sock serves every method', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const [apiSocket, controlSocket] = [join(dir, 'agent.sock'), join(dir, 'control.sock')];
  api = createServer({
    ...{ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20) },
    connections: {
      ...{ max: () => 100, controlMax: () => 100, onRefused: () => undefined, overTcp: somebody([]) },
      atSockets: socketAccess(controlSocket),
    },
  });
  addApi(api.server, answering(services.Execution), answering(services.Control));
  await api.bind(`unix:${apiSocket}`);
  await api.bind(`unix:${controlSocket}`, 'control');
  const ours = [...rolesByMethod].filter(([path]) => path.startsWith('/pitwarden.'));
  const served = ours.filter(([, allowed]) => allowed.some((role) => role === 'caller' || role === 'viewer'));
  const errors = await callAll(`unix:${apiSocket}`);
  expect([...errors.keys()].sort()).toEqual(
    ours
      .filter((row) => !served.includes(row))
      .map(([path]) => path)
      .sort(),
  );
  expect(errors.get('/pitwarden.v1.Control/DrainNode')).toMatchObject({
    code: status.PERMISSION_DENIED,
    details: expect.stringMatching(
      `got a caller at agent.sock \\(roles: caller, viewer\\); use control.sock beside it \\(${controlSocket}\\)$`,
    ),
  });
  expect([...new Set(handled)].sort()).toEqual(served.map(([path]) => path).sort());
  expect(await callAll(`unix:${controlSocket}`)).toEqual(new Map());
  expect([...new Set(handled)].sort()).toEqual(ours.map(([path]) => path).sort());
});
