import { mkdtempSync, rmSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import type { Socket } from 'node:net';
import { connect as dial } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerDuplexStream, sendUnaryData } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { callFrames, data, manyFrames, opening } from './http2-frames.ts';

const execute = '/pitwarden.v1.Execution/Execute';
const submit = '/pitwarden.v1.Execution/Submit';
const message = services.Execution['Execute']?.requestSerialize({ pool: 'p', command: 'c' }) as Buffer;
const framed = Buffer.concat([Buffer.from([0, 0, 0, 0, message.length]), message]);

let dir: string;
let path: string;
let api: ApiServer;
/** How many calls of any kind have begun. */
let begun: number;
/** How many messages of Submit have arrived. */
let submitted: number;
/** For each call of Execute: how many calls had begun and how many messages had arrived before it. */
let before: { readonly begun: number; readonly submitted: number }[];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  path = join(dir, 'sock');
  begun = 0;
  submitted = 0;
  before = [];
  api = createServer({ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 30) });
  api.server.addService(services.Execution, {
    Execute: (_: unknown, done: sendUnaryData<object>) => {
      before.push({ begun, submitted });
      done(null, { payload: Buffer.alloc(1_000) });
    },
    ExecuteStream: () => undefined,
    Submit: (open: ServerDuplexStream<object, object>) => {
      open.on('data', () => {
        submitted += 1;
      });
      open.on('error', () => undefined);
    },
  });
  await api.bind(`unix:${path}`);
  const { http2Servers } = api.server as unknown as { http2Servers: Map<NodeJS.EventEmitter, unknown> };
  for (const server of http2Servers.keys()) {
    server.on('stream', () => {
      begun += 1;
    });
  }
});

afterEach(async () => {
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

/** A connection that the server has read from. */
async function connected(): Promise<Socket> {
  const socket = dial(path).on('error', () => undefined);
  const answered = new Promise((resolve) => socket.once('data', resolve));
  socket.write(opening);
  await answered;
  return socket;
}

/** Waits until earlier socket events are handled. The kernel then reports sockets in the order in which they become readable. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** All bytes of an Execute call. */
const whole = (n: number): Buffer => Buffer.concat([callFrames(n, execute), data(n, framed, true)]);

test.each([
  ['begins calls', execute],
  ['begins calls of an unknown method', '/none'],
])('a connection that %s as fast as it can is read only once before another connection', async (_, method) => {
  const [other, busy] = [await connected(), await connected()];
  await turns(3);
  busy.write(manyFrames(1_500, (n) => callFrames(n, method)));
  other.write(whole(0));
  await vi.waitFor(() => expect(before).toHaveLength(1));
  expect(before[0]?.begun).toBeLessThan(900);
  await vi.waitFor(() => expect(begun).toBe(1_501));
});

test('a connection that sends messages in tiny pieces is read only once before another connection', async () => {
  const [other, busy] = [await connected(), await connected()];
  await turns(3);
  const pieces = manyFrames(15_000, () => data(0, Buffer.from([0])));
  busy.write(Buffer.concat([callFrames(0, submit), pieces]));
  other.write(whole(0));
  await vi.waitFor(() => expect(before).toHaveLength(1));
  expect(before[0]?.submitted).toBeLessThan(1_800);
  await vi.waitFor(() => expect(submitted).toBe(3_000));
});

test('many busy connections are read in turn, including those that read their answers late', async () => {
  const sessions = Array.from({ length: 6 }, () => {
    const socket = dial(path);
    const session = connectHttp2('http://localhost', { createConnection: () => socket });
    return { session, socket };
  });
  let answered = 0;
  for (const { session, socket } of sessions) {
    for (let count = 0; count < 300; count += 1) {
      const stream = session.request({ ':method': 'POST', ':path': execute, 'content-type': 'application/grpc' });
      stream.resume();
      stream.on('end', () => {
        answered += 1;
      });
      stream.end(framed);
    }
    await new Promise((resolve) => setImmediate(resolve));
    (socket as unknown as { readonly _handle: { readStop(): void } })._handle.readStop();
  }
  await vi.waitFor(() => expect(begun).toBeGreaterThanOrEqual(600));
  for (const { socket } of sessions) {
    (socket as unknown as { readonly _handle: { readStart(): void } })._handle.readStart();
  }
  await vi.waitFor(() => expect(answered).toBe(1_800), { timeout: 10_000 });
  for (const { session } of sessions) session.destroy();
});
