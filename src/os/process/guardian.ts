import { renameSync, rmSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isPopulated } from '../cgroup/cgroup.ts';
import { lockPath } from '../storage/agent-lock.ts';
import { readSmallFile } from '../storage/read-file.ts';
import { readText } from '../storage/read-text.ts';
import type { ProcessEnd, StartedProcess } from './child-process.ts';
import { searchPath, startProcess } from './child-process.ts';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, identify, isAlive, isGone } from './identity.ts';
import { isOwnUser } from './process-user.ts';
import { signalProcess } from './send-signal.ts';
import { markOf } from './tree-mark.ts';

/** A process that outlives this agent and kills its leftover workers if no other agent takes over: bin/guardian.sh. */
export interface Guardian {
  /**
   * `limitMs`: how long the worker may live after this agent has ended without a successor. A later call for the same
   * process replaces the earlier one.
   */
  watch(identity: ProcessIdentity, workerId: string, limitMs: number, cgroup: string | null): void;
  /** The pid of the guardian, for display; undefined if it is not running now. */
  pid(): number | undefined;
  /** Kills the guardians of earlier agents; this guardian now watches what they watched. */
  killPredecessors(): void;
  /** The agent ends. From now on the guardian is responsible for the remaining workers. */
  close(): void;
}

export interface GuardianOptions {
  /**
   * The directory of the lock by which the guardian recognises a successor. The file that names the guardians is kept
   * there too.
   */
  readonly directory: string;
  readonly log: { warn(message: string): void };
}

interface Watched {
  readonly identity: ProcessIdentity;
  readonly workerId: string;
  readonly limitMs: number;
  readonly cgroup: string | null;
}

const script = fileURLToPath(new URL('../../../bin/guardian.sh', import.meta.url));
const restartFirstMs = 1_000;
const restartLongestMs = 60_000;
/** Limit of unread input: a guardian that does not read it (because it is stopped, for example) is killed. */
const unreadMaxBytes = 2 * 1024 * 1024;
const forgetAtLeast = 64;
const nameOfRecord = 'guardian.json';
const guardiansMax = 100;
const recordMaxBytes = 64 * 1024;

/**
 * Never throws: an agent can run without a guardian. Without /proc there is no guardian, because nothing proves which
 * process a pid is.
 */
export function startGuardian({ directory, log }: GuardianOptions): Guardian {
  if (!hasProc)
    return { watch: () => undefined, pid: () => undefined, killPredecessors: () => undefined, close: () => undefined };
  const path = join(directory, nameOfRecord);
  const before = readGuardians(path);
  let own: readonly ProcessIdentity[] = before;
  const watched = new Map<string, Watched>();
  let forgetAt = forgetAtLeast;
  let child: StartedProcess | null = null;
  let restart: NodeJS.Timeout | undefined;
  let restartMs = restartFirstMs;
  let closed = false;

  const start = (): void => {
    const startedAtMs = performance.now();
    const started = spawnGuardian(directory);
    child = started;
    const identity = identifyGuardian(started.pid);
    if (identity !== undefined) own = [...own.filter(isGuardian), identity];
    writeGuardians(path, own);
    void started.ended.then((end) => {
      child = null;
      if (closed) return;
      if (performance.now() - startedAtMs > restartLongestMs) restartMs = restartFirstMs;
      log.warn(`the guardian process ${explainEnd(end)}; restarting it in ${restartMs} ms`);
      restart = setTimeout(start, restartMs);
      restart.unref();
      restartMs = Math.min(restartLongestMs, restartMs * 2);
    });
    forgetEnded();
    for (const each of watched.values()) send(each);
  };

  const send = ({ identity: { pid, startTime }, workerId, limitMs, cgroup }: Watched): void => {
    const stdin = child?.stdin ?? null;
    if (child === null || stdin === null) return;
    const group = cgroup === null || cgroup.includes('\n') ? '-' : cgroup;
    stdin.write(`${pid} ${startTime} ${Math.ceil(limitMs / 1000)} ${markOf(workerId)} ${group}\n`);
    if (stdin.writableLength > unreadMaxBytes) child.kill('SIGKILL');
  };

  const forgetEnded = (): void => {
    for (const [key, { identity, cgroup }] of watched) {
      if (isGone(identity) && !(cgroup !== null && isPopulated(cgroup))) watched.delete(key);
    }
    forgetAt = 2 * watched.size + forgetAtLeast;
  };

  start();
  return {
    watch: (identity, workerId, limitMs, cgroup) => {
      const each = { identity, workerId, limitMs, cgroup };
      watched.set(`${identity.pid} ${identity.startTime}`, each);
      if (watched.size >= forgetAt) forgetEnded();
      send(each);
    },
    pid: () => child?.pid,
    killPredecessors: () => {
      for (const each of before) if (isGuardian(each)) signalProcess(each, 'SIGKILL');
      own = own.filter(isGuardian);
      writeGuardians(path, own);
    },
    close: () => {
      closed = true;
      clearTimeout(restart);
      child?.stdin?.end();
    },
  };
}

/**
 * Guardians that may still be running, oldest first. There can be several: an agent may die before it has killed those
 * of its predecessors.
 */
function readGuardians(path: string): readonly ProcessIdentity[] {
  try {
    const value: unknown = JSON.parse(readSmallFile(path, recordMaxBytes).toString('utf8'));
    return Array.isArray(value) ? value.filter(isIdentity).slice(-guardiansMax) : [];
  } catch {
    return [];
  }
}

function writeGuardians(path: string, guardians: readonly ProcessIdentity[]): void {
  try {
    // Written to a new file and renamed: something else may be at this path, such as a FIFO, and writing to that would
    // block.
    const beside = `${path}.new`;
    rmSync(beside, { force: true });
    writeFileSync(beside, JSON.stringify(guardians), { mode: 0o600, flag: 'wx' });
    renameSync(beside, path);
  } catch {
    // The earlier guardians will notice by themselves that another agent runs, though not at once.
  }
}

function isIdentity(value: unknown): value is ProcessIdentity {
  const { bootId, pid, startTime } = value as Partial<ProcessIdentity>;
  return typeof bootId === 'string' && Number.isInteger(pid) && (pid ?? 0) > 1 && typeof startTime === 'string';
}

/**
 * Undefined if the guardian did not start or cannot be identified; then it notices by itself that another agent runs.
 */
function identifyGuardian(pid: number | undefined): ProcessIdentity | undefined {
  try {
    return pid === undefined ? undefined : identify(pid);
  } catch {
    return undefined;
  }
}

/** Checks that the process is alive, belongs to this user and is a guardian, whatever the file says. */
function isGuardian(identity: ProcessIdentity): boolean {
  return isAlive(identity) && isOwn(identity) && readText(`/proc/${identity.pid}/cmdline`).split('\0').includes(script);
}

function isOwn({ pid }: ProcessIdentity): boolean {
  try {
    return isOwnUser(pid);
  } catch {
    return false;
  }
}

function explainEnd(end: ProcessEnd): string {
  if (!end.started) return `could not be started: ${end.error.message}`;
  return end.signal === null ? `exited with code ${end.code}` : `was ended by ${end.signal}`;
}

/**
 * Starts the guardian in its own session, so that a terminal's signal does not kill it together with the agent. It
 * inherits no descriptor of the agent.
 */
function spawnGuardian(directory: string): StartedProcess {
  const env = { PATH: searchPath() };
  const child = startProcess('/bin/sh', [script, lockPath(directory)], {
    cwd: '/',
    env,
    stdin: 'pipe',
    detached: true,
  });
  child.unref();
  // Node's pipe is a socket, which would keep this process alive.
  (child.stdin as Socket | null)?.unref();
  return child;
}
