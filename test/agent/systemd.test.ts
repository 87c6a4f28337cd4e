import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Agent } from '../../src/agent/agent.ts';
import type { Service } from '../../src/agent/systemd.ts';
import { serveManager, statusOf } from '../../src/agent/systemd.ts';
import type { State } from '../../src/domain/state.ts';
import { initialState } from '../../src/domain/state.ts';
import type { Listener } from '../../src/grpc/control/source.ts';
import type { Log } from '../../src/telemetry/log.ts';
import { nodeConfig, poolConfig, Simulation } from '../domain/simulation.ts';

const changes = { revision: 1, workers: [], workersGone: [], pools: [], poolsGone: [], node: false };

let said: string[];
let logged: string[];
let lateMs: number;
let state: State;
let changed: Listener;
let service: Service;

beforeEach(() => {
  vi.useFakeTimers();
  said = [];
  logged = [];
  lateMs = 0;
  state = initialState();
  const agent = {
    state: () => state,
    subscribe: (listener: Listener) => {
      changed = listener;
      return () => undefined;
    },
    lateMs: () => lateMs,
  } as unknown as Agent;
  const log = { error: (message: string) => logged.push(message) } as unknown as Log;
  const notify = async (...lines: readonly string[]): Promise<void> => {
    said.push(...lines);
  };
  service = serveManager({ watchdogMs: 20_000, sockets: [], notify }, agent, log);
});

afterEach(() => {
  service.close();
  vi.useRealTimers();
});

describe('the watchdog', () => {
  test('is notified at half of its timeout', () => {
    vi.advanceTimersByTime(60_000);
    expect(said).toEqual(['WATCHDOG=1', 'WATCHDOG=1', 'WATCHDOG=1', 'WATCHDOG=1', 'WATCHDOG=1', 'WATCHDOG=1']);
  });

  test('is not notified while the loop makes no progress, and soon after it does again', () => {
    lateMs = 3_500;
    vi.advanceTimersByTime(15_000);
    expect(said).toEqual([]);
    expect(logged).toEqual(["the loop is 3500 ms late: systemd's watchdog gets no sign of life"]);
    lateMs = 0;
    vi.advanceTimersByTime(1_000);
    expect(said).toEqual(['WATCHDOG=1']);
  });
});

describe('the status', () => {
  test('is sent at most once a second, and only when it has changed', () => {
    const simulation = new Simulation();
    simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 2 })) });
    state = simulation.state;
    for (let i = 0; i < 20; i += 1) {
      changed(changes, []);
      vi.advanceTimersByTime(100);
    }
    expect(said).toEqual(['STATUS=0 of 2 workers ready']);
    simulation.run(10_000, () => simulation.ready().length === 2);
    state = simulation.state;
    changed(changes, []);
    vi.advanceTimersByTime(999);
    expect(said).toHaveLength(1);
    vi.advanceTimersByTime(1);
    expect(said.at(-1)).toBe('STATUS=2 of 2 workers ready');
  });

  test('shows a draining node, a refused reload and a stop', () => {
    const node = initialState().node;
    const of = (patch: Partial<State['node']>) => statusOf({ ...initialState(), node: { ...node, ...patch } });
    expect(of({ phase: 'draining' })).toBe('0 of 0 workers ready, draining: no new requests');
    expect(of({ configError: 'pools: ' })).toBe('0 of 0 workers ready, the last reload was refused');
    expect(of({ phase: 'stopping' })).toBe('stopping: 0 workers are left');
  });
});

test('stopping asks systemd for the time that the longest drain may take', () => {
  const simulation = new Simulation();
  const drain = { timeoutMs: 100_000, killAfterMs: 10_000 };
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ drain })) });
  state = simulation.state;
  service.stopping();
  expect(said).toEqual(['STOPPING=1', 'EXTEND_TIMEOUT_USEC=130000000']);
});
