import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { lockPath } from './agent-lock.ts';
import { isPopulated } from './cgroup.ts';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, isAlive } from './identity.ts';

/** Who kills what is left of this agent's workers when it is gone and no other agent comes: bin/guardian.sh. */
export interface Guardian {
  /** `limitMs`: how long after this agent's end the worker may live without another one. A later call holds. */
  watch(identity: ProcessIdentity, limitMs: number, cgroup: string | null): void;
  /** For those who look at it; undefined: it does not run now. */
  pid(): number | undefined;
  /** The agent ends. What it leaves behind is the guardian's. */
  close(): void;
}

export interface GuardianOptions {
  /** Where the lock is by which a successor is known. */
  readonly stateDir: string;
  readonly log: { warn(message: string): void };
}

interface Watched {
  readonly identity: ProcessIdentity;
  readonly limitMs: number;
  readonly cgroup: string | null;
}

const script = fileURLToPath(new URL('../../bin/guardian.sh', import.meta.url));
const restartFirstMs = 1_000;
const restartLongestMs = 60_000;
/** Unread lines of one that does not read: it is stopped, say. */
const unreadMaxBytes = 1024 * 1024;
const forgetAtLeast = 64;

/** Never throws: an agent without a guardian is an agent all the same. Without /proc nothing proves a process: no guardian. */
export function startGuardian({ stateDir, log }: GuardianOptions): Guardian {
  if (!hasProc) return { watch: () => undefined, pid: () => undefined, close: () => undefined };
  const watched = new Map<string, Watched>();
  let forgetAt = forgetAtLeast;
  let child: Child | null = null;
  let restart: NodeJS.Timeout | undefined;
  let restartMs = restartFirstMs;
  let closed = false;

  const start = (): void => {
    const startedAtMs = performance.now();
    const started = spawnGuardian(stateDir);
    child = started;
    started.stdin.on('error', () => undefined);
    void started.then(({ shortMessage }) => {
      child = null;
      if (closed) return;
      if (performance.now() - startedAtMs > restartLongestMs) restartMs = restartFirstMs;
      log.warn(
        `the guardian of the workers ended, and is started again in ${restartMs} ms: ${shortMessage ?? 'by itself'}`,
      );
      restart = setTimeout(start, restartMs);
      restart.unref();
      restartMs = Math.min(restartLongestMs, restartMs * 2);
    });
    forgetEnded();
    for (const each of watched.values()) tell(each);
  };

  const tell = ({ identity: { pid, startTime }, limitMs, cgroup }: Watched): void => {
    if (child === null) return;
    const group = cgroup === null || cgroup.includes('\n') ? '-' : cgroup;
    child.stdin.write(`${pid} ${startTime} ${Math.ceil(limitMs / 1000)} ${group}\n`);
    if (child.stdin.writableLength > unreadMaxBytes) child.kill('SIGKILL');
  };

  const forgetEnded = (): void => {
    for (const [key, { identity, cgroup }] of watched) {
      if (!isAlive(identity) && !(cgroup !== null && isPopulated(cgroup))) watched.delete(key);
    }
    forgetAt = 2 * watched.size + forgetAtLeast;
  };

  start();
  return {
    watch: (identity, limitMs, cgroup) => {
      const each = { identity, limitMs, cgroup };
      watched.set(`${identity.pid} ${identity.startTime}`, each);
      if (watched.size >= forgetAt) forgetEnded();
      tell(each);
    },
    pid: () => child?.pid,
    close: () => {
      closed = true;
      clearTimeout(restart);
      child?.stdin.end();
    },
  };
}

type Child = ReturnType<typeof spawnGuardian>;

/** In a session of its own, so that no terminal's signal takes it with the agent; it holds nothing of the agent's open. */
function spawnGuardian(stateDir: string) {
  const child = execa('/bin/sh', [script, lockPath(stateDir)], {
    cwd: '/',
    env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin' },
    extendEnv: false,
    detached: true,
    cleanup: false,
    buffer: false,
    reject: false,
    stdin: 'pipe',
    stdout: 'ignore',
    stderr: 'ignore',
  });
  child.unref();
  // Node's pipe is a socket, for which it would wait at its end.
  (child.stdin as Socket).unref();
  return child;
}
