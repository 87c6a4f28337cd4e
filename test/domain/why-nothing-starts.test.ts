import { describe, expect, test } from 'vitest';
import type { PoolConfig } from '../../src/domain/config.ts';
import { cause } from '../../src/domain/why-nothing-starts.ts';
import { healthy, nodeConfig, poolConfig, Simulation } from './simulation.ts';

const never = Number.POSITIVE_INFINITY;

function gates(simulation: Simulation): { open: boolean; why: string; refuseQueued: boolean }[] {
  return simulation.actions
    .filter((action) => action.type === 'set-admission')
    .map(({ open, why, refuseQueued }) => ({ open, why, refuseQueued }));
}

/** A pool whose workers all exit before they are ready, until `behaviour` changes. */
function failing(patch: Partial<PoolConfig> = {}): Simulation {
  const simulation = new Simulation();
  simulation.behaviour = { ...healthy, attachMs: never };
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 1, ...patch })) });
  return simulation;
}

function failStart(simulation: Simulation): void {
  expect(
    simulation.run(10_000, () => simulation.workers().some(({ pid, phase }) => pid > 0 && phase === 'starting')),
  ).toBe(true);
  const starting = simulation.workers().find(({ phase }) => phase === 'starting');
  simulation.die(simulation.process(starting), null);
  simulation.run(10);
}

describe('a pool whose starts fail', () => {
  test('refuses callers after the second failure, with the cause, and accepts them once a worker is ready', () => {
    const simulation = failing();
    failStart(simulation);
    expect(gates(simulation)).toEqual([]);
    failStart(simulation);
    const why = expect.stringMatching(
      /^pool p has no ready worker: its starts fail: p-0-\w+: .* before it was ready: the end$/,
    );
    expect(gates(simulation)).toEqual([{ open: false, why, refuseQueued: true }]);
    simulation.behaviour = { ...healthy };
    expect(simulation.run(10_000, () => simulation.ready().length === 1)).toBe(true);
    expect(gates(simulation).at(-1)).toMatchObject({ open: true });
  });

  test('starts over with another config', () => {
    const simulation = failing();
    failStart(simulation);
    failStart(simulation);
    simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 1, app: 'mended:app' })) });
    expect(gates(simulation).at(-1)).toMatchObject({ open: true });
  });

  test('keeps serving with a ready worker', () => {
    const simulation = new Simulation();
    simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 2 })) });
    expect(simulation.run(10_000, () => simulation.ready().length === 2)).toBe(true);
    simulation.behaviour = { ...healthy, attachMs: never };
    simulation.die(simulation.process(simulation.ready()[0]));
    for (let i = 0; i < 3; i += 1) failStart(simulation);
    expect(gates(simulation)).toEqual([]);
    // Its last worker exits too.
    simulation.die(simulation.process(simulation.ready()[0]));
    simulation.run(100);
    expect(gates(simulation).at(-1)).toMatchObject({ open: false, refuseQueued: true });
  });

  test('is reported as draining while it drains', () => {
    const simulation = failing();
    failStart(simulation);
    failStart(simulation);
    simulation.apply({ type: 'drain-pool', pool: 'p' });
    expect(gates(simulation).at(-1)).toMatchObject({ open: false, why: 'pool p is draining' });
  });
});

test('a pool that keeps crashing refuses callers during a long back-off, but not shortly before the next start', () => {
  const restart = { backoffMinMs: 8_000, backoffMaxMs: 8_000, resetAfterMs: 60_000, quarantineAfter: 3 };
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 1, restart })) });
  const crash = (): void => {
    expect(simulation.run(10_000, () => simulation.ready().length === 1)).toBe(true);
    simulation.die(simulation.process(simulation.ready()[0]));
    simulation.run(10);
  };
  // The first crash is followed by an immediate replacement.
  crash();
  expect(gates(simulation)).toEqual([]);
  crash();
  const why = expect.stringMatching(/waits before it starts the next \(restart\.backoff\): p-0-\w+: .*: the end$/);
  expect(gates(simulation)).toEqual([{ open: false, why, refuseQueued: true }]);
  expect(simulation.run(10_000, () => gates(simulation).at(-1)?.open === true)).toBe(true);
  expect(simulation.workers()).toEqual([]);
  expect(simulation.run(10_000, () => simulation.ready().length === 1)).toBe(true);
});

test('a pool whose first worker cannot be entered in the ledger, or lacks a host resource, refuses callers', () => {
  const simulation = new Simulation();
  simulation.behaviour = { ...healthy, spawnMs: never };
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 1 })) });
  const workerId = simulation.workers()[0]?.id ?? '';
  simulation.apply({ type: 'start-blocked', workerId, message: 'ENOSPC: no space left' });
  const why = 'pool p has no ready worker, and none can be started: ENOSPC: no space left';
  expect(gates(simulation)).toEqual([{ open: false, why, refuseQueued: true }]);
});

const said = (how: string, ...lines: string[]): string => `${how}; its last lines:\n${lines.join('\n')}`;

test.each([
  ['it wrote nothing', 'ended by SIGKILL', 'ended by SIGKILL'],
  [
    'it wrote a traceback: the exception, and the last frame of application code',
    said(
      'exited with code 3',
      'Traceback (most recent call last):',
      '  File "/v/lib/python3.11/site-packages/pitwarden/worker.py", line 104, in _load',
      '    module = importlib.import_module(name)',
      '  File "/usr/lib/python3.11/importlib/__init__.py", line 126, in import_module',
      '  File "<frozen importlib._bootstrap>", line 1204, in _gcd_import',
      '  File "/srv/app.py", line 3, in <module>',
      '    import numpyy',
      "ModuleNotFoundError: No module named 'numpyy'",
    ),
    "exited with code 3: ModuleNotFoundError: No module named 'numpyy' (/srv/app.py, line 3)",
  ],
  [
    'a library raised: the exception by its full name',
    said('exited with code 3', '  File "/srv/app.py", line 9, in <module>', 'torch.cuda.OutOfMemoryError: CUDA: 2 GiB'),
    'exited with code 3: torch.cuda.OutOfMemoryError: CUDA: 2 GiB (/srv/app.py, line 9)',
  ],
  [
    'it printed its own message: the last line',
    said('exited with code 1', 'no licence', '', 'ask somebody'),
    'exited with code 1: ask somebody',
  ],
])('the cause of a failure if %s', (_what, message, expected) => {
  expect(cause(message)).toBe(expected);
});
