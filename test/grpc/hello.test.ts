import { mkdtempSync, rmSync } from 'node:fs';
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { connect as connectHttp2 } from 'node:http2';
import { connect as dial } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { addWorkerLink } from '../../src/grpc/worker-link/service.ts';
import type { LinkRefusal, WorkerLinkSource } from '../../src/grpc/worker-link/source.ts';
import { grpcStatusOf } from './call-end.ts';

const kib = 1024;
const mib = 1024 * kib;

let dir: string;
let path: string;
let budget: MemoryBudget;
let unprovenBudget: MemoryBudget;
let api: ApiServer;
let refusals: LinkRefusal[];
/** How many requests each attached worker reported in its hello. */
let attached: number[];
let isAttached: boolean;
let close: (() => void)[];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  path = join(dir, 'link');
  budget = createMemoryBudget(256 * mib);
  unprovenBudget = createMemoryBudget(4 * mib);
  refusals = [];
  attached = [];
  isAttached = false;
  close = [];
  const budgets = { budget, unprovenBudget };
  api = createServer({ ...budgets, messageMaxBytes: 66 * mib, waitForRoomMs: 10_000, callsPerConnection: 16 });
  const check = (claim: { worker_id: string; token: string }): LinkRefusal | undefined => {
    if (claim.worker_id !== 'p-0-1') return { reason: 'unknown_worker', message: 'expected a worker of this agent' };
    return claim.token === token ? undefined : { reason: 'wrong_token', message: 'expected its token' };
  };
  const source: WorkerLinkSource = {
    check,
    authenticate: (hello) => {
      const refusal = check(hello) ?? (isAttached ? { reason: 'already_attached', message: 'it is' } : undefined);
      return refusal === undefined ? { ok: true, welcome: {} as never } : { ok: false, ...refusal };
    },
    attached: ({ resumed }) => {
      isAttached = true;
      attached.push(resumed?.held.length ?? 0);
    },
    frame: () => undefined,
    unsent: () => undefined,
    closed: () => {
      isAttached = false;
    },
    refused: (refusal) => refusals.push(refusal),
  };
  addWorkerLink(api, source, budget);
  await api.bind(`unix:${path}`);
});

afterEach(async () => {
  for (const each of close) each();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

const token = 'a'.repeat(64);
const serialize = services.WorkerLink['Attach']?.requestSerialize as (frame: object) => Buffer;

function helloOf(fields: object, held = 0): Buffer {
  const waits = Array.from({ length: held }, (_, index) => ({
    id: index + 1,
    request_id: 'r'.repeat(100),
    keep: true,
  }));
  const resumed = held === 0 ? {} : { resumed: { held: waits } };
  return serialize({ hello: { protocol: 1, worker_id: 'p-0-1', token, ...resumed, ...fields } });
}

function framed(message: Buffer, isCompressed = false): Buffer {
  const head = Buffer.from([isCompressed ? 1 : 0, 0, 0, 0, 0]);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

interface Attach {
  readonly stream: ClientHttp2Stream;
  status(): string | undefined;
}

function open(): ClientHttp2Session {
  const session = connectHttp2('http://localhost', { createConnection: () => dial(path) });
  session.on('error', () => undefined);
  close.push(() => session.destroy());
  return session;
}

function attach(headers: Record<string, string> = {}, session = open()): Attach {
  const usual = { ':method': 'POST', ':path': '/pitwarden.v1.WorkerLink/Attach', 'content-type': 'application/grpc' };
  const stream = session.request({ ...usual, ...headers });
  const status = grpcStatusOf(stream);
  stream.resume();
  return { stream, status };
}

test.each<[string, Buffer, string, string]>([
  ['a wrong token', helloOf({ token: 'b'.repeat(64) }, 20_000), '16', 'wrong_token'],
  ['an unknown worker', helloOf({ worker_id: 'q-0-1' }, 20_000), '16', 'unknown_worker'],
  ['no token', helloOf({ token: undefined }, 20_000), '3', 'protocol'],
  ['no hello', serialize({ results: [{ id: 1, payload: Buffer.alloc(2 * mib) }] }), '3', 'protocol'],
  ['bytes that are no frame', Buffer.alloc(2 * mib, 0xff), '3', 'protocol'],
])('a large first frame with %s is refused after its first bytes', async (_, frame, code, reason) => {
  const { stream, status } = attach();
  stream.write(framed(frame).subarray(0, 4096));
  await vi.waitFor(() => expect([status(), refusals.map((each) => each.reason)]).toEqual([code, [reason]]));
  expect(budget.usedBytes).toBe(0);
  expect(unprovenBudget.usedBytes).toBeLessThan(64 * kib);
});

test('a large hello with a valid token is read, one at a time for each worker', async () => {
  const frame = framed(helloOf({}, 20_000));
  expect(frame.length).toBeGreaterThan(2 * mib);
  const first = attach();
  first.stream.write(frame.subarray(0, mib));
  await vi.waitFor(() => expect(budget.usedBytes).toBeGreaterThan(frame.length));
  const second = attach();
  second.stream.write(frame);
  await vi.waitFor(() => expect(second.status()).toBe('6'));
  first.stream.write(frame.subarray(mib));
  await vi.waitFor(() => expect(attached).toEqual([20_000]));
  expect(refusals).toHaveLength(1);
});

test('a compressed first frame is decompressed up to 64 KiB, and a large one is refused', async () => {
  const { stream, status } = attach({ 'grpc-encoding': 'gzip' });
  stream.write(framed(gzipSync(helloOf({ sdk_version: 'v'.repeat(60 * mib) })), true));
  let most = 0;
  await vi.waitFor(
    () => {
      most = Math.max(most, unprovenBudget.usedBytes + budget.usedBytes);
      expect(status()).toBe('8');
    },
    { interval: 1 },
  );
  expect(most).toBeLessThan(512 * kib);
});

test('an unproven connection that sends many first frames at once holds at most 256 KiB', async () => {
  const session = open();
  const calls = Array.from({ length: 16 }, () => attach({}, session));
  const stranger = framed(helloOf({ worker_id: 'q-0-1', sdk_version: 'v'.repeat(64 * kib - 1_000) }));
  for (const { stream } of calls) stream.write(stranger.subarray(0, 100));
  await vi.waitFor(() => expect(calls.filter(({ status }) => status() === '8').length).toBeGreaterThan(12));
  expect(unprovenBudget.usedBytes).toBeLessThanOrEqual(256 * kib);
});

test('small first frames of unproven connections are refused when there is no room', async () => {
  const strangers = Array.from({ length: 300 }, () => attach());
  const stranger = framed(helloOf({ worker_id: 'q-0-1', sdk_version: 'v'.repeat(64 * kib - 1_000) }));
  for (const { stream } of strangers) stream.write(stranger.subarray(0, -1));
  await vi.waitFor(() => expect(strangers.filter(({ status }) => status() === '8').length).toBeGreaterThan(30), {
    timeout: 10_000,
  });
  expect(unprovenBudget.usedBytes).toBeLessThanOrEqual(unprovenBudget.maxBytes);
  expect(budget.usedBytes).toBe(0);
});

test('a worker is welcomed while other workers hold more than the budget of workers', async () => {
  budget.account().add(budget.maxBytes);
  const { stream } = attach();
  stream.write(framed(helloOf({})));
  await vi.waitFor(() => expect(attached).toEqual([0]));
  // From then on its frames count with those of other workers.
  stream.write(framed(serialize({ results: [{ id: 1, payload: Buffer.alloc(mib) }] })).subarray(0, 100));
  await vi.waitFor(() => expect(budget.usedBytes).toBeGreaterThan(budget.maxBytes + mib));
  expect(unprovenBudget.usedBytes).toBe(0);
});

test.each([0, 20_000])(
  'a hello with %d requests attaches as soon as the earlier link has ended, one at a time',
  async (held) => {
    const first = attach();
    first.stream.write(framed(helloOf({})));
    await vi.waitFor(() => expect(attached).toEqual([0]));
    const next = attach();
    next.stream.write(framed(helloOf({}, held)));
    await vi.waitFor(() => expect(budget.usedBytes + unprovenBudget.usedBytes).toBeGreaterThan(20 * kib + 100 * held));
    const third = attach();
    third.stream.write(framed(helloOf({}, held)));
    await vi.waitFor(() => expect(third.status()).toBe('6'));
    expect(attached).toEqual([0]);
    first.stream.close();
    await vi.waitFor(() => expect(attached).toEqual([0, held]), { timeout: 500 });
  },
);

test('a large hello waits for room in the budget of workers', async () => {
  const others = budget.account();
  others.add(budget.maxBytes);
  const { stream } = attach();
  const frame = framed(helloOf({}, 2_000));
  expect(frame.length).toBeGreaterThan(64 * kib);
  expect(frame.length).toBeLessThan(mib);
  stream.write(frame);
  await vi.waitFor(() => expect(unprovenBudget.usedBytes).toBe(0));
  await vi.waitFor(() => expect(budget.usedBytes).toBeGreaterThan(budget.maxBytes));
  expect(budget.usedBytes).toBeLessThan(budget.maxBytes + 64 * kib);
  others.give(budget.maxBytes);
  await vi.waitFor(() => expect(attached).toEqual([2_000]));
});
