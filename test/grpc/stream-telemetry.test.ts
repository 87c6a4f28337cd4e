import { setMaxListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { connect as dialSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { AppReport, EndedSpan, Measured } from '../../src/domain/app-telemetry.ts';
import { initialState } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import type { ControlSource } from '../../src/grpc/control/source.ts';
import { telemetryStreams, telemetryStreamsMax } from '../../src/grpc/control/stream-telemetry.ts';
import { TelemetryBatch } from '../../src/grpc/control/telemetry-batch.ts';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { nodeConfig, poolConfig } from '../domain/simulation.ts';
import type { TelemetryView, TestClient } from '../e2e/grpc.ts';
import { connect } from '../e2e/grpc.ts';

let dir: string;
let api: ApiServer;
let client: TestClient;
let budget: MemoryBudget;
let leaving: AbortController;
let followers: Set<(report: AppReport) => void>;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  followers = new Set();
  leaving = new AbortController();
  setMaxListeners(0, leaving.signal);
  budget = createMemoryBudget(64 * 1024 * 1024);
  api = createServer({ messageMaxBytes: 1024 * 1024, budget });
  const config = nodeConfig(poolConfig({ name: 'p', size: 0 }), poolConfig({ name: 'q', size: 0 }));
  const facts = { nowMs: 1, random: () => 0, counters: () => undefined, queued: () => 0 };
  const { state } = step(initialState(), [{ type: 'config', config }], facts);
  const source = {
    state: () => state,
    node: () => ({ agentId: 'a' }),
    nowMs: () => performance.now(),
    toUnixMs: (ms: number) => ms,
    leaving: leaving.signal,
    followTelemetry: (follower: (report: AppReport) => void) => {
      followers.add(follower);
      return () => followers.delete(follower);
    },
  } as unknown as ControlSource;
  api.server.addService(services.Control, { StreamTelemetry: telemetryStreams(source) });
  await api.bind(`unix:${join(dir, 'sock')}`);
  client = connect(join(dir, 'sock'));
});

afterEach(async () => {
  client.close();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

function measured(name: string, patch: Partial<Measured> = {}): Measured {
  return { name, kind: 'counter', labels: [], count: 1, value: 1, buckets: [], ...patch };
}

function ended(name: string, requestId = 'r'): EndedSpan {
  return { name, labels: [['outcome', 'ok']], requestId, beganAtMs: 1, durationUs: 2, errorType: '' };
}

function reportOf(
  pool: string,
  all: readonly Measured[],
  spans: readonly EndedSpan[] = [],
  spansLeftOut = 0,
): AppReport {
  return { worker: { workerId: `${pool}-0`, pool, slot: 0 }, measured: all, spans, spansLeftOut };
}

function say(report: AppReport): void {
  for (const follower of followers) follower(report);
}

/** Opens a stream, and waits for its first message. */
async function open(
  request: object = {},
): Promise<{ got: TelemetryView[]; call: ReturnType<TestClient['telemetry']> }> {
  const call = client.telemetry(request);
  const got: TelemetryView[] = [];
  call.on('data', (message: TelemetryView) => got.push(message));
  call.on('error', () => undefined);
  await vi.waitFor(() => expect(got).toHaveLength(1));
  return { got, call };
}

test('the first message comes at once and is empty; each further one has what was reported since, added up', async () => {
  const { got } = await open({ interval_ms: 100 });
  expect(got[0]).toMatchObject({ agent_id: 'a', sequence: 1, measurements: [], spans: [] });
  say(reportOf('p', [measured('rows', { value: 2 }), measured('depth', { kind: 'gauge', value: 5 })]));
  say(
    reportOf(
      'p',
      [measured('rows', { value: 3 }), measured('depth', { kind: 'gauge', value: 4 })],
      [ended('s_seconds')],
    ),
  );
  say(reportOf('q', [measured('rows', { value: 7, labels: [['table', 'a']] })], [], 6));
  await vi.waitFor(() => expect(got.length).toBeGreaterThan(1));
  const of = { pool: 'p', worker_id: 'p-0' };
  expect(got[1]).toMatchObject({ sequence: 2, measurements_dropped: 0, spans_left_out: 6 });
  expect(got[1]?.measurements).toEqual([
    { ...of, name: 'rows', kind: 'counter', labels: [], count: 2, value: 5, buckets: [] },
    { ...of, name: 'depth', kind: 'gauge', labels: [], count: 2, value: 4, buckets: [] },
    {
      ...{ pool: 'q', worker_id: 'q-0', name: 'rows', kind: 'counter', count: 1, value: 7, buckets: [] },
      labels: [{ name: 'table', value: 'a' }],
    },
  ]);
  expect(got[1]?.spans).toEqual([
    {
      ...{ ...of, name: 's_seconds', request_id: 'r', began_at_ms: 1, duration_us: 2, error_type: '' },
      labels: [{ name: 'outcome', value: 'ok' }],
    },
  ]);
});

test('pool and names filter measurements and spans', async () => {
  const { got } = await open({ pool: 'p', names: ['rows', 's_seconds'], interval_ms: 100 });
  say(reportOf('q', [measured('rows')], [ended('s_seconds')]));
  say(reportOf('p', [measured('lines'), measured('rows')], [ended('s_seconds'), ended('t_seconds')]));
  await vi.waitFor(() => expect(got.length).toBeGreaterThan(1));
  expect(got[1]?.measurements.map(({ pool, name }) => `${pool} ${name}`)).toEqual(['p rows']);
  expect(got[1]?.spans.map(({ pool, name }) => `${pool} ${name}`)).toEqual(['p s_seconds']);
});

test.each([
  [{ pool: 'nowhere' }, 5, /pool.*nowhere/],
  [{ interval_ms: 99 }, 3, /interval_ms: expected 100 to 60000, or 0 for 1000, got 99/],
  [{ names: new Array(101).fill('a') }, 3, /names: expected at most 100, got 101/],
])('%o is refused, with what was expected', async (request, code, details) => {
  const call = client.telemetry(request);
  const refused = new Promise((_, reject) => call.on('error', reject));
  call.resume();
  await expect(refused).rejects.toMatchObject({ code, details: expect.stringMatching(details) });
  expect(followers.size).toBe(0);
});

test('more calls than telemetryStreamsMax are refused until one ends', async () => {
  const opened = [];
  for (let each = 0; each < telemetryStreamsMax; each += 1) opened.push(await open());
  const refused = client.telemetry();
  refused.resume();
  const error = await new Promise((resolve) => refused.on('error', resolve));
  expect(error).toMatchObject({ code: 8, details: expect.stringMatching(/at most 16 calls of StreamTelemetry/) });
  opened[0]?.call.cancel();
  await vi.waitFor(() => expect(followers.size).toBe(telemetryStreamsMax - 1));
  await open();
});

test('a stream ends with the agent, and leaves nothing behind', async () => {
  const { call } = await open();
  const over = new Promise((resolve) => call.on('error', resolve));
  leaving.abort();
  expect(await over).toMatchObject({ code: 14 });
  expect(followers.size).toBe(0);
});

test('a caller that reads nothing holds one message and one batch; what does not fit is counted for it', async () => {
  const createConnection = () => dialSocket(join(dir, 'sock'));
  const deaf = connectHttp2('http://localhost', { createConnection, settings: { initialWindowSize: 0 } });
  const stream = deaf.request({
    ...{ ':method': 'POST', ':path': '/pitwarden.v1.Control/StreamTelemetry', 'content-type': 'application/grpc' },
  });
  stream.on('error', () => undefined);
  stream.end(Buffer.alloc(5));
  await vi.waitFor(() => expect(followers.size).toBe(1));
  const { got } = await open({ interval_ms: 100 });
  const before = budget.usedBytes;
  let said = 0;
  for (let round = 0; round < 20; round += 1) {
    const ids = Array.from({ length: 500 }, (_, id) => `${round}-${id}`);
    say(
      reportOf(
        'p',
        ids.map((id) => measured('flood', { labels: [['id', id]] })),
      ),
    );
    said += ids.length;
    // The other caller has what was said.
    await vi.waitFor(() => expect(got.flatMap(({ measurements }) => measurements)).toHaveLength(said));
  }
  expect(budget.usedBytes).toBeLessThanOrEqual(before);
  const received: Buffer[] = [];
  stream.on('data', (data: Buffer) => received.push(data));
  deaf.settings({ initialWindowSize: 16 * 1024 * 1024 });
  deaf.setLocalWindowSize(16 * 1024 * 1024);
  const messages = () => messagesOf(Buffer.concat(received));
  await vi.waitFor(() => expect(messages()).toHaveLength(2), { timeout: 5_000 });
  const [, late] = messages();
  expect(late?.measurements).toHaveLength(2_000);
  expect(late?.measurements_dropped).toBe(said - 2_000);
  deaf.destroy();
});

/** The messages that have arrived whole. */
function messagesOf(bytes: Buffer): TelemetryView[] {
  const decode = services.Control['StreamTelemetry']?.responseDeserialize;
  const found: TelemetryView[] = [];
  for (let at = 0; at + 5 <= bytes.length; ) {
    const end = at + 5 + bytes.readUInt32BE(at + 1);
    if (end > bytes.length) break;
    found.push(decode?.(bytes.subarray(at + 5, end)) as TelemetryView);
    at = end;
  }
  return found;
}

test('a message fits into the 4 MiB of any client, however long labels are', () => {
  const batch = new TelemetryBatch('', []);
  const labels = [...'abcd'].map((name) => [name.repeat(60), '語'.repeat(22)] as const);
  for (let id = 0; id < 3_000; id += 1) {
    const each = measured('a'.repeat(100), { kind: 'histogram', buckets: [], labels: [...labels, ['z', `${id}`]] });
    const buckets = new Array(26).fill(2 ** 31);
    const spans = Array.from({ length: 2 }, () => ({ ...ended('a_seconds', 'r'.repeat(128)), labels }));
    batch.add(reportOf('p', [each], spans));
    batch.add(reportOf('p', [{ ...each, buckets }]));
  }
  const encode = services.Control['StreamTelemetry']?.responseSerialize;
  const message = batch.take() as TelemetryView;
  const bytes = encode?.(message).length ?? Number.POSITIVE_INFINITY;
  expect(bytes).toBeLessThan(4 * 1024 * 1024);
  expect(message.measurements.length).toBeGreaterThan(500);
  expect(message.spans_left_out).toBe(6_000 - message.spans.length);
  expect(message.measurements_dropped).toBe(2 * (3_000 - message.measurements.length));
  expect(batch.isEmpty).toBe(true);
});

test('what is added up stays finite', () => {
  const batch = new TelemetryBatch('', []);
  for (let round = 0; round < 2; round += 1) batch.add(reportOf('p', [measured('rows', { value: 1.7e308 })]));
  expect((batch.take() as TelemetryView).measurements[0]).toMatchObject({ value: 1.7e308, count: 2 });
});
