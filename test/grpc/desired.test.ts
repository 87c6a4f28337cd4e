import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { expect, onTestFinished, test } from 'vitest';
import { createDesired } from '../../src/agent/desired.ts';
import type { Intent } from '../../src/domain/state.ts';
import type { Identity } from '../../src/grpc/access/identity.ts';
import type { Role } from '../../src/grpc/access/roles.ts';
import { roles } from '../../src/grpc/access/roles.ts';
import { onNode, scalePool } from '../../src/grpc/control/commands.ts';
import type { Caller } from '../../src/grpc/control/control-answers.ts';
import { releaseNode, setDesired } from '../../src/grpc/control/desired.ts';
import { unlessManaged } from '../../src/grpc/control/managed.ts';
import type { ControlSource } from '../../src/grpc/control/source.ts';
import type { IntentFile } from '../../src/os/storage/intent-file.ts';
import { openIntentFile } from '../../src/os/storage/intent-file.ts';
import { nodeConfig, poolConfig, Simulation } from '../domain/simulation.ts';

const callerOf = (name: string, ...granted: Role[]): Caller => {
  const identity: Identity = { name, roles: new Set(granted), pools: null };
  return { method: 'ScalePool', identity, peer: 'a test' };
};
const controller = callerOf('spiffe://test/controller/r1', 'controller');
const operator = callerOf('spiffe://test/role/operator', 'operator');
/** At control.sock. */
const local = callerOf('a caller at control.sock', ...roles);

/** A simulated node whose intents are stored in real files. */
function scene(file?: IntentFile) {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig({ size: 1 }), poolConfig({ name: 'q', size: 1 })) });
  simulation.run(5_000);
  const directory = mkdtempSync(join(tmpdir(), 'pitwarden-desired-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  const loop = {
    state: () => simulation.state,
    applyNow: (event: Parameters<Simulation['apply']>[0]) => simulation.apply(event),
  };
  const desired = createDesired({ loop, file: file ?? openIntentFile(directory), nowMs: () => simulation.nowMs });
  const source = {
    state: loop.state,
    node: () => ({ nodeId: 'n' }),
    command: loop.applyNow,
    ordersKept: () => Promise.resolve(),
    poolNumbers: () => ({ queued: 0, queuedBytes: 0, inFlight: 0, completed: 0, failed: 0 }),
    toUnixMs: (ms: number) => ms,
    desired,
  } as unknown as ControlSource;
  return {
    simulation,
    stored: () => openIntentFile(directory).read().intent,
    set: (patch: object = {}, caller = controller) => setDesired(source, { ...request, ...patch }, caller),
    release: (patch: object = {}, caller = controller) => releaseNode(source, patch as never, caller),
    scale: (size: number, caller: Caller, force = false) => {
      const asked = { pool: 'p', size, force };
      return unlessManaged(source, asked, caller, () => scalePool(source, asked));
    },
    drainNode: (caller: Caller) =>
      unlessManaged(source, {}, { ...caller, method: 'DrainNode' }, () => onNode(source, { type: 'drain-node' })),
    size: () => simulation.state.pools.get('p')?.size,
  };
}

const pool = (name: string, size: number, admission = 'POOL_ADMISSION_OPEN') => ({ pool: name, size, admission });
const request = { cluster_uid: 'c', epoch: 2, generation: 3, pools: [pool('q', 1), pool('p', 3)], drained: false };

test('an intent is stored, takes effect, and is answered with what it changed', async () => {
  const { set, stored, size, simulation } = scene();
  expect(await set()).toMatchObject({
    ...{ cluster_uid: 'c', epoch: 2, generation: 3, changed: true, revision: simulation.state.revision },
    plan: { pools: [{ pool: 'p', size_now: 1, size_planned: 3 }] },
  });
  expect(size()).toBe(3);
  expect(stored()).toEqual(simulation.state.node.intent);
  expect(await set()).toMatchObject({ epoch: 2, generation: 3, changed: false, plan: { pools: [], node: [] } });
});

test('a dry_run answers the plan and stores nothing', async () => {
  const { set, stored, size } = scene();
  expect(await set({ dry_run: true })).toMatchObject({ epoch: 0, changed: true, plan: { pools: [{ pool: 'p' }] } });
  expect([size(), stored()]).toEqual([1, null]);
  await expect(set({ dry_run: true, pools: [pool('x', 1)] })).rejects.toMatchObject({ code: status.NOT_FOUND });
});

test('the node changes only after the intent is stored, and not if that fails', async () => {
  let write: { done(): void; fail(error: Error): void } | undefined;
  const writes: Intent[] = [];
  const file: IntentFile = {
    read: () => ({ intent: null, problem: '' }),
    store: (intent) => {
      writes.push(intent);
      return new Promise((done, fail) => {
        write = { done, fail };
      });
    },
  };
  const { set, size } = scene(file);
  const first = set();
  await nextTurn();
  expect([writes.length, size()]).toEqual([1, 1]);
  write?.fail(new Error('ENOSPC'));
  await expect(first).rejects.toMatchObject({ code: status.UNAVAILABLE, details: expect.stringContaining('ENOSPC') });
  expect(size()).toBe(1);
  const second = set();
  await nextTurn();
  expect([writes.length, size()]).toEqual([2, 1]);
  write?.done();
  expect(await second).toMatchObject({ changed: true });
  expect(size()).toBe(3);
});

test('an agent that begins to stop while an intent is stored does not answer that it acts on it', async () => {
  const { set, simulation, stored } = scene();
  const call = set();
  simulation.apply({ type: 'shutdown', how: 'drain' });
  await expect(call).rejects.toMatchObject({ code: status.UNAVAILABLE, details: expect.stringContaining('stopping') });
  expect(stored()?.generation).toBe(3);
  await expect(set()).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
});

test('of calls that come together each is compared with the one before, and their number is bounded', async () => {
  const { set, size, stored } = scene();
  const calls = [5, 4, 6].map((generation) => set({ generation, pools: [pool('p', generation)] }));
  const outcomes = await Promise.allSettled(calls);
  expect(outcomes.map(({ status: is }) => is)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect([size(), stored()?.generation]).toEqual([6, 6]);
  const many = await Promise.allSettled(
    Array.from({ length: 30 }, () => set({ generation: 6, pools: [pool('p', 6)] })),
  );
  const refused = many.filter(({ status: is }) => is === 'rejected');
  expect(refused.length).toBe(10);
  expect(refused[0]).toMatchObject({ reason: { code: status.UNAVAILABLE } });
});

test.each<[object, RegExp]>([
  [{ cluster_uid: '' }, /^cluster_uid: expected 1 to 128/],
  [{ cluster_uid: 'a/b' }, /^cluster_uid: .* got "a\/b"/],
  [{ epoch: 0 }, /^epoch: expected 1 to \d+, got 0/],
  [{ generation: 2 ** 60 }, /^generation: expected 1 to/],
  [{ pools: [{ pool: 'p', admission: 'POOL_ADMISSION_OPEN' }] }, /^pools: p: size: expected 0 to 1000, got none/],
  [{ pools: [pool('p', 1_001)] }, /^pools: p: size: .* got 1001/],
  [{ pools: [pool('p', 1, 'POOL_ADMISSION_UNSPECIFIED')] }, /^pools: p: admission: expected POOL_ADMISSION_OPEN or/],
  [{ pools: [pool('p', 1), pool('q', 1), pool('p', 1)] }, /^pools: expected each pool once, got "p" more often/],
])('SetDesired refuses %j', async (patch, details) => {
  const { set, stored } = scene();
  await expect(set(patch)).rejects.toMatchObject({
    code: status.INVALID_ARGUMENT,
    details: expect.stringMatching(details),
  });
  expect(stored()).toBeNull();
});

test('on a managed node only controllers change what an intent says, and others by force', async () => {
  const { set, scale, drainNode, size, simulation } = scene();
  await scale(2, operator);
  await set();
  for (const caller of [operator, local]) {
    await expect(scale(4, caller)).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      details: expect.stringMatching(
        /managed by spiffe:\/\/test\/controller\/r1 \(cluster c, epoch 2, generation 3\).*pitwarden fleet scale p SIZE/,
      ),
    });
  }
  await expect(drainNode(local)).rejects.toMatchObject({ details: expect.stringContaining('pitwarden fleet drain n') });
  expect(size()).toBe(3);
  expect(await scale(4, operator, true)).toMatchObject({ size: 4, drift: 'size 4 instead of 3' });
  const forced = simulation.actions.findLast((action) => action.type === 'record');
  expect(forced).toMatchObject({
    record: {
      kind: 'intent_forced',
      pool: 'p',
      message: 'ScalePool by spiffe://test/role/operator: size 4 instead of 3',
    },
  });
  await scale(3, controller);
  expect(simulation.kinds().filter((kind) => kind === 'intent_forced')).toHaveLength(1);
});

test.each<[string, object, Caller, RegExp | null]>([
  ['its controller', { cluster_uid: 'c', epoch: 2 }, controller, null],
  ['a later leader', { cluster_uid: 'c', epoch: 3 }, controller, null],
  ['an earlier leader', { cluster_uid: 'c', epoch: 1 }, controller, /^epoch: expected at least 2, got 1/],
  [
    'a controller of another cluster',
    { cluster_uid: 'd', epoch: 9 },
    controller,
    /^cluster_uid: expected c, .* got "d"/,
  ],
  ['an operator', {}, operator, /managed by .*pitwarden release --force/],
  ['an operator, by force', { force: true }, operator, null],
])('a release by %s', async (_, patch, caller, refusal) => {
  const { set, release, scale, stored } = scene();
  await set();
  if (refusal !== null) {
    await expect(release(patch, caller)).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      details: expect.stringMatching(refusal),
    });
    expect(stored()?.released).toBe(false);
    return;
  }
  expect(await release(patch, caller)).toMatchObject({ managed_by: '', cluster_uid: '', epoch: 0 });
  expect(stored()?.released).toBe(true);
  expect(await scale(5, operator)).toMatchObject({ size: 5, drift: '' });
});
