import { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import protobuf from 'protobufjs';
import { expect, test, vi } from 'vitest';
import { rolesByMethod } from '../../src/grpc/access/roles.ts';
import { controlService } from '../../src/grpc/control/service.ts';
import type { ControlSource } from '../../src/grpc/control/source.ts';
import { nodeConfig, poolConfig, Simulation } from '../domain/simulation.ts';
import { noDesired, noReload } from './no-reload.ts';
import { noReport } from './no-report.ts';

const controlTypes = new protobuf.Root();
controlTypes.loadSync(new URL('../../proto/pitwarden/v1/control.proto', import.meta.url).pathname, { keepCase: true });
controlTypes.resolveAll();

/** Control over a simulated node. */
function scene(...pools: Parameters<typeof poolConfig>[0][]) {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: nodeConfig(...pools.map(poolConfig)) });
  simulation.run(5_000);
  const orders = { kept: Promise.resolve() };
  const source: ControlSource = {
    state: () => simulation.state,
    node: () => ({
      ...{ nodeId: 'n', agentId: 'a', version: '1', pid: 1, startedAtMs: 1, configPath: '', httpAddress: '' },
      ...{ listenAddress: '', warnings: [] },
    }),
    counters: () => undefined,
    recorded: () => undefined,
    poolNumbers: () => ({ queued: 0, queuedBytes: 0, inFlight: 0, completed: 0, failed: 0 }),
    exits: () => [],
    history: async () => null,
    requestsOf: () => [],
    progressOf: () => null,
    nowMs: () => simulation.nowMs,
    toUnixMs: (ms) => ms,
    command: (command) => simulation.apply(command),
    ordersKept: () => orders.kept,
    subscribe: () => () => undefined,
    report: noReport,
    followTelemetry: () => () => undefined,
    commandLine: [],
    leaving: new AbortController().signal,
    handOver: () => 0,
    checkConfig: async () => '',
    reload: noReload,
    desired: noDesired,
  };
  const service = controlService(source) as unknown as Record<string, (call: object, done?: unknown) => void>;
  return {
    simulation,
    orders,
    ask: (method: string, request: object) =>
      new Promise<Record<string, unknown>>((resolve, reject) => {
        service[method]?.(callOf(method, request), (error: object | null, answer: Record<string, unknown>) =>
          error === null ? resolve(answer) : reject(error),
        );
      }),
    /** The error with which a streaming call ends; undefined: the call goes on. */
    watch: (request: object) => {
      const call = Object.assign(callOf('Watch', request), { write: () => true });
      let ended: unknown;
      call.on('error', (error) => {
        ended = error;
      });
      service['Watch']?.(call);
      return ended;
    },
    /** The messages that a call of RollPool receives. */
    roll: (request: object) => {
      const views: object[] = [];
      const write = (view: object) => views.push(view);
      service['RollPool']?.(Object.assign(callOf('RollPool', request), { write, end: () => undefined }));
      return views;
    },
  };
}

function callOf(method: string, request: object): EventEmitter {
  const getPath = () => `/pitwarden.v1.Control/${method}`;
  return Object.assign(new EventEmitter(), { request, getPath, getPeer: () => 'a test' });
}

const [invalidArgument, notFound, failedPrecondition] = [3, 5, 9];

test('ScalePool sets the requested size, and refuses a request without a size', async () => {
  const { simulation, ask } = scene({ size: 2 });
  await expect(ask('ScalePool', { pool: 'p' })).rejects.toMatchObject({
    code: invalidArgument,
    details: 'size: expected 0 to 1000, got none',
  });
  await expect(ask('ScalePool', { pool: 'p', size: 1_001 })).rejects.toMatchObject({ code: invalidArgument });
  expect(simulation.state.pools.get('p')?.size).toBe(2);
  expect(await ask('ScalePool', { pool: 'p', size: 0 })).toMatchObject({ size: 0 });
});

test.each([
  ['DrainPool', { pool: 'p' }, 'ResumePool (pitwarden resume p)'],
  ['DrainNode', {}, 'ResumeNode (pitwarden resume)'],
])(
  'after %s StartWorker is refused, and the error names the call that opens the pool',
  async (drain, request, remedy) => {
    const { simulation, ask } = scene({ size: 1 });
    await ask(drain, request);
    const refused = ask('StartWorker', { pool: 'p' });
    await expect(refused).rejects.toMatchObject({ code: failedPrecondition });
    await expect(refused).rejects.toMatchObject({ details: expect.stringContaining(remedy) });
    expect(simulation.state.pools.get('p')).toMatchObject({ size: 1, open: false });
  },
);

test('Watch of an unknown pool fails with the names of the pools', () => {
  const { watch } = scene({ name: 'p' }, { name: 'q' });
  expect(watch({ pool: 'r' })).toMatchObject({ code: notFound, details: expect.stringContaining('(p, q), got "r"') });
  expect(watch({ pool: 'q' })).toBeUndefined();
});

test("a worker shows the concurrency that it was started with, not the current config's", async () => {
  const { simulation, ask } = scene({ size: 1, concurrency: 2 });
  simulation.behaviour = { ...simulation.behaviour, attachMs: Number.POSITIVE_INFINITY };
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 1, concurrency: 8 })) });
  const { workers } = (await ask('ListWorkers', {})) as { workers: { generation: number; concurrency: number }[] };
  expect(workers).toMatchObject([
    { generation: 1, concurrency: 2 },
    { generation: 2, concurrency: 8 },
  ]);
});

test.each([
  ['ScalePool', { pool: 'p', size: 2 }],
  ['StartWorker', { pool: 'p' }],
  ['DrainPool', { pool: 'p' }],
  ['DrainNode', {}],
])('%s takes effect at once, and is answered when the disk has the order', async (method, request) => {
  const { simulation, ask, orders } = scene({ size: 1 });
  const before = simulation.state;
  let keep = (): void => undefined;
  orders.kept = new Promise((resolve) => {
    keep = resolve;
  });
  const answer = vi.fn();
  const asked = ask(method, request).then(answer);
  await nextTurn();
  expect(answer).not.toHaveBeenCalled();
  expect(simulation.state.revision).toBeGreaterThan(before.revision);
  keep();
  await asked;
  expect(answer).toHaveBeenCalledOnce();
});

test('a roll is reported to its caller when the disk has it', async () => {
  const { simulation, roll, orders } = scene({ size: 1 });
  let keep = (): void => undefined;
  orders.kept = new Promise((resolve) => {
    keep = resolve;
  });
  const views = roll({ pool: 'p' });
  await nextTurn();
  expect(simulation.state.pools.get('p')?.roll?.phase).toBe('running');
  expect(views).toEqual([]);
  keep();
  await nextTurn();
  expect(views).toMatchObject([{ roll_id: expect.stringMatching(/^roll-/) }]);
});

/** Methods that change something. */
const changingMethods = [...rolesByMethod]
  .filter(([path, roles]) => path.startsWith('/pitwarden.v1.Control/') && !roles.includes('viewer'))
  .map(([path]) => path.split('/').at(-1) ?? '');

test.each(changingMethods)('%s takes request_id and if_revision', (method) => {
  const type = controlTypes.lookupService('pitwarden.v1.Control').methods[method]?.resolvedRequestType;
  expect(type?.fields['request_id']).toMatchObject({ id: 14, type: 'string' });
  expect(type?.fields['if_revision']).toMatchObject({ id: 15, type: 'uint64', options: { proto3_optional: true } });
});

test('StartWorker twice with one request_id starts one worker', async () => {
  const { simulation, ask } = scene({ size: 1 });
  const first = await ask('StartWorker', { pool: 'p', request_id: 'r1' });
  simulation.run(5_000);
  expect(await ask('StartWorker', { pool: 'p', request_id: 'r1' })).toEqual(first);
  expect(simulation.state.pools.get('p')?.size).toBe(2);
  await ask('StartWorker', { pool: 'p', request_id: 'r2' });
  expect(simulation.state.pools.get('p')?.size).toBe(3);
});

test('a call is known by its request_id for 10 minutes', async () => {
  const { simulation, ask } = scene({ size: 1 });
  await ask('StartWorker', { pool: 'p', request_id: 'r' });
  simulation.run(600_001);
  await ask('StartWorker', { pool: 'p', request_id: 'r' });
  expect(simulation.state.pools.get('p')?.size).toBe(3);
});

test('a repeated RollPool follows the roll that the first call began', async () => {
  const { roll } = scene({ size: 1 });
  const calls = [roll({ pool: 'p', request_id: 'r' }), roll({ pool: 'p', request_id: 'r' })];
  await vi.waitFor(() => expect(calls.every((views) => views.length > 0)).toBe(true));
  const [first, second] = calls.map(([view]) => (view as { roll_id: string }).roll_id);
  expect(first).not.toBe('');
  expect(second).toBe(first);
});

test('if_revision: a call at the present revision is carried out, and at any other it is refused', async () => {
  const { simulation, ask } = scene({ size: 1 });
  const { revision } = simulation.state;
  await expect(ask('ScalePool', { pool: 'p', size: 2, if_revision: revision - 1 })).rejects.toMatchObject({
    code: 10,
    details: `if_revision: expected the present revision, which is ${revision}, got ${revision - 1}: read the node again, then decide again`,
  });
  expect(simulation.state.pools.get('p')?.size).toBe(1);
  await ask('ScalePool', { pool: 'p', size: 2, if_revision: revision });
  expect(simulation.state.pools.get('p')?.size).toBe(2);
});

test.each([
  ['x'.repeat(129), /got 129 characters$/],
  ['two words', /got "two words"$/],
  ['\u001b[31m', /got "\\u001b\[31m"$/],
])('a request_id that is too long or not printable is refused: %j', async (request_id, details) => {
  const { ask } = scene({ size: 1 });
  await expect(ask('ResumePool', { pool: 'p', request_id })).rejects.toMatchObject({
    code: invalidArgument,
    details: expect.stringMatching(details),
  });
});
