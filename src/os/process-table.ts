import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, isDead, readStat, ticksPerSecond } from './identity.ts';

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
  /** PITWARDEN_WORKER_ID in its environment; empty: none, or not ours to read. */
  readonly workerId: string;
}

export interface TreeTarget {
  /** The worker's own process, which leads its session and group. */
  readonly identity: ProcessIdentity;
  readonly workerId: string;
  /** Clock ticks after boot when it was seen to have ended; undefined: it was not. */
  readonly endedAtTicks?: number | undefined;
}

const tickMs = 1_000 / ticksPerSecond;
/** Processes read before other work has its turn: about a millisecond. */
const readPerTurn = 64;
/** Workers are measured together: they share one look at the system. */
const freshMs = 100;
const workerIdPattern = /(?:^|\0)PITWARDEN_WORKER_ID=([^\0]*)/;

const pageBytes = hasProc ? readPageBytes() : 4096;

/** Worker ids by pid and start time: an environment is read once in a process's life. */
const workerIds = new Map<string, string>();
let latest: { readonly atMs: number; readonly table: Promise<readonly ProcessRow[]> } | undefined;

/** All live processes; a look that is younger than 100 ms serves again. */
export function sharedProcessTable(): Promise<readonly ProcessRow[]> {
  const nowMs = performance.now();
  if (latest === undefined || nowMs - latest.atMs > freshMs) latest = { atMs: nowMs, table: readProcessTable() };
  return latest.table;
}

export async function readProcessTable(): Promise<readonly ProcessRow[]> {
  if (!hasProc) return readWithPs();
  const pids = readdirSync('/proc').filter((name) => name.charCodeAt(0) >= 49 && name.charCodeAt(0) <= 57);
  const rows: ProcessRow[] = [];
  const seen = new Set<string>();
  for (const [count, pid] of pids.entries()) {
    if (count % readPerTurn === readPerTurn - 1) await nextTurn();
    const stat = readStat(Number(pid));
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
      workerId: workerIdOf(key, stat.pid, stat.ppid),
    });
  }
  for (const key of workerIds.keys()) if (!seen.has(key)) workerIds.delete(key);
  return rows;
}

/**
 * The processes of a worker's tree: what carries its id, its session where that is still its own, and what descends from
 * these. Nothing counts for its number alone, which may be a stranger's by now.
 */
export function membersOf(table: readonly ProcessRow[], target: TreeTarget): ProcessRow[] {
  const { startTime } = target.identity;
  // Start times grow, save that they are equal within a tick: what is older cannot descend from it.
  const bornLater = (row: ProcessRow): boolean => startTime === '' || Number(row.startTime) >= Number(startTime);
  const ownsSession = isSessionOwn(table, target);
  const isMember = (row: ProcessRow): boolean =>
    row.workerId === target.workerId || (ownsSession && isInSession(row, target));
  const found = new Map<number, ProcessRow>();
  for (const row of table) if (isMember(row) && bornLater(row)) found.set(row.pid, row);
  for (let grew = found.size > 0; grew; ) {
    grew = false;
    for (const row of table) {
      if (found.has(row.pid) || !found.has(row.ppid) || !bornLater(row)) continue;
      found.set(row.pid, row);
      grew = true;
    }
  }
  return [...found.values()];
}

/** Its group is a part of its session; `ps` tells the group alone. */
function isInSession(row: ProcessRow, { identity: { pid } }: TreeTarget): boolean {
  return row.pid === pid || row.session === pid || (row.session === 0 && row.pgrp === pid);
}

/**
 * Whether the session of this number is the worker's. The kernel gives a number to nobody else while a session or group
 * has it, so one process of ours in it proves the whole: the leader itself; one that carries the worker's id; or one
 * that was born before the leader ended, since a session is inherited at birth and cannot be joined.
 */
function isSessionOwn(table: readonly ProcessRow[], target: TreeTarget): boolean {
  const { pid, startTime } = target.identity;
  if (startTime === '') return true;
  const leader = table.find((row) => row.pid === pid);
  if (leader !== undefined) return leader.startTime === startTime;
  const endedAtTicks = target.endedAtTicks ?? Number.NEGATIVE_INFINITY;
  return table.some(
    (row) => row.session === pid && (row.workerId === target.workerId || Number(row.startTime) <= endedAtTicks),
  );
}

function workerIdOf(key: string, pid: number, ppid: number): string {
  const known = workerIds.get(key);
  if (known !== undefined) return known;
  let id = '';
  try {
    const environ = readFileSync(`/proc/${pid}/environ`, 'latin1');
    const match = workerIdPattern.exec(environ);
    id = match?.[1] ?? '';
    // Between its fork and its exec a child of the agent shows the agent's own environment: look again later.
    if (id === '' && ppid === process.pid) return id;
  } catch {
    // Another user's process, or one that just ended: not of ours.
  }
  workerIds.set(key, id);
  return id;
}

/** The size of a memory page, from the kernel's own account of this process. */
function readPageBytes(): number {
  const match = /^KernelPageSize:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/smaps', 'latin1'));
  return match === null ? 4096 : Number(match[1]) * 1024;
}

/** Where there is no /proc: no times, no memory, no environments. */
export async function readWithPs(): Promise<readonly ProcessRow[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid=,pgid=,state=']);
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
        workerId: '',
      },
    ];
  });
}
