import { join } from 'node:path';
import type { OutputOptions } from '../output/output.ts';
import { createOutput } from '../output/output.ts';
import type { OutputDirectory } from '../output/output-directory.ts';
import { isShortage } from '../shortage.ts';
import { withSpareDescriptors } from '../spare-descriptors.ts';
import type { StartedProcess } from './child-process.ts';
import { startProcess } from './child-process.ts';
import type { ProcessIdentity } from './identity.ts';
import { identify, ticksSinceBoot } from './identity.ts';
import { signalProven } from './send-signal.ts';

export interface SpawnOptions extends OutputOptions {
  readonly workerId: string;
  /** Where the files for its stdout and stderr are created. */
  readonly outputDirectory: OutputDirectory;
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** The cgroup to start in; null: the cgroup of this process. */
  readonly cgroup: string | null;
  /** The complete environment. */
  readonly env: Readonly<Record<string, string>>;
  /** 32 bytes that only the worker may know. */
  readonly secret: Buffer;
}

export interface SpawnedWorker {
  readonly started: Promise<Started>;
  /** Settles when the worker's own process has ended and all its output has been read. Its descendants may live on. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
  /** When the process was seen to have ended, in clock ticks after boot; undefined if not yet, or without /proc. */
  endedAtTicks(): number | undefined;
  /** The last lines of its output. */
  lastLines(): readonly string[];
  /** Deletes its output files; what its descendants still write is lost. */
  close(): void;
}

type Started =
  | { readonly ok: true; readonly identity: ProcessIdentity }
  /** `isShortage`: the host currently lacks a resource; the program is not at fault. */
  | { readonly ok: false; readonly message: string; readonly isShortage: boolean };

/** Starts a worker as the leader of its own session and process group. Throws if its output files cannot be created. */
export function spawnWorker(options: SpawnOptions): SpawnedWorker {
  const { reader, child, identified } = withSpareDescriptors(() => start(options));
  const { identity } = identified;
  let endedAtTicks: number | undefined;
  const exited = child.ended.then(async (end) => {
    if (!end.started) return { code: null, signal: null };
    endedAtTicks = ticksSinceBoot();
    await reader.finish();
    return { code: end.code, signal: end.signal };
  });
  if (identity === undefined) reader.remove();
  return {
    started: identity === undefined ? notStarted(options, child, identified) : Promise.resolve({ ok: true, identity }),
    exited,
    endedAtTicks: () => endedAtTicks,
    lastLines: reader.lastLines,
    close: reader.remove,
  };
}

/** Runs with the spare descriptors free, which cover the output files, the child's pipes and reading its identity. */
function start(options: SpawnOptions) {
  const { reader, stdout, stderr } = createOutput(options.outputDirectory, options.workerId, options);
  const [command, ...args] = inCgroup(options);
  const { cwd, env } = options;
  const child = startProcess(command, args, {
    cwd,
    env,
    stdout,
    stderr,
    stdin: 'pipe',
    descriptor3: 'pipe',
    detached: true,
  });
  giveSecret(options, child);
  return { reader, child, identified: identifyChild(child.pid) };
}

/**
 * The worker reads its secret from descriptor 3 or 0, since a wrapper around the interpreter may close one of them.
 * Both are unix sockets, which no other process can open through /proc/PID/fd.
 */
function giveSecret({ workerId, secret }: SpawnOptions, { stdin, descriptor3 }: StartedProcess): void {
  const line = `pitwarden-secret ${workerId} ${secret.toString('hex')}\n`;
  // The line fits into the socket's buffer, so it is written at once and stays there for the worker after this end is
  // closed.
  for (const stream of [stdin, descriptor3]) stream?.end(line, () => stream.destroy());
}

/**
 * A shell moves itself into the cgroup and then execs the program: no child of the program can start before the move,
 * and the pid stays the same. If the move fails, the program starts anyway.
 */
function inCgroup({ command, args, cgroup }: SpawnOptions): [string, ...string[]] {
  if (cgroup === null) return [command, ...args];
  const script = '{ echo 0 > "$0"; } 2>/dev/null; exec "$@"';
  return ['/bin/sh', '-c', script, join(cgroup, 'cgroup.procs'), command, ...args];
}

interface Identified {
  readonly identity?: ProcessIdentity;
  /** Why there is no identity. */
  readonly why: string;
  /** The identity is missing for lack of a resource such as descriptors. */
  readonly lacksResource: boolean;
}

/** A child without an identity could never be signalled later, so it is killed while the pid is certainly its own. */
function identifyChild(pid: number | undefined): Identified {
  if (pid === undefined) return { why: '', lacksResource: false };
  let why = 'it is not in /proc';
  let lacksResource = false;
  try {
    const identity = identify(pid);
    if (identity !== undefined) return { identity, why: '', lacksResource };
  } catch (error) {
    why = (error as Error).message;
    lacksResource = isShortage(error);
  }
  signalProven(-pid, 'SIGKILL');
  return { why: `process ${pid} could not be identified, and was killed: ${why}`, lacksResource };
}

async function notStarted(
  { command, cwd }: SpawnOptions,
  { ended }: StartedProcess,
  identified: Identified,
): Promise<Started> {
  const end = await ended;
  const why = end.started ? identified.why : end.error.message;
  return {
    ok: false,
    message: `could not start ${command} in ${cwd}: ${why}`,
    isShortage: end.started ? identified.lacksResource : isShortage(end.error),
  };
}
