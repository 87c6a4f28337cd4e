import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ClientDuplexStream, ServerDuplexStream, sendUnaryData } from '@grpc/grpc-js';
import { Client, credentials } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { cancelOptions } from '../../src/grpc/cancels.ts';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';

let dir: string;
let path: string;
let budget: MemoryBudget;
let api: ApiServer;
let client: Client;
let running: number;

const { Execute, Submit } = services.Execution;
if (Execute === undefined || Submit === undefined) throw new Error('proto: expected Execute and Submit');
const request = { pool: 'p', command: 'c' };

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  path = join(dir, 'sock');
  budget = createMemoryBudget(2 ** 30);
  running = 0;
  api = createServer({ messageMaxBytes: 1024, budget });
  api.server.addService(services.Execution, {
    Execute: (call: NodeJS.EventEmitter, _: sendUnaryData<object>) => {
      running += 1;
      call.on('cancelled', () => {
        running -= 1;
      });
    },
    ExecuteStream: () => undefined,
    Submit: (call: ServerDuplexStream<object, object>) => {
      call.on('data', () => call.write({ results: [{ request_id: 'r' }] }));
      call.on('end', () => call.end());
      call.on('error', () => undefined);
    },
  });
  await api.bind(`unix:${path}`);
  client = new Client(`unix:${path}`, credentials.createInsecure());
});

afterEach(async () => {
  client.close();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

test('a client may cancel thousands of calls at once and again soon after, and its other calls go on', async () => {
  const stream: ClientDuplexStream<object, { results: object[] }> = client.makeBidiStreamRequest(
    Submit.path,
    Submit.requestSerialize as (value: object) => Buffer,
    Submit.responseDeserialize as (value: Buffer) => { results: object[] },
  );
  let results = 0;
  const failures: Error[] = [];
  stream.on('data', ({ results: came }) => {
    results += came.length;
  });
  stream.on('error', (error) => failures.push(error));
  stream.write({ items: [{ request }] });
  await vi.waitFor(() => expect(results).toBe(1));
  for (let round = 0; round < 2; round += 1) {
    const calls = Array.from({ length: 1_200 }, () =>
      client.makeUnaryRequest(
        Execute.path,
        Execute.requestSerialize as (value: object) => Buffer,
        Execute.responseDeserialize as (value: Buffer) => object,
        request,
        () => undefined,
      ),
    );
    await vi.waitFor(() => expect(running).toBe(1_200), { timeout: 10_000 });
    for (const call of calls) call.cancel();
    await vi.waitFor(() => expect(running).toBe(0), { timeout: 10_000 });
    stream.write({ items: [{ request }] });
    await vi.waitFor(() => expect([results, failures]).toEqual([2 + round, []]), { timeout: 10_000 });
  }
  stream.end();
  client.close();
  await vi.waitFor(() => expect([budget.usedBytes, api.connections().open]).toEqual([0, 0]), { timeout: 10_000 });
});

test('every gRPC server of ours is made by the function that lifts the limit on cancels', () => {
  const { commonServerOptions } = api.server as unknown as { readonly commonServerOptions: object };
  expect(commonServerOptions).toMatchObject(cancelOptions);
  const source = fileURLToPath(new URL('../../src/', import.meta.url));
  const makers = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter(
    (name) =>
      name.endsWith('.ts') &&
      /\bnew (?:\w+\.)?Server\(|\bcreateSecureServer\(/.test(readFileSync(join(source, name), 'utf8')),
  );
  expect(makers).toEqual(['grpc/server.ts']);
});
