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
import { signalProven } from './signal.ts';

export interface SpawnOptions extends OutputOptions {
  readonly workerId: string;
  /** Where its stdout and stderr go. */
  readonly outputDirectory: OutputDirectory;
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** The cgroup to start in; null: that of this process. */
  readonly cgroup: string | null;
  /** The whole of its environment. */
  readonly env: Readonly<Record<string, string>>;
  /** What only the worker may know; 32 bytes. */
  readonly secret: Buffer;
}

export interface SpawnedWorker {
  readonly started: Promise<Started>;
  /** When the process itself has ended and all that it wrote is read; what it started may live on. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
  /** Clock ticks after boot when it was seen to have ended; undefined: not yet, or there is no /proc. */
  endedAtTicks(): number | undefined;
  /** The end of what it wrote. */
  lastLines(): readonly string[];
  /** Takes its output away; what a process that it started still writes is lost. */
  close(): void;
}

type Started =
  | { readonly ok: true; readonly identity: ProcessIdentity }
  /** `isShortage`: the host has no room for it now, and the program is not to blame. */
  | { readonly ok: false; readonly message: string; readonly isShortage: boolean };

/** Starts a worker as the leader of a session and process group of its own. Throws where its output has no place. */
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

/** The descriptors of the output, the process, and one to see who it is. */
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
 * The worker reads its secret from descriptor 3 or from descriptor 0: a wrapper around the interpreter may close one of them.
 * Both are unix sockets, which no other process can open through /proc/PID/fd.
 */
function giveSecret({ workerId, secret }: SpawnOptions, { stdin, descriptor3 }: StartedProcess): void {
  const line = `pitwarden-secret ${workerId} ${secret.toString('hex')}\n`;
  // The line fits into the socket, so it is written at once. Closing this end leaves it there for the worker.
  for (const stream of [stdin, descriptor3]) stream?.end(line, () => stream.destroy());
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

interface Identified {
  readonly identity?: ProcessIdentity;
  /** Why there is none. */
  readonly why: string;
  /** It is for want of descriptors, say. */
  readonly lacked: boolean;
}

/** A child that cannot be identified could be signalled by nobody later: it is killed while its number is surely its own. */
function identifyChild(pid: number | undefined): Identified {
  if (pid === undefined) return { why: '', lacked: false };
  let why = 'it is not in /proc';
  let lacked = false;
  try {
    const identity = identify(pid);
    if (identity !== undefined) return { identity, why: '', lacked };
  } catch (error) {
    why = (error as Error).message;
    lacked = isShortage(error);
  }
  signalProven(-pid, 'SIGKILL');
  return { why: `process ${pid} could not be identified, and was killed: ${why}`, lacked };
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
    isShortage: end.started ? identified.lacked : isShortage(end.error),
  };
}
