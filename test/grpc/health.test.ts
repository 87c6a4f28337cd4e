import { mkdtempSync, rmSync } from 'node:fs';
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { connect as connectHttp2 } from 'node:http2';
import { connect as dialSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import { credentials, makeClientConstructor } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Health } from '../../src/grpc/health.ts';
import { createHealth } from '../../src/grpc/health.ts';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { grpcStatusOf } from './call-end.ts';

const HealthClient = makeClientConstructor(services.Health, 'grpc.health.v1.Health');

let dir: string;
let api: ApiServer;
let budget: MemoryBudget;
let health: Health;
let client: InstanceType<typeof HealthClient>;
let session: ClientHttp2Session | undefined;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  budget = createMemoryBudget(16 * 1024 * 1024);
  api = createServer({ messageMaxBytes: 1024 * 1024, budget });
  health = createHealth();
  health.set('', 'SERVING');
  health.set('pool', 'SERVING');
  api.server.addService(services.Health, health.service);
  await api.bind(`unix:${join(dir, 'sock')}`);
  client = new HealthClient(`unix:${join(dir, 'sock')}`, credentials.createInsecure());
});

afterEach(async () => {
  session?.destroy();
  session = undefined;
  client.close();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

function unary(method: 'Check' | 'List', request: object): Promise<object> {
  return new Promise((resolve, reject) => {
    const done = (error: ServiceError | null, answer: object) => (error === null ? resolve(answer) : reject(error));
    client[method]?.call(client, request, done);
  });
}

function watch(service: string) {
  const call = client['Watch']?.call(client, { service }) as unknown as ClientReadableStream<{ status: string }>;
  const seen: string[] = [];
  let error: ServiceError | undefined;
  call.on('data', ({ status }) => seen.push(status));
  call.on('error', (ended: ServiceError) => {
    error = ended;
  });
  return { seen, error: () => error, cancel: () => call.cancel() };
}

test('Check answers for each service that is known, and List for all', async () => {
  health.set('pool', 'NOT_SERVING');
  expect(await unary('Check', {})).toEqual({ status: 'SERVING' });
  expect(await unary('Check', { service: 'pool' })).toEqual({ status: 'NOT_SERVING' });
  const statuses = [
    { key: '', value: { status: 'SERVING' } },
    { key: 'pool', value: { status: 'NOT_SERVING' } },
  ];
  expect(await unary('List', {})).toEqual({ statuses });
});

test.each(['nobody', '__proto__', 'x'.repeat(60_000), '\u0000\n☃'])(
  'Check refuses a service that is not known',
  async (service) => {
    const error: ServiceError = await unary('Check', { service }).then(
      () => expect.fail('expected a refusal'),
      (refused) => refused,
    );
    expect(error.code).toBe(5);
    expect(error.details).toMatch(/^service: expected one of "", "pool", got "/);
    expect(error.details.length).toBeLessThan(2_000);
  },
);

test('a removed service is unknown to Check, and to those who watch it until it is back', async () => {
  const watcher = watch('pool');
  await vi.waitFor(() => expect(watcher.seen).toEqual(['SERVING']));
  health.remove('pool');
  await vi.waitFor(() => expect(watcher.seen.at(-1)).toBe('SERVICE_UNKNOWN'));
  await expect(unary('Check', { service: 'pool' })).rejects.toMatchObject({ code: 5 });
  health.set('pool', 'NOT_SERVING');
  await vi.waitFor(() => expect(watcher.seen).toEqual(['SERVING', 'SERVICE_UNKNOWN', 'NOT_SERVING']));
});

test('a service that is watched before it is known is reported once it is', async () => {
  const watcher = watch('new');
  await vi.waitFor(() => expect(watcher.seen).toEqual(['SERVICE_UNKNOWN']));
  health.set('new', 'SERVING');
  health.set('other', 'SERVING');
  health.set('new', 'SERVING');
  await vi.waitFor(() => expect(watcher.seen).toEqual(['SERVICE_UNKNOWN', 'SERVING']));
});

test('Watch refuses a name that no service can have, because it would hold the name for as long as the caller likes', async () => {
  const [longest, longer] = [watch('n'.repeat(256)), watch('n'.repeat(257))];
  await vi.waitFor(() => expect(longer.error()).toBeDefined());
  expect(longer.error()).toMatchObject({ code: 3, details: 'service: expected at most 256 characters, got 257' });
  await vi.waitFor(() => expect(longest.seen).toEqual(['SERVICE_UNKNOWN']));
});

test('an agent that leaves reports that nothing serves, and ends every Watch', async () => {
  const watchers = [watch('pool'), watch('nobody')];
  await vi.waitFor(() => expect(watchers.map(({ seen }) => seen.length)).toEqual([1, 1]));
  health.leave();
  health.set('pool', 'SERVING');
  await vi.waitFor(() => expect(watchers.map(({ error }) => error()?.code)).toEqual([14, 14]));
  expect(watchers.map(({ seen }) => seen)).toEqual([['SERVING', 'NOT_SERVING'], ['SERVICE_UNKNOWN']]);
  expect(watchers[0]?.error()?.details).toBe('the agent is shutting down; retry with its successor');
  expect(await unary('Check', { service: 'pool' })).toEqual({ status: 'NOT_SERVING' });
  const late = watch('pool');
  await vi.waitFor(() => expect(late.error()?.code).toBe(14));
});

/** Opens a Watch whose client permits the server no byte until its window is opened. */
function watchUnread(service: string): ClientHttp2Stream {
  const createConnection = () => dialSocket(join(dir, 'sock'));
  session ??= connectHttp2('http://localhost', { createConnection, settings: { initialWindowSize: 0 } });
  const headers = { ':method': 'POST', ':path': '/grpc.health.v1.Health/Watch', te: 'trailers' };
  const call = session.request({ ...headers, 'content-type': 'application/grpc' });
  call.on('error', () => undefined);
  call.end(Buffer.from([0, 0, 0, 0, service.length + 2, 0x0a, service.length, ...Buffer.from(service)]));
  return call;
}

test('a watcher that reads nothing is owed one status, however often it changes, and then gets the newest', async () => {
  const call = watchUnread('pool');
  const probe = watch('pool');
  await new Promise((resolve) => call.once('response', resolve));
  await vi.waitFor(() => expect(probe.seen).toHaveLength(1));
  for (let change = 0; change < 1_000; change += 1) {
    health.set('pool', change % 2 === 0 ? 'NOT_SERVING' : 'SERVING');
    await turn();
  }
  health.set('pool', 'NOT_SERVING');
  await vi.waitFor(() => expect(probe.seen.at(-1)).toBe('NOT_SERVING'));
  // The one that reads is kept up to date meanwhile.
  expect(probe.seen.length).toBeGreaterThan(100);
  const received: Buffer[] = [];
  call.on('data', (piece) => received.push(piece));
  session?.settings({ initialWindowSize: 65_535 });
  await vi.waitFor(() => expect(Buffer.concat(received).length).toBeGreaterThanOrEqual(14));
  await new Promise((resolve) => setTimeout(resolve, 50));
  const message = (status: number) => [0, 0, 0, 0, 2, 0x08, status];
  expect([...Buffer.concat(received)]).toEqual([...message(1), ...message(2)]);
});

test('any number of watchers is told of a change, a bounded number of them in each turn of the event loop', async () => {
  let writes = 0;
  const { Watch } = health.service as unknown as { Watch(call: object): void };
  for (let count = 0; count < 1_000; count += 1) {
    Watch({
      ...{ request: { service: 'pool' }, cancelled: false, on: () => undefined },
      write: (_: object, written: () => void) => {
        writes += 1;
        setImmediate(written);
      },
    });
  }
  await turn();
  expect(writes).toBe(1_000);
  writes = 0;
  const perTurn: number[] = [];
  health.set('pool', 'NOT_SERVING');
  while (writes > 0) {
    perTurn.push(writes);
    writes = 0;
    await turn();
  }
  expect(Math.max(...perTurn)).toBeLessThanOrEqual(200);
  expect(perTurn.reduce((sum, count) => sum + count)).toBe(1_000);
});

test('watchers of made-up services cost their caller room in the budget, and nothing once they have left', async () => {
  const before = budget.usedBytes;
  const watchers = Array.from({ length: 500 }, (_, index) => watch(`nobody-${index}`));
  await vi.waitFor(() => expect(watchers.filter(({ seen }) => seen.length === 1)).toHaveLength(500), 10_000);
  expect(budget.usedBytes - before).toBeGreaterThan(500 * 10 * 1024);
  for (const watcher of watchers) watcher.cancel();
  await vi.waitFor(() => expect(budget.usedBytes).toBeLessThanOrEqual(before), 10_000);
});

test('a caller that opens more calls of Watch than its share of the budget has room for is refused the rest', async () => {
  const calls = Array.from({ length: 1_000 }, () => watchUnread('nobody'));
  const statuses = calls.map(grpcStatusOf);
  await vi.waitFor(() => expect(statuses.filter((status) => status() === '8').length).toBeGreaterThan(100), 10_000);
  expect(budget.usedBytes).toBeLessThanOrEqual(budget.maxBytes / 2 + 16 * 1024);
  expect(await unary('Check', { service: 'pool' })).toEqual({ status: 'SERVING' });
});
