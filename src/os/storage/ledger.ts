import { hash as digest } from 'node:crypto';
import { lstatSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Orders, PoolOrders, RollOrder } from '../../domain/event.ts';
import { rollPhases } from '../../domain/state.ts';
import { systemClock } from '../clock.ts';
import { limitConcurrency } from '../limit-concurrency.ts';
import { hasProc } from '../process/identity.ts';
import { isGoneError } from '../process/proc-error.ts';
import { explainIssue, moveAside, readSealed } from './read-sealed.ts';
import { writeSealed } from './sealed-file.ts';

/**
 * The durable record of this node's workers: one file each, `STATE_DIR/ledger/WORKER_ID.json`, and one file of operator
 * orders, `STATE_DIR/orders.json`. docs/registry.md describes the format. Only the agent that holds the directory's
 * lock writes.
 */

const kind = 'pitwarden-ledger';
const ordersKind = 'pitwarden-orders';
/** All of these versions are read; the last is written. Version 1 held `token`, the worker's credential itself. */
const versions: readonly number[] = [1, 2];
const version = 2;
const ordersVersions: readonly number[] = [1];
const ordersVersion = 1;
const verifier = z.string().regex(/^[0-9a-f]{64}$/);

/** These ids become file names, so they must be safe as paths. Files with other names are not ours. */
export const workerIdPattern = /^[a-z][a-z0-9_-]{0,62}-\d{1,7}-[a-z0-9]{8}$/;
const count = z.int().min(0);
const bootMs = z.number().min(0);

/** The limit of 64-bit Linux; elsewhere pids are smaller. */
const pidMax = 2 ** 22;

/** Unknown fields are ignored: a later release may add fields without a new version. */
const entryFields = z.object({
  worker_id: z.string().regex(workerIdPattern),
  pool: z.string().regex(/^[a-z][a-z0-9_-]{0,62}$/),
  slot: count,
  generation: z.int().min(1),
  /** The process: 0 and empty before it is spawned. Pid 1 is never a worker. */
  boot_id: z.string(),
  pid: z
    .int()
    .min(0)
    .max(pidMax)
    .refine((pid) => pid !== 1, 'expected 0, or the pid of a worker, got 1'),
  start_time: z.string().regex(/^\d*$/),
  /** The agent that wrote this entry. */
  agent_id: z.string(),
  state: z.enum(['spawning', 'starting', 'ready']),
  /** Milliseconds of the system's monotonic clock, which restarts at each boot; 0: not yet. */
  started_at_boot_ms: bootMs,
  spawned_at_boot_ms: bootMs,
  ready_at_boot_ms: bootMs,
  /** The worker's own limits, drawn when it was created; 0: no limit. */
  max_age_ms: z.number().min(0),
  max_requests: count,
  concurrency: z.int().min(1),
  /** The part of the config that it was started with. */
  fingerprint: z.string(),
  launch: z.string(),
  /** Verifies the worker's next token (grpc/worker-link/token.ts). No token can be derived from it. */
  verifier,
  /**
   * The worker was started by an agent that wrote version 1: it sends the same token for life, and the verifier is that
   * token's hash.
   */
  repeats_token: z.boolean(),
});

/** Without /proc an identity is a pid alone. */
const entrySchema = entryFields.refine(
  ({ pid, boot_id, start_time }) =>
    pid === 0 ? boot_id === '' && start_time === '' : !hasProc || (boot_id !== '' && start_time !== ''),
  { path: ['pid'], message: 'expected pid, boot_id and start_time of one process, or none of them' },
);

export type LedgerEntry = z.output<typeof entrySchema>;

/** The maximum size of a pool (config/schema.ts); with `max_surge` there can be twice as many workers. */
const poolSize = count.max(1_000);
const rollSize = count.max(2_000);
/** Maximum length of the message that says how a roll ended. */
const rollMessageMaxLength = 1_024;
const uint32 = count.max(2 ** 32 - 1);

const rollSchema = z
  .object({
    id: z.string().regex(/^roll-[a-z0-9]{8}$/),
    phase: z.enum(rollPhases),
    /** Unix times: monotonic times would mean nothing after a reboot. */
    started_at_ms: count,
    ended_at_ms: count,
    total: rollSize,
    old: z.array(z.string().regex(workerIdPattern)).max(2_000),
    skipped: rollSize,
    failures: uint32,
    max_failures: uint32,
    message: z.string().max(rollMessageMaxLength),
  })
  .refine(({ total, old, skipped }) => old.length + skipped <= total, {
    path: ['total'],
    message: 'expected no fewer than the workers in `old` and `skipped`',
  });

const ordersSchema = z.object({
  node_draining: z.boolean(),
  /** The intent that was in force; absent: none. */
  intent: z.string().max(512).optional(),
  pools: z.array(
    z.object({
      pool: z.string(),
      draining: z.boolean(),
      size: poolSize,
      config_size: poolSize,
      /** Absent in files of earlier agents. */
      roll: rollSchema.nullish(),
    }),
  ),
});

export interface LedgerSnapshot {
  readonly entries: readonly LedgerEntry[];
  readonly orders: Orders | null;
  /**
   * Files that are named like an entry but are not valid (torn, or of an unknown version), and why. They were moved
   * away.
   */
  readonly setAside: readonly { readonly file: string; readonly why: string }[];
  /** Other files in the folder. They are not ours and stay. */
  readonly foreign: readonly string[];
}

export interface Ledger {
  /**
   * Reads what an earlier agent has left. An invalid file never makes it throw, but an unreadable one does: no worker
   * is given up because of a read error.
   */
  read(): LedgerSnapshot;
  /** Resolves when the entry is on disk. Rejects if writing fails or takes longer than 5 s. */
  enter(entry: LedgerEntry): Promise<void>;
  /** Removes the entry of a worker that is gone. */
  forget(workerId: string): void;
  /** Rejects if the orders could not be written within 5 s; they are then retried with the next entry. */
  keepOrders(orders: Orders): Promise<void>;
  /** Settles when the newest orders are on disk or cannot be written. Never rejects. */
  ordersKept(): Promise<void>;
  forgetOrders(): void;
  /** Resolves when all pending writes are done; never, if the disk does not respond. */
  settled(): Promise<void>;
}

/**
 * Each write occupies one of Node's four threads for file operations. If the disk hangs, this many hang with it, and
 * the others serve the rest of the agent.
 */
const writesAtOnce = 2;
/** A slower disk counts as failed. A write that has started continues, and may still succeed. */
const writeTimeoutMs = 5_000;
const waitingMax = 10_000;

export function openLedger(stateDirectory: string): Ledger {
  const folder = join(stateDirectory, 'ledger');
  const aside = join(stateDirectory, 'ledger-set-aside');
  const ordersPath = join(stateDirectory, 'orders.json');
  makeFolder(folder);
  /** Pending writes by file: each waits for the one before. */
  const underway = new Map<string, Promise<void>>();
  const limited = limitConcurrency(writesAtOnce, { waitingMax, refusal: 'the disk does not answer' });
  const inTurn = (path: string, work: () => Promise<void>): Promise<void> => {
    const next = (): Promise<void> => limited(work);
    const done = (underway.get(path) ?? Promise.resolve()).then(next, next);
    const settled = done.catch(() => undefined);
    underway.set(path, settled);
    void settled.then(() => underway.get(path) === settled && underway.delete(path));
    return done;
  };
  /** Orders that are not on disk yet. If writing them failed, they are retried with the next entry. */
  let unkept: Orders | null = null;
  let ordersKept: Promise<void> = Promise.resolve();
  const writeOrders = async (): Promise<void> => {
    const orders = unkept;
    // An earlier turn has written them already.
    if (orders === null) return;
    const pools = orders.pools.map(poolOrdersToFile);
    await writeSealed(ordersPath, ordersKind, ordersVersion, {
      node_draining: orders.nodeDraining,
      intent: orders.intent,
      pools,
    });
    if (unkept === orders) unkept = null;
  };
  const keepOrders = (orders: Orders): Promise<void> => {
    unkept = orders;
    const kept = inTime(inTurn(ordersPath, writeOrders));
    ordersKept = kept.catch(() => undefined);
    return kept;
  };
  const pathOf = (workerId: string): string => join(folder, `${workerId}.json`);
  return {
    read: () => read(folder, ordersPath, aside),
    enter: async (entry) => {
      const path = pathOf(entry.worker_id);
      await inTime(inTurn(path, () => writeSealed(path, kind, version, entry)));
      if (unkept !== null) keepOrders(unkept).catch(() => undefined);
    },
    forget: (workerId) => {
      const path = pathOf(workerId);
      // If the removal fails, the entry names a process that is gone, which the next agent will notice.
      inTurn(path, () => rm(path, { force: true })).catch(() => undefined);
    },
    keepOrders,
    ordersKept: () => ordersKept,
    forgetOrders: () => {
      unkept = null;
      inTurn(ordersPath, () => rm(ordersPath, { force: true })).catch(() => undefined);
    },
    settled: async () => {
      while (underway.size > 0) await Promise.all(underway.values());
    },
  };
}

async function inTime(work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<never>((_, reject) => {
    const message = `expected the write to finish within ${writeTimeoutMs / 1000} s`;
    timer = setTimeout(() => reject(new Error(message)), writeTimeoutMs);
  });
  try {
    await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

function read(folder: string, ordersPath: string, aside: string): LedgerSnapshot {
  const entries: LedgerEntry[] = [];
  const setAside: { file: string; why: string }[] = [];
  const putAside = (path: string, name: string, why: string): void => {
    setAside.push({ file: path, why });
    moveAside(path, aside, name);
  };
  const foreign: string[] = [];
  for (const name of namesIn(folder)) {
    const path = join(folder, name);
    const [, workerId = '', end] = /^(.*?)\.json(\.new)?$/.exec(name) ?? [];
    if (!workerIdPattern.test(workerId)) {
      foreign.push(path);
      continue;
    }
    // Its writer died before the file was complete; the previous entry still counts.
    if (end !== undefined) {
      removeLeftover(path);
      continue;
    }
    const found = readEntry(path, name);
    if (typeof found === 'string') putAside(path, name, found);
    else entries.push(found);
  }
  const orders = readOrders(ordersPath);
  if (typeof orders === 'string') putAside(ordersPath, 'orders.json', orders);
  return { entries, orders: typeof orders === 'string' ? null : orders, setAside, foreign };
}

/** If the folder cannot be created, the first write of an entry reports it. */
function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch {
    return;
  }
}

function namesIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    // The folder could not be created.
    if (isGoneError(error)) return [];
    throw error;
  }
}

function removeLeftover(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // On a read-only disk the file stays, and the next start tries again.
  }
}

function readEntry(path: string, name: string): LedgerEntry | string {
  const value = readSealed(path, kind, versions);
  if (typeof value === 'string') return value;
  const parsed = entrySchema.safeParse(fromVersion1(value));
  if (!parsed.success) return explainIssue(parsed.error);
  if (name !== `${parsed.data.worker_id}.json`)
    return `worker_id: expected the id in the file's name, got ${parsed.data.worker_id}`;
  return parsed.data;
}

/** Converts an entry of version 1, which held the token itself. Later versions are returned unchanged. */
function fromVersion1(value: object): object {
  const { token, ...entry } = value as { readonly token?: unknown };
  if (typeof token !== 'string' || !/^[0-9a-f]{64}$/.test(token) || 'verifier' in entry) return value;
  const verifierOfToken = digest('sha256', Buffer.from(token, 'hex'), 'hex');
  return { ...entry, verifier: verifierOfToken, repeats_token: true };
}

function readOrders(path: string): Orders | null | string {
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return null;
  const value = readSealed(path, ordersKind, ordersVersions);
  if (typeof value === 'string') return value;
  const parsed = ordersSchema.safeParse(value);
  if (!parsed.success) return explainIssue(parsed.error);
  return {
    nodeDraining: parsed.data.node_draining,
    ...(parsed.data.intent === undefined ? {} : { intent: parsed.data.intent }),
    pools: parsed.data.pools.map(poolOrdersFromFile),
  };
}

type PoolOrdersInFile = z.output<typeof ordersSchema>['pools'][number];

function poolOrdersToFile({ configSize, roll, ...order }: PoolOrders): PoolOrdersInFile {
  return { ...order, config_size: configSize, roll: roll === null ? null : rollToFile(roll) };
}

function poolOrdersFromFile({ config_size: configSize, roll, ...order }: PoolOrdersInFile): PoolOrders {
  return { ...order, configSize, roll: roll == null ? null : rollFromFile(roll) };
}

function rollToFile({
  startedAtMs,
  endedAtMs,
  maxFailures,
  old,
  message,
  ...roll
}: RollOrder): z.output<typeof rollSchema> {
  return {
    ...roll,
    old: [...old],
    started_at_ms: Math.max(0, Math.round(systemClock.toUnixMs(startedAtMs))),
    ended_at_ms: endedAtMs === 0 ? 0 : Math.max(0, Math.round(systemClock.toUnixMs(endedAtMs))),
    max_failures: maxFailures,
    message: message.slice(0, rollMessageMaxLength).toWellFormed(),
  };
}

function rollFromFile({ started_at_ms, ended_at_ms, max_failures, ...roll }: z.output<typeof rollSchema>): RollOrder {
  const toMonotonicMs = (unixMs: number): number => unixMs - systemClock.toUnixMs(0);
  return {
    ...roll,
    startedAtMs: toMonotonicMs(started_at_ms),
    endedAtMs: ended_at_ms === 0 ? 0 : toMonotonicMs(ended_at_ms),
    maxFailures: max_failures,
  };
}
