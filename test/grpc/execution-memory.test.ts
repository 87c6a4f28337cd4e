import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { connect as connectHttp2, constants } from 'node:http2';
import { connect as dialSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { newCounters } from '../../src/dispatch/counters.ts';
import type { Dispatch } from '../../src/dispatch/dispatch.ts';
import { createDispatch } from '../../src/dispatch/dispatch.ts';
import type { LinkRequest } from '../../src/dispatch/worker.ts';
import { executionService } from '../../src/grpc/execution/service.ts';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { poolLimits, silentOptions } from '../dispatch/host.ts';
import { connectDeaf } from '../e2e/deaf-caller.ts';

// The memory of a request counts from its arrival until its caller has the answer, however either of them ends.

const kib = 1024;
const mib = 1024 * kib;
let dir: string;
let path: string;
let budget: MemoryBudget;
let api: ApiServer;
let dispatch: Dispatch;
/** Requests that the only worker was sent and has not answered. */
let sent: LinkRequest[];
let sessions: ClientHttp2Session[];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  path = join(dir, 'sock');
  budget = createMemoryBudget(128 * mib);
  sent = [];
  sessions = [];
  dispatch = createDispatch(silentOptions(budget.account()));
  dispatch.setPool('p', poolLimits({ maxQueuedRequests: 1_000, maxQueuedBytes: 1e9, requestTimeoutMs: 60_000 }));
  addWorker();
  api = createServer({ messageMaxBytes: 16 * mib, budget });
  api.server.addService(
    services.Execution,
    executionService({
      dispatch,
      nowMs: () => performance.now(),
      toMonotonicMs: (unixMs) => performance.now() + unixMs - Date.now(),
      newRequestId: randomUUID,
      payloadMaxBytes: 16 * mib,
      unreadMaxBytes: 32 * mib,
      leaving: new AbortController().signal,
    }),
  );
  await api.bind(`unix:${path}`);
});

afterEach(async () => {
  for (const session of sessions) session.destroy();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

const eventually = (check: () => void): Promise<void> => vi.waitFor(check, { timeout: 10_000 });

function addWorker(): void {
  dispatch.addWorker({
    workerId: 'w',
    pool: 'p',
    concurrency: 1_000,
    maxRequests: 0,
    commands: new Map([['c', { streams: false, isAsync: true }]]),
    marksBegun: false,
    lastBegunLinkId: () => null,
    counters: newCounters(),
    resumed: null,
    paused: false,
    link: {
      request: (request) => sent.push(request),
      cancel: () => undefined,
      pause: () => undefined,
      resume: () => undefined,
      recall: () => [],
      ack: () => undefined,
      replay: () => undefined,
      unwritten: () => new Set(),
    },
  });
}

function answerAll(bytes = 1): void {
  for (const { id } of sent.splice(0)) {
    dispatch.onResult('w', id, { payload: Buffer.alloc(bytes), content_type: '', error: null, ran_us: 1 });
  }
}

function connect(): ClientHttp2Session {
  const session = connectHttp2('http://localhost', { createConnection: () => dialSocket(path) });
  session.on('error', () => undefined);
  sessions.push(session);
  return session;
}

function open(session: ClientHttp2Session, method: 'Execute' | 'Submit', more: object = {}): ClientHttp2Stream {
  const headers = {
    ':method': 'POST',
    ':path': `/pitwarden.v1.Execution/${method}`,
    'content-type': 'application/grpc',
  };
  const stream = session.request({ ...headers, ...more });
  stream.on('error', () => undefined);
  return stream;
}

function framed(method: 'Execute' | 'Submit', message: object, isCompressed = false): Buffer {
  const plain = services.Execution[method]?.requestSerialize(message) as Buffer;
  const body = isCompressed ? gzipSync(plain) : plain;
  const head = Buffer.from([isCompressed ? 1 : 0, 0, 0, 0, 0]);
  head.writeUInt32BE(body.length, 1);
  return Buffer.concat([head, body]);
}

const request = (id: number | string, bytes: number) => ({
  ...{ pool: 'p', command: 'c', request_id: String(id), payload: Buffer.alloc(bytes) },
});

test('a cancelled Submit call gives back all memory that it held', async () => {
  const session = connect();
  const call = open(session, 'Submit');
  const items = Array.from({ length: 100 }, (_, id) => ({ request: request(id, 10 * kib) }));
  call.write(framed('Submit', { items }));
  await eventually(() => expect(sent.length).toBe(100));
  expect(budget.usedBytes).toBeGreaterThan(mib - 32 * kib);
  call.close(constants.NGHTTP2_CANCEL);
  await eventually(() => expect(budget.usedBytes).toBe(0));
});

test('a request of Submit holds its payload until its answer is written', async () => {
  const session = connect();
  const call = open(session, 'Submit');
  for (let id = 0; id < 4; id += 1) call.write(framed('Submit', { items: [{ request: request(id, 4 * mib) }] }));
  await eventually(() => expect(sent.length).toBe(4));
  // The client does not read, so the HTTP/2 window takes only 64 KiB of the answers.
  answerAll(200 * kib);
  expect(budget.usedBytes).toBeGreaterThan(16 * mib);
  call.resume();
  await eventually(() => expect(budget.usedBytes).toBeLessThan(2 * mib));
  session.destroy();
  await eventually(() => expect(budget.usedBytes).toBe(0));
});

test.each([false, true])(
  'messages of Submit that wait to be handled count towards the budget: compressed %s',
  async (isCompressed) => {
    const session = connect();
    const call = open(session, 'Submit', isCompressed ? { 'grpc-encoding': 'gzip' } : {});
    call.write(
      framed('Submit', { items: Array.from({ length: 12 }, (_, id) => ({ request: request(id, 10) })) }, isCompressed),
    );
    await eventually(() => expect(sent.length).toBe(12));
    // With this many unread answers the agent reads no more of the stream.
    answerAll(mib);
    await eventually(() => expect(budget.usedBytes).toBeGreaterThan(12 * mib));
    for (let id = 0; id < 4; id += 1) {
      call.write(framed('Submit', { items: [{ request: request(`large ${id}`, 4 * mib) }] }, isCompressed));
    }
    await eventually(() => expect(budget.usedBytes).toBeGreaterThan(26 * mib));
    expect(sent.length).toBeLessThan(2);
    call.resume();
    await eventually(() => expect(sent.length).toBe(4));
    answerAll();
    await eventually(() => expect(budget.usedBytes).toBeLessThan(64 * kib));
    session.destroy();
    await eventually(() => expect(budget.usedBytes).toBe(0));
  },
);

test('a request whose answer is not proven to be read counts towards the budget of its connection', async () => {
  // This client does not read the PING.
  const deaf = connectDeaf(path);
  deaf.send('Execute', request('a', 50 * kib));
  await eventually(() => expect(sent.length).toBe(1));
  const beforeBytes = budget.usedBytes;
  answerAll();
  await eventually(() => expect(budget.usedBytes).not.toBe(beforeBytes));
  await eventually(() => expect(budget.usedBytes).toBe(50 * kib + kib + 'ca'.length));
  deaf.close();
  await eventually(() => expect(budget.usedBytes).toBe(0));
});

test('a small payload of a large message does not keep the message in memory', async () => {
  const session = connect();
  const call = open(session, 'Submit');
  call.write(framed('Submit', { items: [{ request: request('small', 10) }, { request: request('large', 4 * mib) }] }));
  await eventually(() => expect(sent.length).toBe(2));
  expect(sent[0]?.payload.buffer.byteLength).toBeLessThanOrEqual(Buffer.poolSize);
});
