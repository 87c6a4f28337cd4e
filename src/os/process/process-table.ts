import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { readText } from '../storage/read-text.ts';
import { runProcess } from './child-process.ts';
import type { ProcessIdentity, ProcessStat } from './identity.ts';
import { hasProc, isDead, isOfThisBoot, readStat, ticksPerSecond } from './identity.ts';
import { isForbiddenError, isGoneError } from './proc-error.ts';
import { isOwnUser } from './process-user.ts';
import { markOf, readMark } from './tree-mark.ts';

/** One process of the host. */
export interface ProcessRow {
  readonly pid: number;
  readonly ppid: number;
  readonly pgrp: number;
  readonly session: number;
  readonly startTime: string;
  readonly cpuMs: number;
  readonly rssBytes: number;
  /** State letter; empty if unknown. */
  readonly state: string;
  /** PITWARDEN_WORKER_ID of its environment; empty if not set. */
  readonly workerId: string;
  /** The mark that it inherited from a worker (tree-mark.ts); empty if none. */
  readonly mark: string;
  /** Whether it belongs to this user; only then do its id and mark prove anything. */
  readonly isOwn: boolean;
}

type Traces = Pick<ProcessRow, 'workerId' | 'mark' | 'isOwn'>;

export interface TreeTarget {
  /** The worker's main process, which leads its session and group. Its pid is 0 if it was never recorded. */
  readonly identity: ProcessIdentity;
  readonly workerId: string;
  /** Until when it is known to have lived, in clock ticks after boot; undefined if it was not seen to end. */
  readonly endedAtTicks?: number | undefined;
  /** Processes that were seen in its tree earlier: start times by pid. */
  readonly known?: ReadonlyMap<number, string> | undefined;
}

const tickMs = 1_000 / ticksPerSecond;
/** How many processes are read before other work gets its turn: about a millisecond. */
const readPerTurn = 64;
/** Workers are sampled together, so they share one snapshot. */
const freshMs = 100;
const psTimeoutMs = 10_000;
const workerIdPattern = /(?:^|\0)PITWARDEN_WORKER_ID=([^\0]*)/;

const pageBytes = hasProc ? readPageBytes() : 4096;

/** By pid and start time: environment and limits are read once per process. */
const traces = new Map<string, Traces>();
const noTraces: Traces = { workerId: '', mark: '', isOwn: true };
let latest: { readonly atMs: number; readonly table: Promise<readonly ProcessRow[]> } | undefined;
let underway: Promise<unknown> = Promise.resolve();
let next: Promise<readonly ProcessRow[]> | undefined;

/** All live processes; a snapshot younger than 100 ms is reused. Rejects if not all of them can be read. */
export function sharedProcessTable(): Promise<readonly ProcessRow[]> {
  const nowMs = performance.now();
  if (latest === undefined || nowMs - latest.atMs > freshMs) latest = { atMs: nowMs, table: freshProcessTable() };
  return latest.table;
}

/**
 * All live processes, by a snapshot that starts after this call. Only one is taken at a time: all callers that ask
 * meanwhile share the next one.
 */
export function freshProcessTable(): Promise<readonly ProcessRow[]> {
  next ??= underway.then(() => {
    next = undefined;
    const table = readProcessTable();
    underway = table.catch(() => undefined);
    return table;
  });
  return next;
}

/** Rejects if the processes cannot be read, for example for lack of descriptors. */
export async function readProcessTable(): Promise<readonly ProcessRow[]> {
  if (!hasProc) return readWithPs();
  const pids = readdirSync('/proc').filter((name) => name.charCodeAt(0) >= 49 && name.charCodeAt(0) <= 57);
  const rows: ProcessRow[] = [];
  const seen = new Set<string>();
  for (const [count, pid] of pids.entries()) {
    if (count % readPerTurn === readPerTurn - 1) await nextTurn();
    const stat = readVisibleStat(Number(pid));
    if (stat === undefined || isDead(stat.state)) continue;
    const key = `${pid} ${stat.startTime}`;
    seen.add(key);
    rows.push({
      pid: stat.pid,
      ppid: stat.ppid,
      pgrp: stat.pgrp,
      session: stat.session,
      startTime: stat.startTime,
      cpuMs: stat.cpuTicks * tickMs,
      rssBytes: stat.rssPages * pageBytes,
      state: stat.state,
      ...tracesOf(key, stat),
    });
  }
  for (const key of traces.keys()) if (!seen.has(key)) traces.delete(key);
  return rows;
}

/**
 * The processes of a worker's tree: its main process, processes of this user that carry its id or its mark, processes
 * seen in it before, members of its session if that is still the worker's, and all their descendants. A number alone
 * proves nothing, since it may have been reused; nor does anything that another user can write.
 */
export function membersOf(table: readonly ProcessRow[], target: TreeTarget): ProcessRow[] {
  const { identity, workerId } = target;
  const hasProcess = identity.pid >= firstPid;
  if (hasProcess && !isTimeless(table) && !isOfThisBoot(identity)) return [];
  const { byPid, carriers, marked, sessions, children } = indexOf(table);
  const found = new Map<number, ProcessRow>();
  const add = (row: ProcessRow, after: string): void => {
    if (isBornBefore(row, after)) return;
    found.set(row.pid, row);
  };
  for (const row of carriers.get(workerId) ?? []) if (row.isOwn) add(row, identity.startTime);
  for (const row of marked.get(markOf(workerId)) ?? []) if (row.isOwn) add(row, identity.startTime);
  for (const [pid, startTime] of target.known ?? []) {
    const row = byPid.get(pid);
    if (row?.startTime === startTime) add(row, identity.startTime);
  }
  if (hasProcess && isSessionOwn(table, target)) {
    for (const row of sessions.get(identity.pid) ?? []) add(row, identity.startTime);
  }
  // Iterating over a Map also visits entries that are added meanwhile.
  for (const parent of found.values()) {
    for (const row of children.get(parent.pid) ?? []) if (!found.has(row.pid)) add(row, parent.startTime);
  }
  return [...found.values()];
}

/**
 * Processes of other users that carry the worker's mark. They belong to its tree unless someone copied the mark, so
 * that is not proven.
 */
export function suspectsOf(table: readonly ProcessRow[], { workerId, known }: TreeTarget): ProcessRow[] {
  const marked = indexOf(table).marked.get(markOf(workerId)) ?? [];
  return marked.filter((row) => !row.isOwn && known?.get(row.pid) !== row.startTime);
}

/** Pid 1 is never a worker, and 0 means unknown. */
const firstPid = 2;

/**
 * Start times never decrease from parent to child, though they may be equal within a tick: a process cannot descend
 * from a younger one.
 */
function isBornBefore(row: ProcessRow, startTime: string): boolean {
  return startTime !== '' && Number(row.startTime) < Number(startTime);
}

/** `ps` reports no start times: there the pid alone has to suffice. */
function isTimeless(table: readonly ProcessRow[]): boolean {
  return table[0]?.startTime === '';
}

interface TableIndex {
  readonly byPid: ReadonlyMap<number, ProcessRow>;
  readonly carriers: ReadonlyMap<string, readonly ProcessRow[]>;
  readonly marked: ReadonlyMap<string, readonly ProcessRow[]>;
  readonly sessions: ReadonlyMap<number, readonly ProcessRow[]>;
  readonly children: ReadonlyMap<number, readonly ProcessRow[]>;
}

/** Cached by table: many workers are looked up in each. */
const indexes = new WeakMap<readonly ProcessRow[], TableIndex>();

function indexOf(table: readonly ProcessRow[]): TableIndex {
  const known = indexes.get(table);
  if (known !== undefined) return known;
  const index = {
    byPid: new Map(table.map((row) => [row.pid, row])),
    carriers: groupBy(table, (row) => row.workerId),
    marked: groupBy(table, (row) => row.mark),
    sessions: groupBy(table, sessionOf),
    children: groupBy(table, (row) => row.ppid),
  };
  indexes.set(table, index);
  return index;
}

/** `ps` reports only the process group, which is part of the session. */
function sessionOf({ session, pgrp }: ProcessRow): number {
  return session === 0 ? pgrp : session;
}

function groupBy<Key>(rows: readonly ProcessRow[], keyOf: (row: ProcessRow) => Key): Map<Key, ProcessRow[]> {
  const groups = new Map<Key, ProcessRow[]>();
  for (const row of rows) {
    const key = keyOf(row);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [row]);
    else group.push(row);
  }
  return groups;
}

/**
 * Whether the session with this number is the worker's. The kernel does not reuse a number while a session or group has
 * it, so a single process of ours in the session proves the whole: the leader itself, a process that carries the
 * worker's id, or a process that was born before the leader ended (a session is inherited at birth and cannot be
 * joined).
 */
function isSessionOwn(table: readonly ProcessRow[], target: TreeTarget): boolean {
  const { pid, startTime } = target.identity;
  if (startTime === '') return isTimeless(table);
  const { byPid, sessions } = indexOf(table);
  const leader = byPid.get(pid);
  if (leader !== undefined) return leader.startTime === startTime;
  const endedAtTicks = target.endedAtTicks ?? Number.NEGATIVE_INFINITY;
  return (sessions.get(pid) ?? []).some(
    (row) => (row.isOwn && row.workerId === target.workerId) || Number(row.startTime) <= endedAtTicks,
  );
}

/** Undefined if the process is gone or we may not read it. */
function readVisibleStat(pid: number): ProcessStat | undefined {
  try {
    return readStat(pid);
  } catch (error) {
    if (isForbiddenError(error)) return undefined;
    throw error;
  }
}

function tracesOf(key: string, { pid, ppid }: ProcessStat): Traces {
  const known = traces.get(key);
  if (known !== undefined) return known;
  const environment = readEnvironment(pid);
  const workerId = workerIdPattern.exec(environment)?.[1] ?? '';
  const mark = readMark(pid);
  // Another user can write any id into an environment, and copy any mark.
  const found = workerId === '' && mark === '' ? noTraces : { workerId, mark, isOwn: isOwnUser(pid) };
  if (isFinal(environment, workerId, ppid)) traces.set(key, found);
  return found;
}

/**
 * Whether an environment is final, so that it can be cached. An empty one may belong to a process in the middle of an
 * exec, except for kernel threads (children of pid 2), which never have one. Between fork and exec a child of the agent
 * shows the agent's own environment.
 */
function isFinal(environment: string, id: string, ppid: number): boolean {
  if (ppid === process.pid) return id !== '' && id !== process.env['PITWARDEN_WORKER_ID'];
  return environment !== '' || ppid === kernelThreadParent;
}

const kernelThreadParent = 2;

/** An environment that we may not read counts as final and without an id. */
function readEnvironment(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1');
  } catch (error) {
    if (isForbiddenError(error)) return closedEnvironment;
    if (isGoneError(error)) return '';
    throw error;
  }
}

const closedEnvironment = '\0';

/** The size of a memory page, as the kernel reports it for this process. */
function readPageBytes(): number {
  // A kernel may be built without this file.
  const match = /^KernelPageSize:\s+(\d+) kB$/m.exec(readText('/proc/self/smaps'));
  return match === null ? 4096 : Number(match[1]) * 1024;
}

/** Used without /proc: reports no times, memory or environments. */
export async function readWithPs(): Promise<readonly ProcessRow[]> {
  const columns = ['-A', '-o', 'pid=,ppid=,pgid=,state='];
  const { ok, stdout, why } = await runProcess('ps', columns, { timeoutMs: psTimeoutMs });
  if (!ok) throw new Error(`ps: ${why}`);
  return stdout.split('\n').flatMap((line) => {
    const [pid, ppid, pgrp, state] = line.trim().split(/\s+/);
    if (pid === undefined || pid === '' || isDead(state?.[0] ?? 'X')) return [];
    const group = Number(pgrp);
    return [
      {
        pid: Number(pid),
        ppid: Number(ppid),
        pgrp: group,
        session: 0,
        startTime: '',
        cpuMs: 0,
        rssBytes: 0,
        state: state?.charAt(0) ?? '',
        ...noTraces,
      },
    ];
  });
}
