import type { ChildProcess, StdioOptions } from 'node:child_process';
import { spawn } from 'node:child_process';
import type { Duplex, Readable, Writable } from 'node:stream';
import { explainShortage, isShortage } from '../shortage.ts';
import { withSpareDescriptors } from '../spare-descriptors.ts';

/*
 * The only file that starts processes (biome.json forbids node:child_process elsewhere in src/). A failed start is a
 * return value, never an exception or an unhandled 'error' event. Node reports some errors by throwing (ENOMEM) and
 * some by an event (ENOENT, EAGAIN); on EMFILE and ENFILE it emits an event and leaves out the pipes.
 */

export interface ProcessOptions {
  /** Default: the working directory of this process. */
  readonly cwd?: string;
  /** The complete environment. */
  readonly env: Readonly<Record<string, string>>;
  /** A number is a file descriptor of this process. */
  readonly stdin?: 'ignore' | 'pipe' | number;
  readonly stdout?: 'ignore' | 'pipe' | number;
  readonly stderr?: 'ignore' | 'pipe' | number;
  /** Default: the process gets no descriptor 3. */
  readonly descriptor3?: 'pipe';
  /** Makes the process the leader of its own session and process group. */
  readonly detached?: boolean;
}

export interface StartedProcess {
  /** Undefined if the process was not started; `ended` says why. */
  readonly pid: number | undefined;
  /** Null if the process was not started, or if no pipe was requested. */
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  readonly descriptor3: Duplex | null;
  /** Settles when the process has exited or could not be started. Never rejects. */
  readonly ended: Promise<ProcessEnd>;
  kill(signal: NodeJS.Signals): void;
  /** Lets this process exit before the child does. */
  unref(): void;
}

export type ProcessEnd =
  | { readonly started: true; readonly code: number | null; readonly signal: NodeJS.Signals | null }
  | { readonly started: false; readonly error: StartError };

export interface StartError {
  /** An errno such as ENOENT. */
  readonly code: string;
  /** Shown to users. */
  readonly message: string;
}

export function startProcess(file: string, args: readonly string[], options: ProcessOptions): StartedProcess {
  const stdio: StdioOptions = [options.stdin ?? 'ignore', options.stdout ?? 'ignore', options.stderr ?? 'ignore'];
  if (options.descriptor3 !== undefined) stdio.push(options.descriptor3);
  let child: ChildProcess;
  try {
    child = withSpareDescriptors(() =>
      spawn(file, args, {
        stdio,
        env: { ...options.env },
        detached: options.detached ?? false,
        ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      }),
    );
  } catch (error) {
    return notStarted(startErrorOf(error));
  }
  const ended = new Promise<ProcessEnd>((resolve) => {
    child.once('exit', (code, signal) => resolve({ started: true, code, signal }));
    // Node also emits `error` when a signal could not be sent, so the listener stays; the first outcome counts.
    child.on('error', (error) => {
      if (child.pid === undefined) resolve({ started: false, error: startErrorOf(error) });
    });
  });
  const descriptor3 = options.descriptor3 === undefined ? null : ((child.stdio[3] as Duplex | undefined) ?? null);
  for (const stream of [child.stdin, child.stdout, child.stderr, descriptor3]) stream?.on('error', () => undefined);
  return {
    pid: child.pid,
    // After EMFILE Node sets the streams to undefined instead of null.
    stdin: child.stdin ?? null,
    stdout: child.stdout ?? null,
    stderr: child.stderr ?? null,
    descriptor3,
    ended,
    kill: (signal) => void child.kill(signal),
    unref: () => child.unref(),
  };
}

export interface RunOptions extends Omit<ProcessOptions, 'stdout' | 'stderr' | 'env'> {
  /** Environment variables besides PATH. */
  readonly env?: Readonly<Record<string, string>>;
  /** After this time the process is killed and the run counts as failed. */
  readonly timeoutMs: number;
}

export interface RunResult {
  readonly ok: boolean;
  /** stdout and stderr, at most `outputMaxBytes` each. */
  readonly stdout: string;
  readonly stderr: string;
  /** Why the run failed, for users; empty if it succeeded. */
  readonly why: string;
  /** The process could not be started for lack of descriptors, processes or memory: a later attempt may succeed. */
  readonly isShortage: boolean;
}

const outputMaxBytes = 4 * 1024 * 1024;

/**
 * Runs a program to its end. Never rejects, and settles within the timeout even if another process keeps the pipes
 * open.
 */
export async function runProcess(file: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
  const env = { PATH: searchPath(), ...options.env };
  const child = startProcess(file, args, { ...options, env, stdout: 'pipe', stderr: 'pipe' });
  const outputs = [collect(child.stdout), collect(child.stderr)] as const;
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), options.timeoutMs);
  });
  const finished = child.ended.then(async (end) => {
    await Promise.all(outputs.map(({ closed }) => closed));
    return end;
  });
  const end = await Promise.race([finished, tooLate]);
  clearTimeout(timer);
  if (end === null) child.kill('SIGKILL');
  // A descendant may keep the pipes open.
  child.stdout?.destroy();
  child.stderr?.destroy();
  const [stdout, stderr] = outputs.map(({ text }) => text());
  const why = explain(end, options.timeoutMs, stderr ?? '');
  const lacked = end !== null && !end.started && isShortage(end.error);
  return { ok: why === '', stdout: stdout ?? '', stderr: stderr ?? '', why, isShortage: lacked };
}

/** The PATH in which the agent's own tools are looked up. */
export function searchPath(): string {
  return process.env['PATH'] ?? '/usr/bin:/bin';
}

function explain(end: ProcessEnd | null, timeoutMs: number, stderr: string): string {
  if (end === null) return `expected it to exit within ${timeoutMs} ms`;
  if (!end.started) return end.error.message;
  if (end.code === 0) return '';
  return stderr.trim() || (end.signal === null ? `exited with code ${end.code}` : `ended by ${end.signal}`);
}

function collect(stream: Readable | null): { readonly closed: Promise<void>; text(): string } {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream?.on('data', (chunk: Buffer) => {
    if (bytes < outputMaxBytes) chunks.push(chunk);
    bytes += chunk.length;
  });
  const closed = new Promise<void>((resolve) => {
    if (stream === null) resolve();
    stream?.once('close', resolve);
  });
  return { closed, text: () => Buffer.concat(chunks).toString('utf8', 0, outputMaxBytes) };
}

function startErrorOf(error: unknown): StartError {
  const { code } = (error ?? {}) as { readonly code?: unknown };
  const errno = typeof code === 'string' ? code : '';
  const text = error instanceof Error ? error.message : String(error);
  return { code: errno, message: errno === 'ENOENT' ? 'no such file or folder' : (explainShortage(error) ?? text) };
}

function notStarted(error: StartError): StartedProcess {
  return {
    pid: undefined,
    stdin: null,
    stdout: null,
    stderr: null,
    descriptor3: null,
    ended: Promise.resolve({ started: false, error }),
    kill: () => undefined,
    unref: () => undefined,
  };
}
