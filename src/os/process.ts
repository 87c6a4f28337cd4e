import { join } from 'node:path';
import { execa } from 'execa';
import type { ProcessIdentity } from './identity.ts';
import { identify, ticksSinceBoot } from './identity.ts';
import type { WorkerLine } from './log-lines.ts';
import { createLogLines } from './log-lines.ts';

export interface SpawnOptions {
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** The cgroup to start in; null: that of this process. */
  readonly cgroup: string | null;
  /** The whole of its environment. */
  readonly env: Readonly<Record<string, string>>;
  nowMs(): number;
  onLine(line: WorkerLine): void;
  onDropped(count: number): void;
}

export interface SpawnedWorker {
  readonly started: Promise<Started>;
  /** When the process itself has ended; what it started may live on. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
  /** Clock ticks after boot when it was seen to have ended; undefined: not yet, or there is no /proc. */
  endedAtTicks(): number | undefined;
  /** The end of what it wrote. */
  lastLines(): readonly string[];
  /** Lets go of its output, which a process that it started may hold open for ever. */
  close(): void;
}

type Started =
  | { readonly ok: true; readonly identity: ProcessIdentity }
  | { readonly ok: false; readonly message: string };

/** How long after its end a worker's output is still waited for: its callers are told of its end after that. */
const outputGraceMs = 30;

/** Starts a worker as the leader of a session and process group of its own. */
export function spawnWorker(options: SpawnOptions): SpawnedWorker {
  const [command, ...args] = inCgroup(options);
  const child = execa(command, args, {
    cwd: options.cwd,
    env: { ...options.env },
    extendEnv: false,
    detached: true,
    cleanup: false,
    buffer: false,
    reject: false,
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
  });
  const lines = createLogLines(options);
  const read = (name: 'stdout' | 'stderr'): Promise<void> =>
    new Promise((resolve) => {
      child[name].on('data', (data: Buffer) => lines.push(name, data));
      child[name].on('error', () => resolve());
      child[name].on('close', () => {
        lines.end(name);
        resolve();
      });
    });
  const drained = Promise.all([read('stdout'), read('stderr')]);
  const identity = child.pid === undefined ? undefined : identify(child.pid);
  let endedAtTicks: number | undefined;
  const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once('exit', (code, signal) => {
      endedAtTicks = ticksSinceBoot();
      // Not `close`, which a descendant that inherited the pipe could put off for ever.
      const grace = new Promise<void>((done) => setTimeout(done, outputGraceMs));
      void Promise.race([drained, grace]).then(() => resolve({ code, signal }));
    });
  });
  return {
    started: identity === undefined ? child.then(notStarted(options)) : Promise.resolve({ ok: true, identity }),
    exited,
    endedAtTicks: () => endedAtTicks,
    lastLines: lines.last,
    close: () => {
      child.stdout.destroy();
      child.stderr.destroy();
    },
  };
}

/**
 * A shell moves itself and becomes the program: no child of the program can be too early for the move, and its pid stays.
 * Where the move fails the program starts all the same.
 */
function inCgroup({ command, args, cgroup }: SpawnOptions): [string, ...string[]] {
  if (cgroup === null) return [command, ...args];
  const script = '{ echo 0 > "$0"; } 2>/dev/null; exec "$@"';
  return ['/bin/sh', '-c', script, join(cgroup, 'cgroup.procs'), command, ...args];
}

function notStarted({ command, cwd }: SpawnOptions) {
  return (result: { code?: string | undefined; originalMessage?: string | undefined }): Started => {
    const why = result.code === 'ENOENT' ? `no such file or folder` : (result.originalMessage ?? 'unknown error');
    return { ok: false, message: `could not start ${command} in ${cwd}: ${why}` };
  };
}
