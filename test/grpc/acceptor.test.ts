import { mkdtempSync, rmSync, statSync } from 'node:fs';
import type { Socket } from 'node:net';
import { connect as dial } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerUnaryCall, ServiceError, sendUnaryData } from '@grpc/grpc-js';
import { Client, credentials } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { socketAccess } from '../../src/grpc/access/socket-access.ts';
import { insecureAccess } from '../../src/grpc/access/tcp-access.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';

const max = 4;
const echo = {
  path: '/test.Echo/Echo',
  requestStream: false,
  responseStream: false,
  requestSerialize: (value: Buffer) => value,
  requestDeserialize: (value: Buffer) => value,
  responseSerialize: (value: Buffer) => value,
  responseDeserialize: (value: Buffer) => value,
};

let dir: string;
let path: string;
let api: ApiServer;
let refused: string[];
let waiting: (() => void)[];
let strangers: Socket[];
let clients: Client[];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  path = join(dir, 'a?b#c,%25.sock');
  refused = [];
  waiting = [];
  strangers = [];
  clients = [];
  const connections = { max: () => max, onRefused: (message: string) => refused.push(message) };
  api = createServer({ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20), connections });
  api.server.addService(
    { Echo: echo },
    {
      Echo: (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) => {
        const answer = (): void => done(null, call.request);
        if (call.request.toString() === 'wait') waiting.push(answer);
        else answer();
      },
    },
  );
  await api.bind(`unix:${path}`);
});

afterEach(async () => {
  for (const each of [...strangers]) each.destroy();
  for (const each of clients) each.close();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

async function stranger(where: string | { host: string; port: number } = path): Promise<Socket> {
  const socket = typeof where === 'string' ? dial(where) : dial(where);
  socket.on('error', () => undefined);
  strangers.push(socket);
  await new Promise<void>((resolve) => socket.once('connect', () => resolve()));
  socket.resume();
  return socket;
}

/** A client with a connection of its own. */
function client(port: number): Client {
  const options = { 'grpc.use_local_subchannel_pool': 1 };
  const made = new Client(`127.0.0.1:${port}`, credentials.createInsecure(), options);
  clients.push(made);
  return made;
}

function call(made: Client, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const { path: method, requestSerialize, responseDeserialize } = echo;
    const deadline = Date.now() + 10_000;
    made.makeUnaryRequest(
      method,
      requestSerialize,
      responseDeserialize,
      Buffer.from(text),
      { deadline },
      (error: ServiceError | null, value?: Buffer) => (error === null ? resolve(String(value)) : reject(error)),
    );
  });
}

test('a unix socket is closed to other users from the moment it exists', async () => {
  const mask = process.umask(0);
  const other = createServer({ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20) });
  try {
    const bound = other.bind(`unix:${path}.other`);
    expect(statSync(`${path}.other`).mode & 0o777).toBe(0o700);
    await bound;
    expect(process.umask()).toBe(0);
  } finally {
    process.umask(mask);
    await other.stop(0);
  }
});

test('at the limit the connection that has been idle longest is closed for a new one', async () => {
  const port = await api.bind('127.0.0.1:0');
  for (let count = 0; count < 4 * max; count += 1) await stranger();
  expect(await call(client(port), 'hello')).toBe('hello');
  await vi.waitFor(() => expect(strangers.filter((socket) => !socket.destroyed).length).toBeLessThan(max));
  expect(refused).toEqual([]);
  expect(api.connections()).toMatchObject({ open: max, max, refused: 0, evicted: 3 * max + 1 });
});

test('at the limit connections with calls stay, and a new connection is closed and reported', async () => {
  const port = await api.bind('127.0.0.1:0');
  const busy = Array.from({ length: max }, () => call(client(port), 'wait'));
  await vi.waitFor(() => expect(waiting).toHaveLength(max));
  const late = await stranger();
  await new Promise((resolve) => late.once('close', resolve));
  expect(refused).toEqual([expect.stringMatching(/1 new connections were closed: 4 are open and in use/)]);
  expect(api.connections()).toEqual({ open: max, max, refused: 1, evicted: 0 });
  for (const answer of waiting) answer();
  expect(await Promise.all(busy)).toEqual(Array(max).fill('wait'));
  expect(await call(client(port), 'hello')).toBe('hello');
});

test('a connection that sends nothing is closed', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'performance'] });
  const timed = createServer({ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20) });
  const port = await timed.bind('127.0.0.1:0');
  const silent = await stranger({ host: '127.0.0.1', port });
  const closed = new Promise((resolve) => silent.once('close', resolve));
  await new Promise((resolve) => setImmediate(resolve));
  vi.advanceTimersByTime(15_000);
  vi.useRealTimers();
  await closed;
  await timed.stop(0);
});

test('stopping a server cuts a connection whose client does not hang up', async () => {
  const socket = dial({ path, allowHalfOpen: true });
  strangers.push(socket);
  socket.on('error', () => undefined);
  socket.resume();
  await new Promise<void>((resolve) => socket.once('connect', () => resolve()));
  await api.stop(50);
  // The client reads nothing.
  socket.write('x');
  await new Promise((resolve) => socket.once('close', resolve));
});

test('strangers over TCP leave room for the unix socket', async () => {
  const connections = { max: () => max, onRefused: () => undefined, overTcp: insecureAccess(false) };
  const other = createServer({ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20), connections });
  onTestFinished(() => other.stop(0));
  const ownPath = join(dir, 'own.sock');
  await other.bind(`unix:${ownPath}`);
  const port = await other.bind('127.0.0.1:0');
  const held = await stranger(ownPath);
  for (let i = 0; i < max * 2; i += 1) await stranger({ host: '127.0.0.1', port });
  await vi.waitFor(() => expect(other.connections()).toMatchObject({ open: max, evicted: max + 1, refused: 0 }));
  expect(held.destroyed).toBe(false);
});

test('a server at localhost listens at each of its addresses, at one port', async () => {
  const port = await api.bind('localhost:0');
  await stranger({ host: '127.0.0.1', port });
});

test('callers who fill agent.sock leave control.sock its own connections, and the other way round', async () => {
  const connections = {
    ...{ max: () => max, controlMax: () => 2, onRefused: () => undefined, overTcp: insecureAccess(false) },
    atSockets: socketAccess('/control.sock'),
  };
  const other = createServer({ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20), connections });
  onTestFinished(() => other.stop(0));
  const [apiPath, controlPath] = [join(dir, 'agent.sock'), join(dir, 'control.sock')];
  await other.bind(`unix:${apiPath}`);
  await other.bind(`unix:${controlPath}`, 'control');
  const held = await stranger(controlPath);
  for (let i = 0; i < max * 2; i += 1) await stranger(apiPath);
  await vi.waitFor(() => expect(other.connections()).toMatchObject({ open: max }));
  expect(held.destroyed).toBe(false);
  expect(other.controlConnections()).toMatchObject({ open: 1, max: 2, refused: 0, evicted: 0 });
  for (let i = 0; i < 4; i += 1) await stranger(controlPath);
  await vi.waitFor(() => expect(other.controlConnections()).toMatchObject({ open: 2, max: 2 }));
  const { refused: turnedAway, evicted } = other.controlConnections();
  expect(turnedAway + evicted).toBe(3);
  expect(other.connections()).toMatchObject({ open: max });
});
