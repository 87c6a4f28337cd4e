import { setMaxListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ClientReadableStream } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Changes, NodeRecord } from '../../src/domain/action.ts';
import type { State } from '../../src/domain/state.ts';
import { initialState, newWorker } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import { changeLogMaxBytes, createChangeLog } from '../../src/grpc/control/change-log.ts';
import { controlService } from '../../src/grpc/control/service.ts';
import type { ControlSource, Listener } from '../../src/grpc/control/source.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { nodeConfig, poolConfig } from '../domain/simulation.ts';
import type { TestClient, WatchView } from '../e2e/grpc.ts';
import { connect } from '../e2e/grpc.ts';
import { noDesired, noReload } from './no-reload.ts';
import { noReport } from './no-report.ts';

let dir: string;
let api: ApiServer;
let client: TestClient;
let state: State;
let listeners: Set<Listener>;
/** How often a pool was read. */
let reads: number;
const leaving = new AbortController();
setMaxListeners(0, leaving.signal);

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  listeners = new Set();
  reads = 0;
  const config = nodeConfig(...['p', 'q'].map((name) => poolConfig({ name, size: 0 })));
  const facts = { nowMs: 1, random: () => 0, counters: () => undefined, queued: () => 0 };
  state = step(initialState(), [{ type: 'config', config }], facts).state;
  api = createServer({ messageMaxBytes: 1024 * 1024, budget: createMemoryBudget(64 * 1024 * 1024) });
  api.server.addService(services.Control, controlService(source()));
  await api.bind(`unix:${join(dir, 'sock')}`);
  client = connect(join(dir, 'sock'));
});

afterEach(async () => {
  client.close();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

function source(): ControlSource {
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
    ...{ exits: () => [], requestsOf: () => [], progressOf: () => null },
    nowMs: () => performance.now(),
    toUnixMs: (ms) => ms,
    command: () => undefined,
    ordersKept: () => Promise.resolve(),
    subscribe: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    history: async () => null,
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

const none = { workers: [], workersGone: [], pools: [], poolsGone: [], node: false };

/** A step that changed this. Returns its revision. */
function change(changes: Partial<Changes>, records: readonly NodeRecord[] = []): number {
  state = { ...state, revision: state.revision + 1 };
  for (const listener of listeners) listener({ ...none, ...changes, revision: state.revision }, records);
  return state.revision;
}

function addWorker(id: string, pool: string): number {
  const spec = { id, pool, slot: 0, generation: 1, fingerprint: '', launch: '', startedAtMs: 1, concurrency: 1 };
  const worker = newWorker({ ...spec, limits: { maxAgeMs: 0, maxRequests: 0 }, deadlineMs: 0, warmUp: null });
  state = { ...state, workers: new Map([...state.workers, [id, worker]]) };
  return change({ workers: [id], pools: [pool] }, [recordOf(pool, `started ${id}`)]);
}

function recordOf(pool: string, message: string): NodeRecord {
  return { kind: 'worker_started', atMs: 1, pool, workerId: 'w', message };
}

/** What a watcher received, in short: revision, change, and + where more of the revision follows. */
function follow(request: object) {
  const seen: string[] = [];
  const ended: { code?: number; details?: string } = {};
  const call: ClientReadableStream<WatchView> = client.watch(request);
  call.on('data', (view: WatchView) => seen.push(`${view.revision} ${whatOf(view)}${view.more ? ' +' : ''}`));
  call.on('error', (error) => Object.assign(ended, error));
  return { seen, ended, call };
}

function whatOf(view: WatchView): string {
  if (view.snapshot) return `snapshot of ${view.snapshot.pools.length} pools, ${view.snapshot.workers.length} workers`;
  if (view.worker) return `worker ${view.worker.worker_id}`;
  if (view.pool) return `pool ${view.pool.pool}`;
  if (view.event) return `event ${view.event.message}`;
  if (view.bookmark) return 'bookmark';
  if (view.worker_gone) return `worker_gone ${view.worker_gone}`;
  return view.pool_gone ? `pool_gone ${view.pool_gone}` : 'node';
}

test('a watcher that comes back gets exactly the changes after its revision, then a bookmark, then what happens', async () => {
  const first = addWorker('p-0', 'p');
  const second = addWorker('q-0', 'q');
  const third = change({ workersGone: [{ id: 'p-0', pool: 'p' }], node: true });
  const { seen } = follow({ from_revision: first, agent_id: 'a' });
  await vi.waitFor(() => expect(seen).toHaveLength(6));
  expect(seen).toEqual([
    `${second} event started q-0 +`,
    `${second} worker q-0 +`,
    `${second} pool q`,
    `${third} worker_gone p-0 +`,
    `${third} node`,
    `${third} bookmark`,
  ]);
  const fourth = change({ pools: ['p'] });
  await vi.waitFor(() => expect(seen.at(-1)).toBe(`${fourth} pool p`));
});

test('a watcher of one pool is told which of its messages is the last of a revision', async () => {
  const from = addWorker('q-0', 'q');
  const both = change({ pools: ['p', 'q'] }, [recordOf('p', 'one'), recordOf('q', 'two')]);
  const { seen } = follow({ pool: 'p', from_revision: from, agent_id: 'a' });
  await vi.waitFor(() => expect(seen).toHaveLength(3));
  expect(seen).toEqual([`${both} event one +`, `${both} pool p`, `${both} bookmark`]);
});

test('a snapshot that has all is whole at its revision', async () => {
  addWorker('p-0', 'p');
  const { seen } = follow({});
  await vi.waitFor(() => expect(seen).toEqual([`${state.revision} snapshot of 2 pools, 1 workers`]));
});

test('while nothing happens to a pool, its watcher learns by bookmarks how far the node is', async () => {
  const { seen } = follow({ pool: 'p', bookmark_interval_ms: 100 });
  await vi.waitFor(() => expect(seen).toHaveLength(1));
  const revision = addWorker('q-0', 'q');
  await vi.waitFor(() => expect(seen).toContain(`${revision} bookmark`));
  const bookmarks = seen.filter((line) => line.endsWith('bookmark')).length;
  await vi.waitFor(() => expect(seen.length).toBeGreaterThan(bookmarks + 3));
  expect(seen.slice(1).every((line) => line.endsWith('bookmark'))).toBe(true);
});

test('the messages of a step are made once, for all who watch', async () => {
  const watchers = Array.from({ length: 20 }, () => follow({ from_revision: state.revision, agent_id: 'a' }));
  await vi.waitFor(() => expect(watchers.every(({ seen }) => seen.length === 1)).toBe(true));
  reads = 0;
  const revision = change({ pools: ['p'] });
  await vi.waitFor(() => expect(watchers.every(({ seen }) => seen.at(-1) === `${revision} pool p`)).toBe(true));
  expect(reads).toBe(1);
});

test.each([
  ['of another agent', () => ({ from_revision: state.revision, agent_id: 'b' }), 11],
  ['that does not exist yet', () => ({ from_revision: state.revision + 1, agent_id: 'a' }), 11],
  ['of before the log', () => ({ from_revision: 0, agent_id: 'a' }), 11],
  ['without its agent', () => ({ from_revision: state.revision }), 3],
  ['missing beside an agent', () => ({ agent_id: 'a' }), 3],
])('a revision %s is refused, with what was expected', async (_, request, code) => {
  const { ended, seen } = follow(request());
  await vi.waitFor(() => expect(ended.code).toBe(code));
  expect(ended.details).toMatch(code === 11 ? /begin again with a snapshot$/ : /expected .*, got none$/);
  expect(seen).toEqual([]);
});

test.each([99, 600_001])('a bookmark interval of %d ms is refused', async (bookmark_interval_ms) => {
  const { ended } = follow({ bookmark_interval_ms });
  await vi.waitFor(() => expect(ended.code).toBe(3));
  expect(ended.details).toContain('bookmark_interval_ms: expected 100 to 600000');
});

test('a watcher of a pool that was removed meanwhile is told so, and one that already knows it is refused', async () => {
  const from = addWorker('q-0', 'q');
  state = { ...state, pools: new Map([...state.pools].filter(([name]) => name !== 'q')) };
  const gone = change({ poolsGone: ['q'] });
  const { seen } = follow({ pool: 'q', from_revision: from, agent_id: 'a' });
  await vi.waitFor(() => expect(seen).toEqual([`${gone} pool_gone q`, `${gone} bookmark`]));
  const { ended } = follow({ pool: 'q', from_revision: gone, agent_id: 'a' });
  await vi.waitFor(() => expect(ended.code).toBe(5));
});

test('the log takes a bounded number of bytes, forgets the oldest messages, and knows from where on it is whole', () => {
  const log = createChangeLog(source());
  const from = state.revision;
  expect(log.after(from)).toBe(log.end());
  const long = 'x'.repeat(10_000);
  for (let index = 0; index < 3_000; index += 1) change({ pools: ['p'] }, [recordOf('p', long)]);
  expect(log.after(from)).toBeNull();
  const oldest = log.oldestRevision();
  expect(oldest).toBeGreaterThan(from + 1_000);
  expect(log.after(oldest - 1)).toBeNull();
  let bytes = 0;
  let revision = oldest + 1;
  for (let position = log.after(oldest) ?? Number.NaN; position < log.end(); position += 2) {
    const [event, pool] = [log.at(position), log.at(position + 1)];
    expect([event?.revision, pool?.revision]).toEqual([revision, revision]);
    bytes += (event?.encoded.length ?? 0) + (pool?.encoded.length ?? 0);
    // Memory of its own: a slice of a larger Buffer would keep all of that.
    expect(event?.encoded.buffer.byteLength).toBe(event?.encoded.length);
    revision += 1;
  }
  expect(revision).toBe(state.revision + 1);
  expect(bytes).toBeLessThanOrEqual(changeLogMaxBytes);
  expect(bytes).toBeGreaterThan(changeLogMaxBytes * 0.8);
});

test('a watcher that reads everything misses nothing of more than the log can hold', async () => {
  const { seen, ended } = follow({ from_revision: state.revision, agent_id: 'a' });
  await vi.waitFor(() => expect(seen).toHaveLength(1));
  const wanted: string[] = [];
  for (let round = 0; round < 40; round += 1) {
    for (let index = 0; index < 50; index += 1) {
      const message = `${round}-${index} ${'x'.repeat(10_000)}`;
      wanted.push(`${change({}, [recordOf('p', message)])} event ${message}`);
    }
    await vi.waitFor(() => expect(seen.length).toBe(wanted.length + 1));
  }
  expect(ended).toEqual({});
  expect(seen.slice(1)).toEqual(wanted);
});
