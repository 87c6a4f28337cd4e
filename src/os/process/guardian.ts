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
import { signalProcess } from './signal.ts';
import { markOf } from './tree-mark.ts';

/** Who kills what is left of this agent's workers when it is gone and no other agent comes: bin/guardian.sh. */
export interface Guardian {
  /** `limitMs`: how long after this agent's end the worker may live without another one. A later call holds. */
  watch(identity: ProcessIdentity, workerId: string, limitMs: number, cgroup: string | null): void;
  /** For those who look at it; undefined: it does not run now. */
  pid(): number | undefined;
  /** The guardians of agents before this one are sent away: what they watched is watched by this one. */
  relieve(): void;
  /** The agent ends. What it leaves behind is the guardian's. */
  close(): void;
}

export interface GuardianOptions {
  /** That of the lock by which a successor is known. Beside it is written who the guardian is. */
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
/** Unread lines of one that does not read: it is stopped, say. */
const unreadMaxBytes = 2 * 1024 * 1024;
const forgetAtLeast = 64;
const nameOfRecord = 'guardian.json';
const guardiansMax = 100;
const recordMaxBytes = 64 * 1024;

/** Never throws: an agent without a guardian is an agent all the same. Without /proc nothing proves a process: no guardian. */
export function startGuardian({ directory, log }: GuardianOptions): Guardian {
  if (!hasProc)
    return { watch: () => undefined, pid: () => undefined, relieve: () => undefined, close: () => undefined };
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
      log.warn(`the guardian of the workers ${explainEnd(end)}; it is started again in ${restartMs} ms`);
      restart = setTimeout(start, restartMs);
      restart.unref();
      restartMs = Math.min(restartLongestMs, restartMs * 2);
    });
    forgetEnded();
    for (const each of watched.values()) tell(each);
  };

  const tell = ({ identity: { pid, startTime }, workerId, limitMs, cgroup }: Watched): void => {
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
      tell(each);
    },
    pid: () => child?.pid,
    relieve: () => {
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

/** Those that may still be there, oldest first: an agent may die before it has sent those of its predecessors away. */
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
    // Beside its place: something else than a file may stand there, such as a FIFO, and a write to that would wait.
    const beside = `${path}.new`;
    rmSync(beside, { force: true });
    writeFileSync(beside, JSON.stringify(guardians), { mode: 0o600, flag: 'wx' });
    renameSync(beside, path);
  } catch {
    // They find out for themselves that there is another agent, though not at once.
  }
}

function isIdentity(value: unknown): value is ProcessIdentity {
  const { bootId, pid, startTime } = value as Partial<ProcessIdentity>;
  return typeof bootId === 'string' && Number.isInteger(pid) && (pid ?? 0) > 1 && typeof startTime === 'string';
}

/** Undefined: it did not start, or cannot be noted; then it finds out for itself that there is another agent. */
function identifyGuardian(pid: number | undefined): ProcessIdentity | undefined {
  try {
    return pid === undefined ? undefined : identify(pid);
  } catch {
    return undefined;
  }
}

/** Whatever the file says: this very process, of this user, and a guardian. */
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
  return `ended by ${end.signal ?? `exit code ${end.code}`}`;
}

/** In a session of its own, so that no terminal's signal takes it with the agent; it holds nothing of the agent's open. */
function spawnGuardian(directory: string): StartedProcess {
  const env = { PATH: searchPath() };
  const child = startProcess('/bin/sh', [script, lockPath(directory)], {
    cwd: '/',
    env,
    stdin: 'pipe',
    detached: true,
  });
  child.unref();
  // Node's pipe is a socket, for which it would wait at its end.
  (child.stdin as Socket | null)?.unref();
  return child;
}
