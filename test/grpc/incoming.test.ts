import { mkdtempSync, rmSync } from 'node:fs';
import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders } from 'node:http2';
import { connect as connectHttp2, constants } from 'node:http2';
import { connect as dialSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { ServerDuplexStream, sendUnaryData } from '@grpc/grpc-js';
import { Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { readerOf } from '../../src/grpc/incoming/interceptor.ts';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer, ApiServerOptions } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import type { ErrorView } from '../../src/grpc/status.ts';
import { fromMetadata } from '../../src/grpc/status.ts';
import { endOf } from './call-end.ts';

const kib = 1024;
const mib = 1024 * kib;
const execute = '/pitwarden.v1.Execution/Execute';

let dir: string;
let path: string;
let budget: MemoryBudget;
let api: ApiServer;
let sessions: ClientHttp2Session[];
/** Payload sizes of the calls that reached the service. It answers none of them until `answer` is called. */
let sizes: number[];
let waiting: (() => void)[];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  path = join(dir, 'sock');
  budget = createMemoryBudget(32 * mib);
  sessions = [];
  sizes = [];
  waiting = [];
  await serve();
});

async function serve(options: Partial<ApiServerOptions> = {}): Promise<void> {
  api = createServer({ messageMaxBytes: 8 * mib, budget, ...options });
  api.server.addService(services.Execution, {
    Execute: ({ request }: { request: { payload: Buffer } }, done: sendUnaryData<object>) => {
      sizes.push(request.payload.length);
      waiting.push(() => done(null, { content_type: String(request.payload.length) }));
    },
    ExecuteStream: () => undefined,
    Submit: () => undefined,
  });
  await api.bind(`unix:${path}`);
}

afterEach(async () => {
  for (const session of sessions) session.destroy();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

function connect(): ClientHttp2Session {
  const session = connectHttp2('http://localhost', { createConnection: () => dialSocket(path) });
  session.on('error', () => undefined);
  sessions.push(session);
  return session;
}

interface Call {
  readonly stream: ClientHttp2Stream;
  status(): { readonly code: string; readonly message: string; readonly error: ErrorView | undefined } | undefined;
}

function open(session: ClientHttp2Session, headers: Record<string, string> = {}): Call {
  const stream = session.request({
    ':method': 'POST',
    ':path': execute,
    'content-type': 'application/grpc',
    ...headers,
  });
  const end = endOf(stream);
  stream.resume();
  const status = () => {
    const fields = end();
    if (fields === undefined) return undefined;
    const error = fromMetadata(Metadata.fromHttp2Headers(fields as IncomingHttpHeaders));
    return { code: String(fields['grpc-status']), message: decodeURI(String(fields['grpc-message'])), error };
  };
  return { stream, status };
}

function framed(message: Buffer, isCompressed = false): Buffer {
  const head = Buffer.from([isCompressed ? 1 : 0, 0, 0, 0, 0]);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

const withPayload = (bytes: number): Buffer =>
  services.Execution['Execute']?.requestSerialize({ pool: 'p', command: 'c', payload: Buffer.alloc(bytes) }) as Buffer;

test('a message that arrives byte by byte is counted once, and given back when its call is over', async () => {
  const { stream } = open(connect());
  for (const byte of framed(withPayload(300))) {
    stream.write(Buffer.from([byte]));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await vi.waitFor(() => expect(budget.usedBytes).toBeGreaterThan(300));
  expect(budget.usedBytes).toBeLessThan(20 * kib);
  stream.end();
  await vi.waitFor(() => expect(sizes).toEqual([300]));
  waiting.shift()?.();
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
});

test('a message is refused by its declared length, before it has arrived', async () => {
  const call = open(connect());
  const head = Buffer.from([0, 0xff, 0xff, 0xff, 0xff]);
  call.stream.write(head);
  await vi.waitFor(() => expect(call.status()?.code).toBe('8'));
  expect(call.status()?.message).toBe(`Received message larger than max (${0xffffffff} vs ${8 * mib + 64 * kib})`);
  call.stream.end();
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
});

test('connections that begin large messages get no more than their shares, and a new connection is served', async () => {
  const [first, second] = [connect(), connect()];
  const begun: Call[] = [];
  for (const session of [first, second]) {
    for (let i = 0; i < 8; i += 1) {
      const call = open(session);
      call.stream.write(framed(withPayload(4 * mib)).subarray(0, 100));
      begun.push(call);
    }
    await vi.waitFor(() => expect(begun.filter((call) => call.status() !== undefined).length).toBeGreaterThan(0));
  }
  await vi.waitFor(() => expect(begun.filter((call) => call.status()?.code === '8').length).toBeGreaterThanOrEqual(9));
  expect(budget.usedBytes).toBeLessThanOrEqual(budget.maxBytes);
  expect(budget.refused).toBeGreaterThanOrEqual(9);
  expect(begun.find((call) => call.status() !== undefined)?.status()?.message).toContain('message.budget');
  const small = open(connect());
  small.stream.end(framed(withPayload(mib)));
  await vi.waitFor(() => expect(sizes).toEqual([mib]));
  for (const session of [first, second]) session.destroy();
  await vi.waitFor(() => expect(budget.usedBytes).toBeLessThan(2 * mib));
});

test('a refusal for want of room says that the command has not begun, and when to retry', async () => {
  const session = connect();
  const calls = Array.from({ length: 8 }, () => open(session));
  for (const { stream } of calls) stream.write(framed(withPayload(4 * mib)).subarray(0, 100));
  await vi.waitFor(() => expect(calls.some((call) => call.status() !== undefined)).toBe(true));
  const refused = calls.find((call) => call.status() !== undefined)?.status();
  expect(refused?.error).toMatchObject({ code: 8, may_have_begun: false, retry_after_ms: 100 });
  expect(refused?.error?.message).toContain('message.budget');
});

test('a message that stalls is given up after three checks, and all memory held for it is given back', async () => {
  await api.stop(0);
  await serve({ lookAtStalledMs: 200 });
  const call = open(connect());
  call.stream.write(framed(withPayload(4 * mib)).subarray(0, 100));
  await vi.waitFor(() => expect(budget.usedBytes).toBeGreaterThan(4 * mib));
  await vi.waitFor(() => expect(call.status()?.code).toBe('8'), { timeout: 10_000 });
  expect(call.status()?.error).toMatchObject({ may_have_begun: false });
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
});

test('a large message that arrives slowly but steadily is read to its end', async () => {
  await api.stop(0);
  await serve({ lookAtStalledMs: 200 });
  const call = open(connect());
  const whole = framed(withPayload(mib));
  const piece = 80 * kib;
  for (let at = 0; at < whole.length; at += piece) {
    call.stream.write(whole.subarray(at, at + piece));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  call.stream.end();
  await vi.waitFor(() => expect(sizes).toEqual([mib]));
});

test('headers count towards the budget, and a call may have at most 16 KiB of them', async () => {
  const session = connect();
  const calls = Array.from({ length: 100 }, () => open(session, { 'x-large': 'x'.repeat(12 * kib) }));
  await vi.waitFor(() => expect(budget.usedBytes).toBeGreaterThan(100 * 12 * kib));
  for (const { stream } of calls) stream.destroy();
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
  const larger = open(session, { 'x-large': 'x'.repeat(20 * kib) });
  await new Promise((resolve) => larger.stream.once('close', resolve));
  expect(larger.stream.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  open(session).stream.end(framed(withPayload(5)));
  await vi.waitFor(() => expect(sizes).toEqual([5]));
});

test('compressed messages are decompressed only as far as there is room for them', async () => {
  const session = connect();
  const compressed = framed(gzipSync(withPayload(7 * mib)), true);
  const calls = Array.from({ length: 20 }, () => {
    const call = open(session, { 'grpc-encoding': 'gzip' });
    call.stream.end(compressed);
    return call;
  });
  let most = 0;
  await vi.waitFor(
    () => {
      most = Math.max(most, budget.usedBytes);
      expect(sizes.length + calls.filter((call) => call.status()?.code === '8').length).toBe(20);
    },
    { timeout: 10_000, interval: 1 },
  );
  expect(sizes.length).toBeGreaterThan(0);
  expect(sizes.length).toBeLessThan(5);
  expect(most).toBeLessThanOrEqual(budget.maxBytes);
  session.destroy();
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
  const bomb = open(connect(), { 'grpc-encoding': 'gzip' });
  bomb.stream.end(framed(gzipSync(Buffer.alloc(100 * mib)), true));
  await vi.waitFor(() => expect(bomb.status()?.message).toMatch(/larger than max|message.budget/));
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
});

test.each(['gzip', 'deflate'])(
  'a message that cannot be decompressed by %s ends its own call alone',
  async (encoding) => {
    const session = connect();
    const call = open(session, { 'grpc-encoding': encoding });
    call.stream.end(framed(Buffer.from('no such thing'), true));
    await vi.waitFor(() => expect(call.status()?.code).toBe('13'));
    open(session).stream.end(framed(withPayload(5)));
    await vi.waitFor(() => expect(sizes).toEqual([5]));
  },
);

interface LinkFrame {
  readonly results: readonly { readonly payload: Buffer }[];
}

interface LinkScene {
  readonly budget: MemoryBudget;
  /** Payload sizes of the results that arrived, in order. */
  readonly results: number[];
  /** Opens the stream of a worker. */
  dial(): ClientHttp2Stream;
}

async function openLink(waitForRoomMs: number): Promise<LinkScene> {
  const linkPath = join(dir, 'link');
  const linkBudget = createMemoryBudget(16 * mib);
  const results: number[] = [];
  const unprovenBudget = createMemoryBudget(mib);
  const link = createServer({ messageMaxBytes: 8 * mib, budget: linkBudget, unprovenBudget, waitForRoomMs });
  link.server.addService(services.WorkerLink, {
    Attach: (call: ServerDuplexStream<LinkFrame, object>) => {
      readerOf(call)?.proven();
      call.on('data', (frame: LinkFrame) => {
        readerOf(call)?.messageHandled();
        results.push(...frame.results.map(({ payload }) => payload.length));
      });
      call.on('end', () => call.end());
      call.on('error', () => undefined);
    },
  });
  await link.bind(`unix:${linkPath}`);
  onTestFinished(() => link.stop(0));
  const dial = (): ClientHttp2Stream => {
    const session = connectHttp2('http://localhost', { createConnection: () => dialSocket(linkPath) });
    session.on('error', () => undefined);
    sessions.push(session);
    return open(session, { ':path': '/pitwarden.v1.WorkerLink/Attach' }).stream;
  };
  return { budget: linkBudget, results, dial };
}

const withResult = (bytes: number): Buffer =>
  framed(
    services.WorkerLink['Attach']?.requestSerialize({ results: [{ id: 1, payload: Buffer.alloc(bytes) }] }) as Buffer,
  );

test('large results of many workers wait for one another, and small results do not wait', async () => {
  const { budget: linkBudget, results, dial } = await openLink(60_000);
  const large = withResult(7 * mib);
  const slow = [dial(), dial()];
  for (const stream of slow) stream.write(large.subarray(0, 100));
  await vi.waitFor(() => expect(linkBudget.usedBytes).toBeGreaterThan(14 * mib));
  for (let worker = 0; worker < 4; worker += 1) {
    const stream = dial();
    stream.write(withResult(worker));
    stream.write(large);
  }
  await vi.waitFor(() => expect([...results].sort()).toEqual([0, 1, 2, 3]));
  expect(linkBudget.usedBytes).toBeLessThan(linkBudget.maxBytes);
  for (const stream of slow) stream.write(large.subarray(100));
  await vi.waitFor(() => expect(results.slice(4)).toEqual(Array(6).fill(7 * mib)));
  expect(linkBudget.refused).toBe(0);
});

test('a worker that never ends its large result delays other workers for a while, but not forever', async () => {
  const { budget: linkBudget, results, dial } = await openLink(100);
  const large = withResult(7 * mib);
  for (const stream of [dial(), dial()]) stream.write(large.subarray(0, 100));
  await vi.waitFor(() => expect(linkBudget.usedBytes).toBeGreaterThan(14 * mib));
  const honest = dial();
  honest.write(large);
  honest.write(withResult(1));
  await vi.waitFor(() => expect(results).toEqual([7 * mib, 1]));
});

test('large results without room are read one at a time, and given up if they take too long', async () => {
  const { budget: linkBudget, results, dial } = await openLink(300);
  const large = withResult(7 * mib);
  const waits = vi.spyOn(linkBudget, 'onGiven');
  let [most, ended] = [0, 0];
  for (let worker = 0; worker < 5; worker += 1) {
    const stream = dial();
    stream.on('response', () => {
      ended += 1;
    });
    stream.write(large.subarray(0, 100));
  }
  await vi.waitFor(() => expect(linkBudget.usedBytes).toBeGreaterThan(14 * mib));
  await vi.waitFor(() => expect(waits).toHaveBeenCalledTimes(3));
  // Two results have room, two were given up for the next one, and the last of the five is read without room.
  await vi.waitFor(() => expect(ended).toBe(2), { timeout: 10_000 });
  expect(linkBudget.usedBytes).toBeGreaterThan(linkBudget.maxBytes);
  dial().write(large);
  await vi.waitFor(
    () => {
      most = Math.max(most, linkBudget.usedBytes);
      expect(results).toEqual([7 * mib]);
    },
    { timeout: 10_000, interval: 1 },
  );
  await vi.waitFor(() => expect(ended).toBe(3));
  expect(most).toBeLessThan(22 * mib);
});

test('a worker whose link ends while its large result waits holds no memory afterwards', async () => {
  const { budget: linkBudget, dial } = await openLink(60_000);
  const large = withResult(7 * mib);
  const streams = [dial(), dial(), dial()];
  for (const stream of streams) stream.write(large.subarray(0, 100));
  await vi.waitFor(() => expect(linkBudget.usedBytes).toBeGreaterThan(14 * mib));
  for (const stream of streams) stream.destroy();
  await vi.waitFor(() => expect(linkBudget.usedBytes).toBe(0));
});
