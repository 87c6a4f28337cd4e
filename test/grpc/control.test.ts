import { mkdtempSync, rmSync } from 'node:fs';
import type { ClientHttp2Session } from 'node:http2';
import { connect as connectHttp2 } from 'node:http2';
import { connect as dialSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import type { NodeRecord } from '../../src/domain/action.ts';
import type { Evidence, KeptExit } from '../../src/domain/evidence.ts';
import { printable } from '../../src/domain/printable.ts';
import type { State } from '../../src/domain/state.ts';
import { initialState, newWorker } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import { lastLinesMaxLength, viewTextMaxBytes } from '../../src/domain/text-bounds.ts';
import { controlService } from '../../src/grpc/control/service.ts';
import type { ControlSource, Listener } from '../../src/grpc/control/source.ts';
import type { MemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { nodeConfig, poolConfig } from '../domain/simulation.ts';
import type { TestClient } from '../e2e/grpc.ts';
import { connect } from '../e2e/grpc.ts';
import { grpcStatusOf } from './call-end.ts';
import { noDesired, noReload } from './no-reload.ts';
import { noReport } from './no-report.ts';

const kib = 1024;
/** Three bytes each. */
const huge = `\u001b[2J${'語'.repeat(100 * kib)}`;

let dir: string;
let api: ApiServer;
/** A default client of grpc-js. It accepts 4 MiB a message, as all gRPC clients do. */
let client: TestClient;
let state: State;
let exits: KeptExit[];
let listeners: Set<Listener>;
let source: ControlSource;
let budget: MemoryBudget;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  state = stateOf(['p']);
  exits = [];
  listeners = new Set();
  source = sourceOf();
  budget = createMemoryBudget(64 * 1024 * kib);
  api = createServer({ messageMaxBytes: 1024 * kib, budget });
  api.server.addService(services.Control, controlService(source));
  await api.bind(`unix:${join(dir, 'sock')}`);
  client = connect(join(dir, 'sock'));
});

afterEach(async () => {
  client.close();
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

function sourceOf(): ControlSource {
  return {
    state: () => state,
    node: () => ({
      ...{ nodeId: 'n', agentId: 'a', version: '1', pid: 1, startedAtMs: 1, configPath: huge },
      ...{ httpAddress: '', listenAddress: '', warnings: [huge, huge] },
    }),
    counters: () => undefined,
    recorded: () => ({ bootId: 'b'.repeat(36), startTime: '1', config: 'c'.repeat(16), adopted: false, revision: 1 }),
    poolNumbers: () => ({ queued: 0, queuedBytes: 0, inFlight: 0, completed: 0, failed: 0 }),
    exits: (pool) => exits.filter((exit) => pool === '' || exit.pool === pool),
    history: async () => null,
    requestsOf: () => [],
    progressOf: () => null,
    nowMs: () => 1,
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
    leaving: new AbortController().signal,
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

/** Adds ready workers. Each of the first two offers this many commands of its own. */
function addWorkers(pool: string, count: number, commandsEach: number): void {
  const workers = new Map(state.workers);
  for (let slot = 0; slot < count; slot += 1) {
    const id = `${pool}-${slot}`;
    const born = newWorker({
      ...{ id, pool, slot, generation: 1, fingerprint: '', launch: '', startedAtMs: 1 },
      ...{ concurrency: 1, limits: { maxAgeMs: 0, maxRequests: 0 }, deadlineMs: 0, warmUp: null },
    });
    const commands = Array.from({ length: slot < 2 ? commandsEach : 0 }, (_, index) => ({
      name: `${slot}-${index}-${'n'.repeat(180)}`,
      summary: '語'.repeat(200),
      streams: false,
    }));
    const start = { interpreterMs: 1, importMs: 1, hooksMs: 1 };
    const hello = { commands, sdkVersion: 's'.repeat(64), pythonVersion: '3'.repeat(64), start };
    workers.set(id, { ...born, pid: 2 ** 22, phase: 'ready', hello });
  }
  state = { ...state, workers };
}

function exitOf(index: number, patch: Partial<KeptExit> = {}): KeptExit {
  return {
    ...{ workerId: `p-${index}`, pool: 'p', slot: index, generation: 1, pid: 1, reason: 'exit_code', unplanned: true },
    ...{ exit: { code: 1, signal: null }, message: '', startedAtMs: 1, spawnedAtMs: 1, readyAtMs: 1 },
    // Several workers in one step.
    exitedAtMs: 1 + Math.floor(index / 3),
    ...{ inFlight: 0, completed: 0, failed: 0, memoryBytes: 0, cpuMs: 0, start: null, account: null, evidence: null },
    ...patch,
  };
}

const evidence: Evidence = {
  ...{ takenAtMs: 1, because: huge, state: 'S', stacks: huge, stacksMissing: huge, lastLines: [huge, huge] },
  threads: Array.from({ length: 64 }, () => 't'.repeat(200)),
  requests: [{ command: huge, requestId: huge, ageMs: 1, cancelled: false, progress: { fraction: 1, message: huge } }],
};

interface PageOf {
  readonly next_page_token: string;
  readonly [field: string]: unknown;
}

async function pagesOf(method: string, field: string, request: object = {}): Promise<Record<string, unknown>[][]> {
  const pages: Record<string, unknown>[][] = [];
  let page_token = '';
  do {
    const page: PageOf = await client.control(method, { ...request, page_token });
    pages.push(page[field] as Record<string, unknown>[]);
    page_token = page.next_page_token;
  } while (page_token !== '');
  return pages;
}

/** Every text anywhere in a message. */
function textsOf(message: unknown): string[] {
  if (typeof message === 'string') return [message];
  if (typeof message !== 'object' || message === null) return [];
  return Object.values(message).flatMap(textsOf);
}

test('a client that accepts 4 MiB a message can list 10,000 exits with the largest texts, each once, newest first', async () => {
  const message = '語'.repeat(lastLinesMaxLength);
  exits = Array.from({ length: 10_000 }, (_, index) =>
    exitOf(index, { message, evidence: index % 100 === 0 ? evidence : null }),
  );
  const pages = await pagesOf('ListExits', 'exits');
  const listed = pages.flat();
  expect(new Set(listed.map(({ worker_id }) => worker_id)).size).toBe(10_000);
  expect(listed).toHaveLength(10_000);
  const moments = listed.map(({ exited_at_ms }) => Number(exited_at_ms));
  expect(moments).toEqual([...moments].sort((a, b) => b - a));
  expect(pages.length).toBeGreaterThan(30);
}, 60_000);

test('exits that are added between two pages neither repeat nor hide an earlier exit', async () => {
  exits = Array.from({ length: 10 }, (_, index) => exitOf(index));
  const first: PageOf = await client.control('ListExits', { page_size: 4 });
  exits = [...exits.slice(1), exitOf(100)];
  const rest = (await pagesOf('ListExits', 'exits', { page_size: 4 })).flat();
  const second: PageOf = await client.control('ListExits', { page_size: 100, page_token: first.next_page_token });
  const ids = [first, second].flatMap(({ exits: some }) =>
    (some as { worker_id: string }[]).map((each) => each.worker_id),
  );
  expect(ids).toEqual(['p-9', 'p-6', 'p-7', 'p-8', 'p-3', 'p-4', 'p-5', 'p-1', 'p-2']);
  expect(rest).toHaveLength(10);
});

test.each([
  ['ListPools', 'pools'],
  ['ListWorkers', 'workers'],
  ['GetRegistry', 'workers'],
])(
  'a client that accepts 4 MiB a message can read %s of 1,000 workers with 20,000 long commands, in pages too',
  async (method, field) => {
    state = stateOf(Array.from({ length: 20 }, (_, index) => `pool-${index}`));
    for (const pool of state.pools.keys()) addWorkers(pool, 50, 1_000);
    const all = (await pagesOf(method, field)).flat();
    expect(all).toHaveLength(method === 'ListPools' ? 20 : 1_000);
    const ofSeven = await pagesOf(method, field, { page_size: 7 });
    expect(ofSeven.slice(0, -1).every((page) => page.length <= 7)).toBe(true);
    expect(ofSeven.flat()).toEqual(all);
  },
);

test('ListWorkers lists all workers in one answer if they fit', async () => {
  addWorkers('p', 1_000, 1);
  expect(await pagesOf('ListWorkers', 'workers')).toHaveLength(1);
});

test.each(['x', 'W10', Buffer.from('["p"]').toString('base64url')])(
  'a page token that is not from an answer is refused: %j',
  async (page_token) => {
    exits = [exitOf(1)];
    await expect(client.control('ListExits', { page_token })).rejects.toMatchObject({ code: 3 });
  },
);

test('each text of each view is within its bound and has no control characters', async () => {
  addWorkers('p', 2, 1_000);
  const pool = state.pools.get('p');
  if (pool === undefined) throw new Error('no pool');
  const roll = { phase: 'failed', old: new Set(), startedAtMs: 1, endedAtMs: 2, message: huge, failures: 1 };
  const told = { quarantine: huge, lastFailure: { message: huge, atMs: 1 } };
  state = {
    ...state,
    pools: new Map([['p', { ...pool, ...told, roll: roll as never }]]),
    node: {
      ...state.node,
      configError: huge,
      restartNeeded: [huge],
      blockedStarts: { ...state.node.blockedStarts, because: huge },
    },
  };
  exits = [exitOf(1, { message: huge, evidence })];
  const answers = await Promise.all([
    ...['GetNode', 'ListPools', 'ListWorkers', 'ListExits', 'GetRegistry'].map((method) => client.control(method)),
    client.control('Explain', { worker_id: 'p-0' }),
    client.control('Explain', { worker_id: 'p-1' }),
    client.control('Handover'),
  ]);
  const texts = answers.flatMap(textsOf);
  expect(Math.max(...texts.map((text) => Buffer.byteLength(text)))).toBeLessThanOrEqual(viewTextMaxBytes);
  expect(texts.filter((text) => text.includes('\uFFFD') || printable(text) !== text)).toEqual([]);
});

test('a watcher that accepts 4 MiB a message gets all of a large node, and events with bounded texts', async () => {
  state = stateOf(Array.from({ length: 30 }, (_, index) => `pool-${index}`));
  for (const pool of state.pools.keys()) addWorkers(pool, 30, 1_000);
  const record: NodeRecord = { kind: 'worker_exited', atMs: 1, pool: 'pool-0', workerId: 'w', message: huge };
  const pools = new Set<unknown>();
  const workers = new Set<unknown>();
  for await (const message of client.watch()) {
    const { snapshot, pool, worker, event } = message;
    for (const each of snapshot?.pools ?? [pool]) if (each) pools.add(each.pool);
    for (const each of snapshot?.workers ?? [worker]) if (each) workers.add(each.worker_id);
    if (event !== undefined && event !== null) {
      expect(Buffer.byteLength(event.message)).toBeLessThanOrEqual(viewTextMaxBytes);
      break;
    }
    if (snapshot) {
      const none = { workers: [], workersGone: [], pools: [], poolsGone: [], node: false };
      for (const listener of listeners) listener({ revision: 2, ...none }, [record]);
    }
  }
  expect([pools.size, workers.size]).toEqual([30, 900]);
});

test('an error of a large node is small enough for a client, whatever the caller sent', async () => {
  state = stateOf(Array.from({ length: 1_000 }, (_, index) => `pool-${index}-${'x'.repeat(50)}`));
  const failure = await client
    .control('ScalePool', { pool: huge.slice(0, 20 * kib), size: 1 })
    .catch((error: Error) => error);
  expect(failure).toMatchObject({ code: 5 });
  expect(encodeURI((failure as Error).message).length).toBeLessThan(2_000);
});

/** A client that receives no answers. Only trailers reach it. */
function deafClient(): ClientHttp2Session {
  const createConnection = () => dialSocket(join(dir, 'sock'));
  const session = connectHttp2('http://localhost', { createConnection, settings: { initialWindowSize: 0 } });
  session.on('error', () => undefined);
  onTestFinished(() => session.destroy());
  return session;
}

/** Begins a call without arguments. Returns its status; undefined: the call has not ended. */
function begin(session: ClientHttp2Session, method: string): () => string | undefined {
  const headers = { ':method': 'POST', ':path': `/pitwarden.v1.Control/${method}`, 'content-type': 'application/grpc' };
  const stream = session.request(headers);
  stream.end(Buffer.alloc(5));
  return grpcStatusOf(stream);
}

test('unread answers of Control count towards the budget, and further calls are refused beyond a share of it', async () => {
  exits = Array.from({ length: 1_000 }, (_, index) => exitOf(index, { message: '語'.repeat(lastLinesMaxLength) }));
  const deaf = deafClient();
  const calls = Array.from({ length: 60 }, () => begin(deaf, 'ListExits'));
  await vi.waitFor(() => expect(calls.filter((code) => code() === '8').length).toBeGreaterThan(40), {
    timeout: 10_000,
  });
  expect(budget.usedBytes).toBeGreaterThan(20 * 1024 * kib);
  expect(budget.usedBytes).toBeLessThanOrEqual(budget.maxBytes);
  // Other connections are served even if the budget is almost full.
  const full = budget.account();
  full.add(budget.maxBytes - budget.usedBytes - 50 * kib);
  expect(await client.control('GetNode')).toMatchObject({ node_id: 'n' });
  full.give(full.usedBytes);
  deaf.destroy();
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
});

test('a watcher that reads nothing makes the agent hold a few hundred KiB, and then is ended', async () => {
  const deaf = deafClient();
  const code = begin(deaf, 'Watch');
  await vi.waitFor(() => expect(budget.usedBytes).toBeGreaterThan(100));
  const none = { workers: [], workersGone: [], pools: [], poolsGone: [], node: false };
  const record: NodeRecord = { kind: 'worker_exited', atMs: 1, pool: 'p', workerId: 'w', message: huge };
  const bytes: number[] = [];
  for (let event = 0; event < 5_000; event += 1) {
    for (const listener of listeners) listener({ revision: 2, ...none }, [record]);
    bytes.push(budget.usedBytes);
  }
  // It holds what was written, and no more once the log has forgotten the next message.
  expect(Math.max(...bytes)).toBeGreaterThan(200 * kib);
  expect(Math.max(...bytes)).toBeLessThan(400 * kib);
  expect(code()).toBeUndefined();
  deaf.destroy();
  await vi.waitFor(() => expect(budget.usedBytes).toBe(0));
});
