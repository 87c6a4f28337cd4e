import { setMaxListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import type { ClientHttp2Session } from 'node:http2';
import { connect as connectHttp2 } from 'node:http2';
import { connect as dialSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { State, Worker } from '../../src/domain/state.ts';
import { initialState, newWorker } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import { controlService } from '../../src/grpc/control/service.ts';
import type { ControlSource, Listener } from '../../src/grpc/control/source.ts';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { nodeConfig, poolConfig } from '../domain/simulation.ts';
import type { PoolReportView, ReportView, TestClient } from '../e2e/grpc.ts';
import { connect } from '../e2e/grpc.ts';
import { noDesired, noReload } from './no-reload.ts';
import { noReport } from './no-report.ts';

let dir: string;
let api: ApiServer;
let client: TestClient;
let state: State;
let listeners: Set<Listener>;
let budget: MemoryBudget;
const leaving = new AbortController();
setMaxListeners(0, leaving.signal);
/** Who listens while nobody follows: the log of Watch. */
const unfollowed = 1;
/** How often the numbers of a pool were read. */
let reads: number;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  listeners = new Set();
  reads = 0;
  budget = createMemoryBudget(64 * 1024 * 1024);
  api = createServer({ messageMaxBytes: 1024 * 1024, budget });
  api.server.addService(services.Control, controlService(sourceOf()));
  await api.bind(`unix:${join(dir, 'sock')}`);
  client = connect(join(dir, 'sock'));
});

afterEach(async () => {
  client.close();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

function sourceOf(): ControlSource {
  state = stateOf(['p']);
  return {
    state: () => state,
    node: () => ({
      ...{ nodeId: 'n', agentId: 'a', version: '1', pid: 1, startedAtMs: 1, configPath: '' },
      ...{ httpAddress: '', listenAddress: '', warnings: [] },
    }),
    counters: () => undefined,
    recorded: () => undefined,
    poolNumbers: () => {
      reads += 1;
      return { queued: 0, queuedBytes: 0, inFlight: 0, completed: 0, failed: 0 };
    },
    ...{ exits: () => [], history: async () => null, requestsOf: () => [], progressOf: () => null },
    nowMs: () => performance.now(),
    toUnixMs: (ms) => ms,
    command: () => undefined,
    ordersKept: () => Promise.resolve(),
    subscribe: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    report: noReport,
    followTelemetry: () => () => undefined,
    commandLine: [],
    leaving: leaving.signal,
    handOver: () => 1,
    checkConfig: () => Promise.resolve(''),
    reload: noReload,
    desired: noDesired,
  };
}

function stateOf(pools: readonly string[]): State {
  const config = nodeConfig(...pools.map((name) => poolConfig({ name, size: 0 })));
  const facts = { nowMs: 1, random: () => 0, counters: () => undefined, queued: () => 0 };
  return step(initialState(), [{ type: 'config', config }], facts).state;
}

function change(): void {
  const changes = { revision: 1, workers: [], workersGone: [], pools: [], poolsGone: [], node: true };
  for (const listener of listeners) listener(changes, []);
}

test.each([1, 99, 60_001, 2 ** 32 - 1])(
  'an interval of %d ms is refused, with what was expected',
  async (interval_ms) => {
    const call = client.report({ interval_ms });
    const refused = new Promise((_, reject) => call.on('error', reject));
    await expect(refused).rejects.toMatchObject({
      code: 3,
      details: `interval_ms: expected 100 to 60000, or 0 for 1000, got ${interval_ms}`,
    });
    expect(listeners.size).toBe(unfollowed);
  },
);

test('a beat of more pools than fit into one message comes in several, which a client with a limit of 4 MiB can read', async () => {
  state = stateOf(Array.from({ length: 10_000 }, (_, index) => `pool-${String(index).padStart(5, '0')}`));
  const beats = new Map<number, string[]>();
  let messages = 0;
  for await (const { sequence, more, pools } of client.report({ interval_ms: 60_000 })) {
    messages += 1;
    beats.set(sequence, [...(beats.get(sequence) ?? []), ...pools.map((each: PoolReportView) => each.pool)]);
    if (!more) break;
  }
  expect(messages).toBeGreaterThan(1);
  expect([...beats.keys()]).toEqual([1]);
  expect(beats.get(1)).toEqual([...state.pools.keys()].sort());
});

const unborn = newWorker({
  ...{ id: '', pool: 'p', slot: 0, generation: 1, fingerprint: '', launch: '', startedAtMs: 1, concurrency: 1 },
  ...{ limits: { maxAgeMs: 0, maxRequests: 0 }, deadlineMs: 0, warmUp: null },
});

test('the numbers of a pool are the sums over its own workers that have not exited', async () => {
  state = stateOf(['p', 'q']);
  const put = (id: string, patch: Partial<Worker>, usage: Partial<Worker['usage']> = {}): void => {
    const worker = { ...unborn, id, ...patch, usage: { ...unborn.usage, ...usage } };
    state = { ...state, workers: new Map([...state.workers, [id, worker]]) };
  };
  const { heartbeat } = unborn;
  put('new', { phase: 'starting' });
  put('well', { phase: 'ready', health: 'well', heartbeat: { ...heartbeat, roundTripMs: 7.5 } }, { rssBytes: 100 });
  put('slow', { phase: 'draining', health: 'slow', heartbeat: { ...heartbeat, missed: 1 } }, { rssBytes: 1_000 });
  put('busy', { phase: 'ready', health: 'busy', heartbeat: { ...heartbeat, missed: 3 } }, { rssBytes: 10 });
  put('hung', { phase: 'stopping', health: 'hung', heartbeat: { ...heartbeat, missed: 2 } }, { rssBytes: 1 });
  put('gone', { phase: 'exited', health: 'hung', heartbeat: { ...heartbeat, missed: 9 } }, { rssBytes: 5_000 });
  put('other', { pool: 'q', phase: 'ready', health: 'well' }, { rssBytes: 9_999 });
  for await (const { pools } of client.report()) {
    expect(pools.map((each: PoolReportView) => each.pool)).toEqual(['p', 'q']);
    expect(pools[0]).toMatchObject({
      ...{ workers_starting: 1, workers_ready: 2, workers_draining: 1, workers_stopping: 2 },
      ...{ workers_well: 1, workers_slow: 1, workers_busy: 1, workers_hung: 1 },
      ...{ missed_pings_max: 3, ping_round_trip_max_ms: 7.5, memory_bytes: 1_111, worker_memory_max_bytes: 1_000 },
    });
    expect(pools[1]).toMatchObject({ workers_ready: 1, workers_well: 1, memory_bytes: 9_999, exits: [] });
    expect(pools[1]).not.toHaveProperty('last_evidence_age_ms');
    break;
  }
});

test('many streams share one computation for each beat', async () => {
  const calls = Array.from({ length: 50 }, () => client.report({ interval_ms: 60_000 }));
  const got = calls.map(() => 0);
  for (const [index, call] of calls.entries()) {
    call.on('data', () => {
      got[index] = (got[index] ?? 0) + 1;
    });
    call.on('error', () => undefined);
  }
  await vi.waitFor(() => expect(got.every((count) => count >= 1)).toBe(true));
  const [readsBefore, gotBefore] = [reads, [...got]];
  change();
  await vi.waitFor(() => expect(got.every((count, index) => count > (gotBefore[index] ?? 0))).toBe(true));
  expect(reads - readsBefore).toBe(1);
  for (const call of calls) call.cancel();
  await vi.waitFor(() => expect(listeners.size).toBe(unfollowed));
});

/** A client that receives nothing until `openWindow`. */
function deafClient(): ClientHttp2Session {
  const createConnection = () => dialSocket(join(dir, 'sock'));
  return connectHttp2('http://localhost', { createConnection, settings: { initialWindowSize: 0 } });
}

test('a caller that reads nothing leaves one beat unread, and gets the newest once it reads', async () => {
  const names = Array.from({ length: 1_000 }, (_, index) => `pool-${index}`);
  state = stateOf(names);
  const deaf = deafClient();
  const stream = deaf.request({
    ...{ ':method': 'POST', ':path': '/pitwarden.v1.Control/Report', 'content-type': 'application/grpc' },
  });
  stream.on('error', () => undefined);
  const empty = Buffer.alloc(5);
  stream.end(empty);
  await vi.waitFor(() => expect(budget.usedBytes).toBeGreaterThan(100_000));
  const oneBeatBytes = budget.usedBytes;
  for (let beat = 0; beat < 10; beat += 1) {
    const before = reads;
    change();
    // It is made for others that may follow, and left out here.
    await vi.waitFor(() => expect(reads).toBeGreaterThan(before));
  }
  expect(budget.usedBytes).toBe(oneBeatBytes);
  state = { ...state, revision: 1_234 };
  const received: Buffer[] = [];
  stream.on('data', (data: Buffer) => received.push(data));
  deaf.settings({ initialWindowSize: 16 * 1024 * 1024 });
  deaf.setLocalWindowSize(16 * 1024 * 1024);
  const decoded = () => messagesOf(Buffer.concat(received));
  await vi.waitFor(() => expect(decoded().at(-1)).toMatchObject({ revision: 1_234 }), { timeout: 5_000 });
  const [first, second] = decoded();
  expect(first?.sequence).toBe(1);
  expect(first?.revision).not.toBe(1_234);
  // The beats between were left out, and the gap says so.
  expect(second?.sequence).toBeGreaterThan(10);
  deaf.destroy();
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
  expect(listeners.size).toBe(unfollowed);
});

/** The messages that have arrived whole. */
function messagesOf(bytes: Buffer): ReportView[] {
  const decode = services.Control['Report']?.responseDeserialize;
  const found: ReportView[] = [];
  for (let at = 0; at + 5 <= bytes.length; ) {
    const end = at + 5 + bytes.readUInt32BE(at + 1);
    if (end > bytes.length) break;
    found.push(decode?.(bytes.subarray(at + 5, end)) as ReportView);
    at = end;
  }
  return found;
}
