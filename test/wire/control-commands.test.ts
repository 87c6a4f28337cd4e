import { EventEmitter } from 'node:events';
import { expect, test } from 'vitest';
import type { ControlSource } from '../../src/wire/control.ts';
import { controlService } from '../../src/wire/control.ts';
import { nodeConfig, poolConfig, Simulation } from '../domain/simulation.ts';

/** Control over a simulated node. */
function scene(...pools: Parameters<typeof poolConfig>[0][]) {
  const simulation = new Simulation();
  simulation.tell({ type: 'config', config: nodeConfig(...pools.map(poolConfig)) });
  simulation.run(5_000);
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
    requestsOf: () => [],
    progressOf: () => null,
    nowMs: () => simulation.nowMs,
    toUnixMs: (ms) => ms,
    command: (command) => simulation.tell(command),
    subscribe: () => () => undefined,
    commandLine: [],
    leaving: new AbortController().signal,
    letGo: () => 0,
    checkConfig: async () => '',
  };
  const service = controlService(source) as unknown as Record<string, (call: object, done?: unknown) => void>;
  return {
    simulation,
    ask: (method: string, request: object) =>
      new Promise<Record<string, unknown>>((resolve, reject) => {
        service[method]?.(
          Object.assign(new EventEmitter(), { request }),
          (error: object | null, answer: Record<string, unknown>) => (error === null ? resolve(answer) : reject(error)),
        );
      }),
    /** The error that a streaming call ends with; undefined: it goes on. */
    watch: (request: object) => {
      const call = Object.assign(new EventEmitter(), { request, write: () => true });
      let ended: unknown;
      call.on('error', (error) => {
        ended = error;
      });
      service['Watch']?.(call);
      return ended;
    },
  };
}

const [invalidArgument, notFound, failedPrecondition] = [3, 5, 9];

test('a pool is scaled to the size that is asked for, and not to 0 because none is', async () => {
  const { simulation, ask } = scene({ size: 2 });
  await expect(ask('ScalePool', { pool: 'p' })).rejects.toEqual({
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
])('after %s one more worker is refused, with what opens the pool', async (drain, request, remedy) => {
  const { simulation, ask } = scene({ size: 1 });
  await ask(drain, request);
  const refused = ask('StartWorker', { pool: 'p' });
  await expect(refused).rejects.toMatchObject({ code: failedPrecondition });
  await expect(refused).rejects.toMatchObject({ details: expect.stringContaining(remedy) });
  expect(simulation.state.pools.get('p')).toMatchObject({ size: 1, open: false });
});

test('who watches a pool that is not there is told so', () => {
  const { watch } = scene({ name: 'p' }, { name: 'q' });
  expect(watch({ pool: 'r' })).toMatchObject({ code: notFound, details: expect.stringContaining('(p, q), got "r"') });
  expect(watch({ pool: 'q' })).toBeUndefined();
});

test("a worker shows the concurrency that it was started with, not the config's of now", async () => {
  const { simulation, ask } = scene({ size: 1, concurrency: 2 });
  simulation.behaviour = { ...simulation.behaviour, attachMs: Number.POSITIVE_INFINITY };
  simulation.tell({ type: 'config', config: nodeConfig(poolConfig({ size: 1, concurrency: 8 })) });
  const { workers } = (await ask('ListWorkers', {})) as { workers: { generation: number; concurrency: number }[] };
  expect(workers).toMatchObject([
    { generation: 1, concurrency: 2 },
    { generation: 2, concurrency: 8 },
  ]);
});
