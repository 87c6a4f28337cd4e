import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { openCgroups } from '../../src/os/cgroup/cgroup.ts';
import type { ProcessIdentity } from '../../src/os/process/identity.ts';
import { hasProc, identify, readStat } from '../../src/os/process/identity.ts';
import type { LedgerEntry } from '../../src/os/storage/ledger.ts';
import { openLedger } from '../../src/os/storage/ledger.ts';
import { seal } from '../../src/os/storage/sealed-file.ts';
import { classifySurvivors, reapLeftovers } from '../../src/workers/restore.ts';
import { nodeConfig, poolConfig } from '../domain/simulation.ts';
import { isRoot, needs } from '../needs.ts';
import { shellWorker } from '../os/shell-worker.ts';

/** Unique to this run: an aborted earlier run may have left a worker. */
const workerId = `p-0-${randomBytes(4).toString('hex')}`;
const config = nodeConfig(poolConfig());
const log = { info: () => undefined, warn: () => undefined, error: () => undefined } as never;

let state: string;
const end: (() => void)[] = [];

afterAll(() => {
  for (const each of end) each();
  rmSync(state, { recursive: true, force: true });
});

/** The real processes that entries name: a worker and its child, unrelated processes, this process and its parent. */
interface Scene {
  readonly tree: readonly number[];
  readonly worker: ProcessIdentity;
  readonly named: readonly ProcessIdentity[];
}

let scene: Scene;

beforeAll(async () => {
  state = mkdtempSync(join(tmpdir(), 'pitwarden-entries-'));
  const started = await shellWorker(state, 'sleep 1000 & echo $!; wait', { workerId });
  const child = identityOf(Number(await started.line(1)));
  end.push(() => {
    process.kill(-started.identity.pid, 'SIGKILL');
    started.spawned.close();
  });
  const strangers = [stranger({}), stranger({ PITWARDEN_WORKER_ID: 'z-0-abcdefgh' })];
  if (isRoot) strangers.push(stranger({ PITWARDEN_WORKER_ID: workerId }, 65_534));
  const worker = started.identity;
  scene = {
    worker,
    tree: [worker.pid, child.pid],
    named: [worker, child, ...strangers, identityOf(process.pid), identityOf(process.ppid), identityOf(1)],
  };
});

function stranger(env: Record<string, string>, uid?: number): ProcessIdentity {
  const child = spawn('sleep', ['1000'], {
    stdio: 'ignore',
    detached: true,
    env,
    ...(uid === undefined ? {} : { uid }),
  });
  end.push(() => void child.kill('SIGKILL'));
  return identityOf(child.pid ?? 0);
}

function identityOf(pid: number): ProcessIdentity {
  const identity = identify(pid);
  if (identity === undefined) throw new Error(`expected a process ${pid}`);
  return identity;
}

type Drawn = Pick<LedgerEntry, 'worker_id' | 'pool' | 'state' | 'boot_id' | 'pid' | 'start_time'>;

function drawEntry(): fc.Arbitrary<Drawn> {
  const pids = [0, 1, 2, -1, 2 ** 22, ...scene.named.map(({ pid }) => pid)];
  const starts = ['', '0', '1', ...scene.named.map(({ startTime }) => startTime)];
  const identity = fc.oneof(
    fc.constantFrom(...scene.named).map(({ bootId, pid, startTime }) => ({
      boot_id: bootId,
      pid,
      start_time: startTime,
    })),
    fc.constant({ boot_id: '', pid: 0, start_time: '' }),
    fc.record({
      boot_id: fc.constantFrom(scene.worker.bootId, '5f0c1d0e-0000-4000-8000-000000000000', ''),
      pid: fc.oneof(fc.constantFrom(...pids), fc.integer()),
      start_time: fc.oneof(fc.constantFrom(...starts), fc.stringMatching(/^\d{1,25}$/)),
    }),
  );
  const rest = fc.record({
    worker_id: fc.constantFrom(workerId, 'p-1-abcdefgh', 'q-0-abcdefgh'),
    pool: fc.constantFrom('p', 'gone'),
    state: fc.constantFrom('spawning' as const, 'starting' as const, 'ready' as const),
  });
  return fc.tuple(rest, identity).map(([one, other]) => ({ ...one, ...other }));
}

function write(folder: string, entry: Drawn): void {
  const whole: LedgerEntry = {
    ...entry,
    slot: 0,
    generation: 1,
    agent_id: 'an agent',
    started_at_boot_ms: 1,
    spawned_at_boot_ms: 1,
    ready_at_boot_ms: 1,
    max_age_ms: 0,
    max_requests: 0,
    concurrency: 1,
    fingerprint: '',
    launch: '',
    verifier: 'ab'.repeat(32),
    repeats_token: false,
  };
  writeFileSync(join(folder, 'ledger', `${entry.worker_id}.json`), seal('pitwarden-ledger', 2, whole));
}

/** Whether the entry names the worker itself in this boot, so that its tree may be signalled. */
function isWorkerNamed({ worker_id, boot_id, pid }: Drawn): boolean {
  return worker_id === workerId && (pid === 0 ? boot_id === '' : boot_id === scene.worker.bootId);
}

test('whatever an intact entry says, only the process tree of the worker that it names is signalled', {
  ...needs('/proc', hasProc),
  timeout: 60_000,
}, async () => {
  const group = readStat(scene.worker.pid)?.pgrp;
  expect(group).toBe(scene.worker.pid);
  await fc.assert(
    fc.asyncProperty(fc.array(drawEntry(), { minLength: 1, maxLength: 3 }), async (entries) => {
      const folder = mkdtempSync(join(state, 'ledger-'));
      const ledger = openLedger(folder);
      for (const entry of entries) write(folder, entry);
      // No signal is really sent, so one worker serves for all cases.
      const kill = vi.spyOn(process, 'kill').mockReturnValue(true);
      try {
        const adoption = await classifySurvivors(ledger.read(), config);
        await reapLeftovers(adoption, ledger, openCgroups(), log, () => undefined, {
          unwantedGraceMs: 1,
          sweepTimeoutMs: 1,
        });
        await ledger.settled();
        const signalled = kill.mock.calls.map(([number]) => number);
        const allowed = entries.some(isWorkerNamed) ? [...scene.tree, -scene.worker.pid] : [];
        expect(signalled.filter((number) => !allowed.includes(number))).toEqual([]);
        const adopted = [...adoption.survivors, ...adoption.unwanted].map(({ identity }) => identity);
        for (const { pid } of adopted) expect(scene.tree).toContain(pid);
      } finally {
        kill.mockRestore();
        rmSync(folder, { recursive: true, force: true });
      }
    }),
    { numRuns: 200 },
  );
});
