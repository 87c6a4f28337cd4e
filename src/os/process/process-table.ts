import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { readText } from '../storage/read-text.ts';
import { runProcess } from './child-process.ts';
import type { ProcessIdentity, ProcessStat } from './identity.ts';
import { hasProc, isDead, isOfThisBoot, readStat, ticksPerSecond } from './identity.ts';
import { isForbiddenError, isGoneError } from './proc-error.ts';
import { isOwnUser } from './process-user.ts';
import { markOf, readMark } from './tree-mark.ts';

/** One process of the system. */
export interface ProcessRow {
  readonly pid: number;
  readonly ppid: number;
  readonly pgrp: number;
  readonly session: number;
  readonly startTime: string;
  readonly cpuMs: number;
  readonly rssBytes: number;
  /** State letter; empty: unknown. */
  readonly state: string;
  /** PITWARDEN_WORKER_ID in its environment; empty: none. */
  readonly workerId: string;
  /** What it inherited from a worker (tree-mark.ts); empty: nothing. */
  readonly mark: string;
  /** Whether it is this user's; only then its id and mark prove anything. */
  readonly isOwn: boolean;
}

type Traces = Pick<ProcessRow, 'workerId' | 'mark' | 'isOwn'>;

export interface TreeTarget {
  /** The worker's own process, which leads its session and group; its pid is 0 where nobody noted it. */
  readonly identity: ProcessIdentity;
  readonly workerId: string;
  /** Clock ticks after boot up to which it is known to have lived; undefined: it was not seen to end. */
  readonly endedAtTicks?: number | undefined;
  /** Start times by pid of what was seen to be in its tree earlier, wherever it went since. */
  readonly known?: ReadonlyMap<number, string> | undefined;
}

const tickMs = 1_000 / ticksPerSecond;
/** Processes read before other work has its turn: about a millisecond. */
const readPerTurn = 64;
/** Workers are measured together: they share one look at the system. */
const freshMs = 100;
const psTimeoutMs = 10_000;
const workerIdPattern = /(?:^|\0)PITWARDEN_WORKER_ID=([^\0]*)/;

const pageBytes = hasProc ? readPageBytes() : 4096;

/** By pid and start time: environment and limits are read once in a process's life. */
const traces = new Map<string, Traces>();
const noTraces: Traces = { workerId: '', mark: '', isOwn: true };
let latest: { readonly atMs: number; readonly table: Promise<readonly ProcessRow[]> } | undefined;
let underway: Promise<unknown> = Promise.resolve();
let next: Promise<readonly ProcessRow[]> | undefined;

/** All live processes; a look that is younger than 100 ms serves again. Rejects where they cannot all be seen. */
export function sharedProcessTable(): Promise<readonly ProcessRow[]> {
  const nowMs = performance.now();
  if (latest === undefined || nowMs - latest.atMs > freshMs) latest = { atMs: nowMs, table: freshProcessTable() };
  return latest.table;
}

/** All live processes, by a look that begins after this call. One look at a time: who asks during one shares the next. */
export function freshProcessTable(): Promise<readonly ProcessRow[]> {
  next ??= underway.then(() => {
    next = undefined;
    const table = readProcessTable();
    underway = table.catch(() => undefined);
    return table;
  });
  return next;
}

/** Rejects where the system has processes but does not let them be read (no descriptors are left, say). */
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
 * The processes of a worker's tree: its own, those of this user that carry its id or its mark, those that were seen in it before,
 * its session where that is still its own, and what descends from these. Nothing counts for its number alone, which may be a
 * stranger's by now, and nothing for what another user can write.
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
  // A Map is walked through what is added meanwhile too.
  for (const parent of found.values()) {
    for (const row of children.get(parent.pid) ?? []) if (!found.has(row.pid)) add(row, parent.startTime);
  }
  return [...found.values()];
}

/** Processes of other users with the worker's mark: of its tree, if nobody has copied the mark. That cannot be proven. */
export function suspectsOf(table: readonly ProcessRow[], { workerId, known }: TreeTarget): ProcessRow[] {
  const marked = indexOf(table).marked.get(markOf(workerId)) ?? [];
  return marked.filter((row) => !row.isOwn && known?.get(row.pid) !== row.startTime);
}

/** Nobody's worker is the first process, and 0 is nobody. */
const firstPid = 2;

/** Start times grow, save that they are equal within a tick: what is older descends from nobody younger. */
function isBornBefore(row: ProcessRow, startTime: string): boolean {
  return startTime !== '' && Number(row.startTime) < Number(startTime);
}

/** By `ps`, which tells no start times: there a number has to do. */
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

/** Many workers look something up in one table. */
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

/** Its group is a part of its session; `ps` tells the group alone. */
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
 * Whether the session of this number is the worker's. The kernel gives a number to nobody else while a session or group
 * has it, so one process of ours in it proves the whole: the leader itself; one that carries the worker's id; or one
 * that was born before the leader ended, since a session is inherited at birth and cannot be joined.
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

/** Undefined: it is gone, or not ours to see. */
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
  // Another user can write any id into an environment of his, and copy any mark.
  const found = workerId === '' && mark === '' ? noTraces : { workerId, mark, isOwn: isOwnUser(pid) };
  if (isFinal(environment, workerId, ppid)) traces.set(key, found);
  return found;
}

/**
 * Whether an environment will say nothing else later. An empty one may be of a process in the middle of an exec; kernel threads,
 * children of the thread with pid 2, never have one. Between its fork and its exec a child of the agent shows the agent's own.
 */
function isFinal(environment: string, id: string, ppid: number): boolean {
  if (ppid === process.pid) return id !== '' && id !== process.env['PITWARDEN_WORKER_ID'];
  return environment !== '' || ppid === kernelThreadParent;
}

const kernelThreadParent = 2;

/** Closed to us: as one that says nothing. */
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

/** The size of a memory page, from the kernel's own account of this process. */
function readPageBytes(): number {
  // A kernel may be built without this file.
  const match = /^KernelPageSize:\s+(\d+) kB$/m.exec(readText('/proc/self/smaps'));
  return match === null ? 4096 : Number(match[1]) * 1024;
}

/** Where there is no /proc: no times, no memory, no environments. */
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
