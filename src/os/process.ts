import { join } from 'node:path';
import { execa } from 'execa';
import type { ProcessIdentity } from './identity.ts';
import { identify, ticksSinceBoot } from './identity.ts';
import type { CreatedOutput, OutputOptions } from './output.ts';
import { createOutput } from './output.ts';
import type { OutputDirectory } from './output-directory.ts';
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
  | { readonly ok: false; readonly message: string };

/** Starts a worker as the leader of a session and process group of its own. Throws where its output has no place. */
export function spawnWorker(options: SpawnOptions): SpawnedWorker {
  const output = createOutput(options.outputDirectory, options.workerId, options);
  const child = start(options, output);
  const { reader } = output;
  const { identity, why } = identifyChild(child.pid);
  if (identity === undefined) reader.remove();
  let endedAtTicks: number | undefined;
  const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once('exit', (code, signal) => {
      endedAtTicks = ticksSinceBoot();
      void reader.finish().then(() => resolve({ code, signal }));
    });
  });
  return {
    started: identity === undefined ? child.then(notStarted(options, why)) : Promise.resolve({ ok: true, identity }),
    exited,
    endedAtTicks: () => endedAtTicks,
    lastLines: reader.lastLines,
    close: reader.remove,
  };
}

function start(options: SpawnOptions, { reader, stdout, stderr }: CreatedOutput) {
  const [command, ...args] = inCgroup(options);
  try {
    return execa(command, args, {
      cwd: options.cwd,
      env: { ...options.env },
      extendEnv: false,
      detached: true,
      cleanup: false,
      buffer: false,
      reject: false,
      stdin: 'ignore',
      // Its types know the descriptors up to 9 alone.
      stdout: stdout as 3,
      stderr: stderr as 3,
    });
  } catch (error) {
    reader.remove();
    throw error;
  }
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

/** A child that cannot be identified could be signalled by nobody later: it is killed while its number is surely its own. */
function identifyChild(pid: number | undefined): { readonly identity?: ProcessIdentity; readonly why: string } {
  if (pid === undefined) return { why: '' };
  let why = 'it is not in /proc';
  try {
    const identity = identify(pid);
    if (identity !== undefined) return { identity, why: '' };
  } catch (error) {
    why = (error as Error).message;
  }
  signalProven(-pid, 'SIGKILL');
  return { why: `process ${pid} could not be identified, and was killed: ${why}` };
}

function notStarted({ command, cwd }: SpawnOptions, unidentified: string) {
  return (result: { code?: string | undefined; originalMessage?: string | undefined }): Started => {
    if (unidentified !== '') return { ok: false, message: `could not start ${command} in ${cwd}: ${unidentified}` };
    const why = result.code === 'ENOENT' ? `no such file or folder` : (result.originalMessage ?? 'unknown error');
    return { ok: false, message: `could not start ${command} in ${cwd}: ${why}` };
  };
}
