import { crc32 } from 'node:zlib';
import { beforeEach, expect, test, vi } from 'vitest';
import { receive } from '../../src/agent/worker-frames.ts';
import type { HeldRequest } from '../../src/dispatch/worker.ts';
import type { Event } from '../../src/domain/event.ts';
import type { ProvenLink, WorkerFrame, WorkerHello } from '../../src/grpc/worker-link/source.ts';
import type { WorkerHandle } from '../../src/workers/handle.ts';
import { newHandle } from '../../src/workers/handle.ts';
import type { WorkerParts } from '../../src/workers/parts.ts';
import { warmUpLinkId } from '../../src/workers/warm-up.ts';
import { createWorkers } from '../../src/workers/workers.ts';
import { DispatchHost, poolLimits } from '../dispatch/host.ts';
import { poolConfig } from '../domain/simulation.ts';

// From a worker's hello until dispatch has the worker, which may take as long as a write to the ledger.

const workerId = 'p-0-abcdefgh';

let host: DispatchHost;
let ready: { resolve(): void };
let handle: WorkerHandle;
let workers: ReturnType<typeof createWorkers>;

beforeEach(() => {
  host = new DispatchHost();
  host.dispatch.setPool('p', poolLimits());
  const events: Event[] = [];
  const enqueue = (event: Event): void => void events.push(event);
  const parts = {
    ...{ agentId: 'a', linkPath: '/run/link', dispatch: host.dispatch, enqueue, enqueueDeferred: enqueue },
    nowMs: () => host.nowMs,
    ledger: { enter: () => new Promise<void>((resolve) => (ready = { resolve })) },
    log: { warn: () => undefined },
  } as unknown as WorkerParts;
  workers = createWorkers(parts);
  handle = newHandle(parts, {
    entry: { worker_id: workerId, started_at_boot_ms: 0, concurrency: 1 } as never,
    pool: poolConfig(),
    begun: { path: '', read: () => 1, remove: () => undefined },
    cgroup: undefined,
    adopted: true,
  });
  (workers.handles as Map<string, WorkerHandle>).set(workerId, handle);
});

function link(): ProvenLink {
  const nothing = vi.fn();
  const words = ['request', 'cancel', 'pause', 'resume', 'ack', 'replay', 'ping', 'drain', 'limit', 'stop', 'close'];
  return {
    ...Object.fromEntries(words.map((word) => [word, nothing])),
    ...{ recall: () => [], unwritten: () => new Set<number>() },
    replay: vi.fn(),
  } as unknown as ProvenLink;
}

function hello(held: readonly HeldRequest[]): WorkerHello {
  return {
    ...{ protocol: 1, worker_id: workerId, token: '', pid: 1, sdk_version: '', python_version: '', marks_begun: true },
    commands: [{ name: 'c', streams: false, summary: '', is_async: false }],
    ...{ writes_stacks: false, interpreter_ms: 0, import_ms: 0, hooks_ms: 0 },
    resumed: { last_id: 1, completed: 0, failed: 0, held, away_ms: 0 },
  };
}

function heldRequest(patch: Partial<HeldRequest> = {}): HeldRequest {
  return {
    ...{ id: 1, request_id: 'a', command: 'c', keep: true, ended: false, remaining_ms: 5_000, age_ms: 10 },
    ...{ payload_bytes: 7, payload_crc32: crc32(Buffer.from('payload')), cancelled: false, ...patch },
  };
}

function frame(words: Partial<WorkerFrame>): void {
  const silence = { hello: null, pong: null, leaving: false, leaving_reason: '', replayed: [], returned: [] };
  const loop = { enqueue: () => undefined, enqueueDeferred: () => undefined };
  const apps = { receive: () => undefined };
  const parts = { workers, dispatch: host.dispatch, loop, apps, nowMs: () => host.nowMs };
  receive(parts, workerId, { ...silence, chunks: [], results: [], progress: [], telemetry: Buffer.alloc(0), ...words });
}

function answer(id: number): void {
  frame({ results: [{ id, payload: Buffer.from('done'), content_type: '', error: null, ran_us: 5 }] });
}

function admit(): void {
  workers.admit({ type: 'admit', workerId, pool: 'p', maxRequests: 0, paused: false });
}

async function becomeReady(): Promise<void> {
  workers.noteReady(workerId, 1);
  admit();
  await Promise.resolve();
}

test('a request that ends while the ledger is written takes no place in its worker', async () => {
  workers.attach(hello([heldRequest({ keep: false })]), link());
  await becomeReady();
  answer(1);
  ready.resolve();
  await vi.waitFor(() => expect(host.dispatch.poolStats('p').capacity).toBe(1));
  expect(host.dispatch.poolStats('p').inFlight).toBe(0);
});

test('a named request that ends while the ledger is written has its answer replayed to who asks', async () => {
  const current = link();
  workers.attach(hello([heldRequest()]), current);
  await becomeReady();
  answer(1);
  ready.resolve();
  await vi.waitFor(() => expect(host.dispatch.poolStats('p').capacity).toBe(1));
  const told = host.submit({ requestId: 'a', hasCallerId: true });
  expect(current.replay).toHaveBeenCalledWith(1);
  frame({ replayed: [1] });
  answer(1);
  expect(told.result).toBe('done');
});

test('a request keeps its deadline, however long the ledger is written', async () => {
  workers.attach(hello([heldRequest({ remaining_ms: 400 })]), link());
  await becomeReady();
  host.nowMs += 300;
  ready.resolve();
  await vi.waitFor(() => expect(host.dispatch.poolStats('p').capacity).toBe(1));
  expect(host.armedAtMs).toBe(host.nowMs + 100);
});

test('a request that is given back while the ledger is written is not taken for one that runs', async () => {
  workers.attach(hello([heldRequest()]), link());
  await becomeReady();
  frame({ returned: [1] });
  ready.resolve();
  await vi.waitFor(() => expect(host.dispatch.poolStats('p').capacity).toBe(1));
  expect(host.dispatch.poolStats('p').inFlight).toBe(0);
});

test('a warm-up that ran on while the link was away takes no place once the worker is ready', async () => {
  workers.attach(hello([heldRequest({ id: warmUpLinkId, request_id: `warm-up-${workerId}`, keep: false })]), link());
  workers.warmUp({ type: 'warm-up', workerId, command: 'c', payload: '{}' });
  answer(warmUpLinkId);
  await becomeReady();
  ready.resolve();
  await vi.waitFor(() => expect(host.dispatch.poolStats('p').capacity).toBe(1));
  expect(host.dispatch.poolStats('p').inFlight).toBe(0);
});

test('a worker that leaves and dials again is asked for what was lost with its link', async () => {
  workers.attach({ ...hello([]), resumed: null }, link());
  admit();
  await vi.waitFor(() => expect(host.dispatch.poolStats('p').capacity).toBe(1));
  const told = host.submit({ requestId: 'a', hasCallerId: true });
  frame({ leaving: true });
  const again = link();
  workers.attach(hello([heldRequest({ ended: true })]), again);
  admit();
  await vi.waitFor(() => expect(again.replay).toHaveBeenCalledWith(1));
  frame({ replayed: [1] });
  answer(1);
  expect(told.result).toBe('done');
});
