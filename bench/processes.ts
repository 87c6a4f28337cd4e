import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';

/** A process under test, in a process group of its own. */
export interface Subject {
  readonly pid: number;
  /** The end of what it has printed. */
  output(): string;
  /** How many characters it has printed in all. */
  printed(): number;
  /** SIGTERM and wait; SIGKILL for one that is still there after ten seconds. */
  stop(): Promise<void>;
}

export interface SubjectOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** What it prints when it is ready. */
  readonly ready: RegExp | ((output: string) => Promise<boolean>);
  readonly readyWithinMs?: number;
}

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) endGroup(child);
});
// Without these a Ctrl-C would end this process alone: what it started is in process groups of its own.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(1));

export async function startSubject(file: string, args: readonly string[], options: SubjectOptions): Promise<Subject> {
  const child = spawn(file, args, {
    cwd: options.cwd,
    env: { ...process.env, NO_COLOR: '1', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  running.add(child);
  let output = '';
  let printed = 0;
  const keep = (data: Buffer): void => {
    const text = data.toString();
    printed += text.length;
    output = (output + text).slice(-1_000_000);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  const gone = once(child, 'exit')
    .catch((error: Error) => keep(Buffer.from(error.message)))
    .then(() => running.delete(child));
  const isReady = async (): Promise<boolean> =>
    options.ready instanceof RegExp ? options.ready.test(output) : options.ready(output);
  const endsAtMs = performance.now() + (options.readyWithinMs ?? 60_000);
  while (!(await isReady())) {
    if (!running.has(child)) {
      endGroup(child);
      throw new Error(`${file} ${args.join(' ')} ended before it was ready:\n${output}`);
    }
    if (performance.now() > endsAtMs) {
      endGroup(child);
      throw new Error(`${file} ${args.join(' ')}: not ready in time:\n${output}`);
    }
    await pause(20);
  }
  const pid = child.pid ?? 0;
  return {
    pid,
    output: () => output,
    printed: () => printed,
    stop: async () => {
      if (!running.has(child)) return;
      process.kill(pid, 'SIGTERM');
      const late = setTimeout(() => endGroup(child), 10_000);
      await gone;
      clearTimeout(late);
      // Not every program ends its children.
      endGroup(child);
    },
  };
}

function endGroup({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch {
    // It has gone already.
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

export interface CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Killed after that. */
  readonly withinMs?: number;
}

/** Runs a program to its end; its output. What it started and left behind is ended too. */
export async function runCommand(file: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  const child = spawn(file, args, {
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  running.add(child);
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (data) => {
    stdout += data;
  });
  child.stderr.on('data', (data) => {
    stderr += data;
  });
  child.once('exit', () => {
    running.delete(child);
    endGroup(child);
  });
  const late = options.withinMs === undefined ? undefined : setTimeout(() => endGroup(child), options.withinMs);
  const [code, signal] = await Promise.race([
    once(child, 'close'),
    once(child, 'error').then(([error]) => Promise.reject(error)),
  ]).finally(() => clearTimeout(late));
  if (code !== 0) throw new Error(`${file} ${args.join(' ')} ended with ${code ?? signal}:\n${stderr}${stdout}`);
  return stdout;
}

/** A process's program and arguments, with spaces between them. */
export function commandLine(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ').trim();
}

/** Cpu time of a process so far, all its threads, in microseconds (USER_HZ is 100: to 10 ms). */
export function cpuMicros(pid: number): number {
  const [, , ...fields] = /^(\d+) \(.*\) (.*)$/s.exec(readFileSync(`/proc/${pid}/stat`, 'latin1')) ?? [];
  const parts = (fields[0] ?? '').split(' ');
  return (Number(parts[11]) + Number(parts[12])) * 10_000;
}

export function rssMib(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'));
  return Number(match?.[1] ?? 0) / 1024;
}

/** Proportional set size: shared pages count by their share. */
export function pssMib(pid: number): number {
  const match = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'));
  return Number(match?.[1] ?? 0) / 1024;
}

function childrenOf(pid: number): number[] {
  const found: number[] = [];
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const children = readFileSync(`/proc/${pid}/task/${task}/children`, 'latin1').trim();
    if (children !== '') found.push(...children.split(' ').map(Number));
  }
  return found;
}

/** A process's children, their children, and so on. */
export function descendantsOf(pid: number): number[] {
  const children = childrenOf(pid);
  return [...children, ...children.flatMap(descendantsOf)];
}
