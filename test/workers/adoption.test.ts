import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openCgroups } from '../../src/os/cgroup/cgroup.ts';
import type { ProcessIdentity } from '../../src/os/process/identity.ts';
import type { Ledger, LedgerEntry } from '../../src/os/storage/ledger.ts';
import { openLedger } from '../../src/os/storage/ledger.ts';
import { seal, unseal } from '../../src/os/storage/sealed-file.ts';
import { classifySurvivors, leftoversOf, reapLeftovers } from '../../src/workers/restore.ts';
import { nodeConfig, poolConfig } from '../domain/simulation.ts';
import { isProcessRunning, shellWorker } from '../os/shell-worker.ts';

// Real processes: a worker of an earlier agent, and an unrelated process.

/** Unique to this run: other runs may be in progress on this host. */
const workerId = `p-0-${randomBytes(4).toString('hex')}`;
const config = nodeConfig(poolConfig());
const log = { info: () => undefined, warn: () => undefined, error: () => undefined } as never;
/** Written by the first version of the format, which all later versions must read. */
const firstVersion = readFileSync(join(import.meta.dirname, '../fixtures/ledger/v1.ledger'), 'utf8');

let state: string;
let ledger: Ledger;
let worker: ProcessIdentity;
let stranger: ProcessIdentity;
let end: (() => void)[];

beforeEach(async () => {
  state = mkdtempSync(join(tmpdir(), 'pitwarden-adoption-'));
  ledger = openLedger(state);
  end = [];
  const live = async (id: string): Promise<ProcessIdentity> => {
    const { identity, spawned } = await shellWorker(state, 'exec sleep 1000', { workerId: id });
    end.push(() => {
      process.kill(identity.pid, 'SIGKILL');
      spawned.close();
    });
    return identity;
  };
  worker = await live(workerId);
  stranger = await live('somebody-0-else2345');
});

afterEach(() => {
  for (const each of end) {
    try {
      each();
    } catch {
      // Already ended by the test.
    }
  }
  rmSync(state, { recursive: true, force: true });
});

const identityFields = ({ bootId, pid, startTime }: ProcessIdentity) => ({
  boot_id: bootId,
  pid,
  start_time: startTime,
});

function entryOf(patch: Partial<LedgerEntry> = {}): LedgerEntry {
  const found = unseal(firstVersion, 'pitwarden-ledger', [1]);
  if (!found.ok) throw new Error(found.why);
  return { ...(found.value as LedgerEntry), worker_id: workerId, ...identityFields(worker), ...patch };
}

function write(entry: object, id = workerId): void {
  writeFileSync(join(state, 'ledger', `${id}.json`), seal('pitwarden-ledger', 1, entry));
}

async function adopt(onSwept: () => void = () => undefined, unwantedGraceMs = 10_000) {
  const adoption = await classifySurvivors(ledger.read(), config);
  const swept: string[] = [];
  const told = (id: string): void => {
    swept.push(id);
    onSwept();
  };
  await reapLeftovers(adoption, ledger, openCgroups(), log, told, { unwantedGraceMs, sweepTimeoutMs: 10_000 });
  expect(swept.sort(), 'slots that are free again').toEqual(leftoversOf(adoption).map((left) => left.workerId));
  await ledger.settled();
  return adoption;
}

test('a worker with an entry of version 1 is adopted', async () => {
  write(entryOf());
  const { survivors } = await adopt();
  expect(survivors).toMatchObject([
    { identity: worker, entry: { worker_id: workerId, generation: 3, max_requests: 50, repeats_token: true } },
  ]);
  expect(ledger.read().entries).toHaveLength(1);
  expect(isProcessRunning(worker.pid)).toBe(true);
});

test('a worker whose pid was never recorded is found by the worker id that it carries', async () => {
  write(entryOf({ pid: 0, boot_id: '', start_time: '', state: 'spawning' }));
  const { survivors } = await adopt();
  expect(survivors).toMatchObject([{ identity: worker }]);
});

test('a worker that was never spawned is forgotten', async () => {
  write(entryOf({ worker_id: 'p-1-abcdefgh', pid: 0, boot_id: '', start_time: '' }), 'p-1-abcdefgh');
  expect((await adopt()).dead).toHaveLength(1);
  expect(ledger.read().entries).toEqual([]);
});

test('a worker whose pool was removed is ended together with its process tree', async () => {
  const stubborn = await shellWorker(state, 'trap "" TERM; sleep 1000 & echo $!; while :; do wait; done', {
    workerId: 'gone-0-abcdefgh',
  });
  const child = Number(await stubborn.line(1));
  write(
    entryOf({ worker_id: 'gone-0-abcdefgh', pool: 'gone', ...identityFields(stubborn.identity) }),
    'gone-0-abcdefgh',
  );
  const left: boolean[] = [];
  // The child would use all the time that it gets.
  const adoption = await adopt(() => left.push(isProcessRunning(child)), 200);
  expect(adoption.unwanted).toHaveLength(1);
  expect(left).toEqual([false]);
  expect([isProcessRunning(stubborn.identity.pid), isProcessRunning(child)]).toEqual([false, false]);
  expect(ledger.read().entries).toEqual([]);
  stubborn.spawned.close();
});

test('a stopped worker whose pool was removed exits when asked and need not be killed', async () => {
  const stopped = await shellWorker(state, 'trap "echo asked; exit 3" TERM; echo up; while :; do sleep 0.05; done', {
    workerId: 'gone-0-abcdefgh',
  });
  await stopped.line(1);
  process.kill(stopped.identity.pid, 'SIGSTOP');
  const entry = entryOf({ worker_id: 'gone-0-abcdefgh', pool: 'gone', ...identityFields(stopped.identity) });
  write(entry, 'gone-0-abcdefgh');
  await adopt();
  expect(await stopped.spawned.exited).toEqual({ code: 3, signal: null });
  expect(stopped.spawned.lastLines()).toContain('asked');
  stopped.spawned.close();
});

test('the remaining process tree of a dead worker is swept', async () => {
  const dies = await shellWorker(state, 'sleep 1000 & echo $!; exit', { workerId: 'p-1-abcdefgh' });
  const child = Number(await dies.line(1));
  await dies.spawned.exited;
  expect(isProcessRunning(child)).toBe(true);
  write(entryOf({ worker_id: 'p-1-abcdefgh', ...identityFields(dies.identity) }), 'p-1-abcdefgh');
  const left: boolean[] = [];
  expect((await adopt(() => left.push(isProcessRunning(child)))).dead).toHaveLength(1);
  expect(left).toEqual([false]);
  dies.spawned.close();
});

describe('no process is signalled unless it is proven to be ours: an entry with', () => {
  // Each file is intact, but its content is wrong.
  const cases: Record<string, () => [Partial<LedgerEntry>, string?]> = {
    'the pid of another process': () => [{ pid: stranger.pid }],
    'the identity of another process': () => [identityFields(stranger)],
    'the identity of another process, in a removed pool': () => [{ ...identityFields(stranger), pool: 'gone' }],
    'another start time': () => [{ start_time: '1' }],
    'no start time': () => [{ start_time: '' }],
    'another boot id': () => [{ boot_id: 'x' }],
    'no boot id': () => [{ boot_id: '' }],
    'the id of another worker': () => [{ worker_id: 'p-5-abcdefgh' }, 'p-5-abcdefgh'],
    'the pid of this process': () => [{ pid: process.pid }],
    'pid 1': () => [{ pid: 1 }],
    'a pid beyond the maximum': () => [{ pid: 2 ** 22 + 1 }],
    'a number that is not a pid': () => [{ pid: 2 ** 40 }],
  };
  test.each(Object.keys(cases))('%s', async (what) => {
    const [patch, id] = cases[what]?.() ?? [{}];
    write(entryOf(patch), id);
    const { survivors, unwanted } = await adopt();
    expect([survivors, unwanted]).toEqual([[], []]);
    // The worker itself carries its id, so it may be swept if its entry says that it is dead.
    expect(isProcessRunning(stranger.pid)).toBe(true);
  });
});
