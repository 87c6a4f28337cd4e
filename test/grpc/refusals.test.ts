import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ClientDuplexStream, ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import { credentials, status } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Outcome } from '../../src/dispatch/dispatch.ts';
import { createDispatch } from '../../src/dispatch/dispatch.ts';
import { executionService } from '../../src/grpc/execution/service.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { clients, services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { poolLimits, silentOptions } from '../dispatch/host.ts';

// A request that is refused on arrival counts in the metrics of its pool, whichever part of the agent refuses it.

const limits = { payloadMaxBytes: 16, unreadMaxBytes: 1_000 };
let dir: string;
let api: ApiServer;
let client: InstanceType<NonNullable<typeof clients.Execution>>;
let outcomes: Pick<Outcome, 'pool' | 'code' | 'refused'>[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  outcomes = [];
});

afterEach(async () => {
  client.close();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

async function serve({ payloadMaxBytes, unreadMaxBytes } = limits): Promise<void> {
  const budget = createMemoryBudget(1e8);
  const dispatch = createDispatch({
    ...silentOptions(budget.account()),
    onOutcome: ({ pool, code, refused }) => outcomes.push({ pool, code, refused }),
  });
  dispatch.setPool('p', poolLimits({}));
  api = createServer({ messageMaxBytes: 1e6, budget });
  api.server.addService(
    services.Execution,
    executionService({
      dispatch,
      nowMs: () => performance.now(),
      toMonotonicMs: (unixMs) => performance.now() + unixMs - Date.now(),
      newRequestId: randomUUID,
      payloadMaxBytes,
      unreadMaxBytes,
      leaving: new AbortController().signal,
    }),
  );
  const target = `unix:${join(dir, 'sock')}`;
  await api.bind(target);
  client = new clients.Execution(target, credentials.createInsecure());
}

/** The status codes with which the three methods refuse a request. */
async function refusals(request: object): Promise<number[]> {
  const { Execute, ExecuteStream, Submit } = client as unknown as {
    Execute(request: object, done: (error: ServiceError | null) => void): void;
    ExecuteStream(request: object): ClientReadableStream<object>;
    Submit(): ClientDuplexStream<object, { results: { error: { code: number } | null }[] }>;
  };
  const unary = await new Promise<number>((resolve) => {
    Execute.call(client, request, (error) => resolve(error?.code ?? 0));
  });
  const streamed = await new Promise<number>((resolve) => {
    ExecuteStream.call(client, request)
      .on('error', ({ code }: ServiceError) => resolve(code))
      .on('end', () => resolve(0))
      .resume();
  });
  const submitted = await new Promise<number>((resolve) => {
    let code = 0;
    const call = Submit.call(client);
    call.on('data', ({ results: [result] }) => {
      code = result?.error?.code ?? 0;
    });
    call.on('end', () => resolve(code));
    call.end({ items: [{ request: { ...request, request_id: 'r' } }] });
  });
  return [unary, streamed, submitted];
}

const times = (count: number, code: number) =>
  Array.from({ length: count }, () => ({ pool: 'p', code, refused: true }));

test.each([
  ['has no command', { pool: 'p' }, limits, status.INVALID_ARGUMENT],
  [
    'has too large a payload',
    { pool: 'p', command: 'c', payload: Buffer.alloc(17) },
    limits,
    status.RESOURCE_EXHAUSTED,
  ],
  [
    'comes over a connection that leaves too much unread',
    { pool: 'p', command: 'c' },
    { ...limits, unreadMaxBytes: 0 },
    status.RESOURCE_EXHAUSTED,
  ],
])('a request counts as refused if it %s', async (_, request, bounds, code) => {
  await serve(bounds);
  expect(await refusals(request)).toEqual([code, code, code]);
  expect(outcomes).toEqual(times(3, code));
});

test('a refused request counts for no pool if it names none of this node', async () => {
  await serve();
  const code = status.INVALID_ARGUMENT;
  expect(await refusals({ pool: 'unknown', command: '' })).toEqual([code, code, code]);
  expect(await refusals({ command: 'c' })).toEqual([code, code, code]);
  expect(outcomes).toEqual([]);
});
