import type { ChildProcess } from 'node:child_process';
import { execFileSync, spawn } from 'node:child_process';
import { lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { pause } from '../../../bench/processes.ts';
import { seal } from '../../../src/os/storage/sealed-file.ts';
import type { FuzzTarget } from '../agent.ts';
import type { Bytes } from '../bytes.ts';
import { editedBytes, mutated } from '../bytes.ts';
import type { Surface } from './surface.ts';

/** The state folder between two agents: entries of the ledger, the orders, and what does not belong there. */
interface Between {
  readonly end: 'SIGKILL' | 'SIGTERM';
  readonly changes: readonly Change[];
}

type Change =
  /** Bytes of one file, as a torn write or a bad disk leaves them. */
  | { readonly do: 'spoil'; readonly file: number; readonly bytes: Bytes['edits'] }
  /** One field of one file, under a right sum. `stranger`: pid, start time and boot of a process that is none of ours. */
  | { readonly do: 'forge'; readonly file: number; readonly field: string; readonly value: unknown }
  /**
   * For each value as many copies of an entry as it has fields, each with another field forged: one start of an agent tries them all.
   * Each is of a process that carries the worker's id, so that an agent with nothing against the entry takes it over.
   */
  | { readonly do: 'forge each'; readonly file: number; readonly values: readonly unknown[] }
  | { readonly do: 'forge stranger'; readonly file: number; readonly copy: boolean }
  | { readonly do: 'plant'; readonly name: string; readonly kind: 'folder' | 'FIFO' | 'link' | 'text' };

const names = [
  'p-0-aaaaaaaa.json',
  'ledger/p-0-aaaaaaaa.json',
  'ledger/p-1-bbbbbbbb.json.new',
  'ledger/x',
  'orders.json.new',
  'ledger/..json',
];
const values = fc.oneof(
  fc.constantFrom<unknown>(0, 1, 2, -1, 2 ** 22, 1e308, null, [], {}, '', '__proto__', 'x'.repeat(100_000), '../../x'),
  fc.constantFrom<unknown>([{ pool: 'p', draining: false, size: 2, config_size: 1 }], [{ pool: 'nobody' }], true),
);
/** The orders are the last of the files. */
const ordersFile = -1;
const wholeRoll = {
  ...{ id: 'roll-aaaaaaaa', phase: 'running', started_at_ms: 1, ended_at_ms: 0, total: 2, old: [], skipped: 0 },
  ...{ failures: 0, max_failures: 3, message: '' },
};
/** What may stand there of a roll. */
const rolls = fc
  .oneof(
    fc.constantFrom<unknown>(
      { total: 1e308 },
      { total: 1 },
      { old: ['p-0-aaaaaaaa', '../../x'] },
      { phase: 'done' },
      {},
    ),
    fc.constantFrom<unknown>(
      { old: Array(3_000).fill('p-0-aaaaaaaa') },
      { id: '__proto__' },
      { message: 'x'.repeat(1e5) },
    ),
  )
  .map((patch) => {
    return [{ pool: 'p', draining: false, size: 2, config_size: 2, roll: { ...wholeRoll, ...(patch as object) } }];
  });
/** Of an entry of version 2. */
const entryFields =
  'worker_id pool slot generation boot_id pid start_time agent_id state started_at_boot_ms spawned_at_boot_ms ready_at_boot_ms max_age_ms max_requests concurrency fingerprint launch verifier repeats_token'.split(
    ' ',
  );
const fields = [...entryFields, 'token', 'node_draining', 'pools'];
const firstForgedSlot = 10;
const file = fc.integer({ min: 0, max: 5 });

const answersWithinMs = 10_000;

/** Orders that are as they should be, for pools that there are no more, or hard to obey. */
const knownOrders = ['nobody', '__proto__', 'constructor', 'probe', 'p', 'p'].flatMap((pool, index) => {
  const order = { pool, draining: index % 2 === 0, size: 0, config_size: 1 };
  const roll = { ...wholeRoll, total: 2_000, old: Array(1_999).fill('p-0-aaaaaaaa'), skipped: 1 };
  return [order, { ...order, size: 2, roll }, { ...order, size: 1, roll: { ...wholeRoll, phase: 'done' } }];
});
/** No field of an entry may be null, so each of these has to be set aside. */
const nullEach: Between = { end: 'SIGKILL', changes: [{ do: 'forge each', file: 0, values: [null] }] };
/** Thrown in each round, one start of an agent for each. */
const known: readonly Between[] = [
  nullEach,
  { end: 'SIGKILL', changes: [{ do: 'forge each', file: 0, values: [-1, 'x'] }] },
  { end: 'SIGKILL', changes: [{ do: 'forge', file: ordersFile, field: 'pools', value: knownOrders }] },
  { end: 'SIGKILL', changes: [{ do: 'forge', file: ordersFile, field: 'pools', value: [null, 1, {}] }] },
];

export const state: Surface<Between> = {
  name: 'state',
  cases: fc.record({
    end: fc.constantFrom('SIGKILL' as const, 'SIGKILL' as const, 'SIGTERM' as const),
    changes: fc.array(
      fc.oneof(
        fc.record({
          do: fc.constant('spoil' as const),
          file,
          bytes: mutated(fc.constant(''), ['{', '\n', '0']).map(({ edits }) => edits),
        }),
        fc.record({ do: fc.constant('forge' as const), file, field: fc.constantFrom(...fields), value: values }),
        fc.record({
          do: fc.constant('forge' as const),
          file: fc.constant(ordersFile),
          field: fc.constant('pools'),
          value: rolls,
        }),
        fc.record({ do: fc.constant('forge each' as const), file, values: fc.tuple(values) }),
        fc.record({ do: fc.constant('forge each' as const), file, values: fc.tuple(values) }),
        fc.record({ do: fc.constant('forge stranger' as const), file, copy: fc.boolean() }),
        fc.record({
          do: fc.constant('plant' as const),
          name: fc.constantFrom(...names),
          kind: fc.constantFrom('folder' as const, 'FIFO' as const, 'link' as const, 'text' as const),
        }),
      ),
      { minLength: 1, maxLength: 6 },
    ),
  }),
  most: 2,
  harmsProbe: true,
  restarts: true,
  attack: async (target, cases) => {
    // A process of this user that no agent has started.
    const stranger = sleeper({});
    const standIns: ChildProcess[] = [];
    try {
      for (const between of [...known, ...cases]) {
        const { end, changes } = between;
        await target.end(end);
        for (const change of changes) apply(join(target.folder, 'state'), change, stranger.pid ?? 0, standIns);
        await target.start();
        // What is wrong with the agent by then is found by who called.
        await target.control('ResumeNode').catch(() => undefined);
        if (hasEnded(stranger)) break;
        for (const pool of ['p', 'liar', 'probe']) await target.control('ResumePool', { pool }).catch(() => undefined);
        // The next agent would hide that this one has ended.
        await answersOrEnds(target);
        if (target.dead() !== undefined) return target.output();
        const taken = between === nullEach ? entryFields.filter((field) => !isSetAside(target, field)) : [];
        if (taken.length > 0) return `an entry with null: expected it set aside, got it taken for ${taken.join(', ')}`;
      }
      // The agent may be about to signal it.
      await pause(50);
      return hasEnded(stranger)
        ? `a process that is not the agent's: expected it alive, got ended by ${stranger.signalCode}`
        : undefined;
    } finally {
      for (const each of [stranger, ...standIns]) each.kill('SIGKILL');
    }
  },
};

function sleeper(env: NodeJS.ProcessEnv): ChildProcess {
  return spawn('sleep', ['600'], { stdio: 'ignore', detached: true, env: { PATH: process.env['PATH'], ...env } });
}

function identityOf(pid: number): object {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return {
    pid,
    boot_id: readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim(),
    start_time: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19],
  };
}

function forgedId(slot: number): string {
  return `p-${slot}-forgedxx`;
}

function isSetAside(target: FuzzTarget, field: string): boolean {
  const id = forgedId(firstForgedSlot + fields.indexOf(field));
  return readdirSync(join(target.folder, 'state/ledger-set-aside')).some((name) => name.endsWith(`-${id}.json`));
}

async function answersOrEnds(target: FuzzTarget): Promise<void> {
  const endsAtMs = performance.now() + answersWithinMs;
  while (target.dead() === undefined && performance.now() < endsAtMs) {
    const answered = await target.control('GetNode').then(
      () => true,
      () => false,
    );
    if (answered) return;
    await pause(20);
  }
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

function apply(folder: string, change: Change, strangerPid: number, standIns: ChildProcess[]): void {
  if (change.do === 'plant') return plant(join(folder, change.name), change.kind);
  const ledger = readdirSync(join(folder, 'ledger'))
    // Not what was planted: to read a FIFO or /dev/zero would hold the fuzzer.
    .filter((name) => /-\d+-\w{8}\.json$/.test(name) && lstatSync(join(folder, 'ledger', name)).isFile())
    .sort();
  const files = [...ledger.map((name) => join(folder, 'ledger', name)), join(folder, 'orders.json')];
  const path = files.at(change.file % files.length) ?? '';
  let text: string;
  try {
    text = readFileSync(path, 'latin1');
  } catch {
    // No orders have been given.
    text = '';
  }
  if (change.do === 'spoil')
    return write(path, editedBytes({ valid: text, edits: change.bytes }).subarray(0, 2_000_000));
  const [head = '', body = '{"node_draining":false}'] = text.split('\n');
  const kind = head.split(' ')[0] || 'pitwarden-orders';
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(body) as Record<string, unknown>;
  } catch {
    value = {};
  }
  if (change.do === 'forge') return write(path, seal(kind, 1, { ...value, [change.field]: change.value }));
  if (change.do === 'forge each') {
    let slot = firstForgedSlot;
    for (const each of change.values) {
      for (const field of fields) {
        const id = forgedId(slot);
        const standIn = sleeper({ PITWARDEN_WORKER_ID: id });
        standIns.push(standIn);
        const entry = { ...value, worker_id: id, pool: 'p', slot, ...identityOf(standIn.pid ?? 0) };
        const forged = { ...entry, [field]: each };
        write(join(folder, 'ledger', `${id}.json`), seal('pitwarden-ledger', 1, forged));
        slot += 1;
      }
    }
    return;
  }
  const forged = { ...value, ...identityOf(strangerPid) };
  if (!change.copy) return write(path, seal(kind, 1, forged));
  const id = `p-7-${String(strangerPid).padStart(8, '0')}`;
  write(join(folder, 'ledger', `${id}.json`), seal('pitwarden-ledger', 1, { ...forged, worker_id: id, pool: 'p' }));
}

function plant(path: string, kind: 'folder' | 'FIFO' | 'link' | 'text'): void {
  try {
    if (kind === 'folder') mkdirSync(path);
    if (kind === 'FIFO') execFileSync('mkfifo', [path], { stdio: 'ignore' });
    if (kind === 'link') symlinkSync('/dev/zero', path);
    if (kind === 'text') writeFileSync(path, 'x', { flag: 'wx' });
  } catch {
    // Something stands there already.
  }
}

function write(path: string, content: string | Buffer): void {
  try {
    // Never into what was planted: a FIFO would hold the fuzzer.
    writeFileSync(`${path}.fuzz`, content);
    execFileSync('mv', ['-fT', `${path}.fuzz`, path], { stdio: 'ignore' });
  } catch {
    // A folder stands there.
  }
}
