import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const root = new URL('../../', import.meta.url).pathname;
export const python = join(root, '.venv/bin/python');
export const examples = join(root, 'examples');
export const node = process.env['PITWARDEN_TEST_NODE'] ?? process.execPath;

/** A real agent in its own process, with its own folders. */
export interface TestAgent {
  readonly pid: number;
  readonly dir: string;
  readonly socket: string;
  readonly http: string;
  output(): string;
  /** Runs `bin/pitwarden` against it. */
  cli(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }>;
  json<T>(...args: string[]): Promise<T>;
  workers(pool?: string): Promise<ListedWorker[]>;
  config(yaml: string): void;
  signal(signal: NodeJS.Signals): void;
  exited: Promise<{ code: number | null; signal: string | null }>;
  /** Sends SIGTERM, waits, and fails if a process of the agent is left. */
  stop(): Promise<void>;
}

export interface ListedWorker {
  worker_id: string;
  pool: string;
  slot: number;
  generation: number;
  pid: number;
  state: string;
  health: string;
  reason: string;
  in_flight: number;
  requests_completed: number;
  requests_failed: number;
  missed_pings: number;
  started_at_ms: number;
  last_pong_at_ms: number;
  rss_bytes: number;
}

/** Starts an agent with these pools (YAML), in a new folder or in that of an earlier agent; run by `command`. */
export async function spawnAgent(
  pools: string,
  extra = '',
  dir = mkdtempSync(join(tmpdir(), 'pw-')),
  [program, ...before]: readonly [string, ...string[]] = [node],
): Promise<TestAgent> {
  const file = join(dir, 'pitwarden.yaml');
  writeFileSync(file, configText(pools, extra));
  const flags = ['--runtime-dir', join(dir, 'run'), '--state-dir', join(dir, 'state'), '--http', '127.0.0.1:0'];
  return followAgent(program, [...before, join(root, 'bin/pitwarden'), 'agent', '--config', file, ...flags], dir);
}

function configText(pools: string, extra: string): string {
  return `${extra}\npools:\n${pools.replace(/^\n+|\s+$/g, '').replace(/^/gm, '  ')}\n`;
}

/** Starts a program that becomes an agent with its sockets in this folder, and waits until it listens. */
export async function followAgent(
  file: string,
  args: readonly string[],
  dir: string,
  options: { readonly cwd?: string } = {},
): Promise<TestAgent> {
  // An agent started by npm combines two quick signals into one. Only `npm start` itself should look like that here.
  const { npm_lifecycle_event: _, ...env } = process.env;
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, env, ...options });
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  child.stderr.on('data', (data) => {
    output += data;
  });
  let over = false;
  const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.on('exit', (code, signal) => {
      over = true;
      resolve({ code, signal });
    });
  });
  const socket = join(dir, 'run/agent.sock');
  const run = (...argv: string[]) => runToEnd(node, [join(root, 'bin/pitwarden'), ...argv, '--socket', socket]);
  const agent: TestAgent = {
    pid: child.pid ?? 0,
    dir,
    socket,
    get http() {
      return /http:\/\/(127\.0\.0\.1:\d+)/.exec(output)?.[1] ?? '';
    },
    output: () => output,
    cli: run,
    json: async <T>(...argv: string[]) => {
      const { code, stdout, stderr } = await run(...argv, '--json');
      if (code !== 0) throw new Error(`${argv.join(' ')} exited ${code}: ${stderr}`);
      return JSON.parse(stdout) as T;
    },
    workers: async (pool) => {
      const all = await agent.json<ListedWorker[]>('workers');
      return pool === undefined ? all : all.filter((worker) => worker.pool === pool);
    },
    config: (text) => writeFileSync(join(dir, 'pitwarden.yaml'), configText(text, '')),
    signal: (signal) => {
      if (!over) process.kill(agent.pid, signal);
    },
    exited,
    stop: async () => {
      agent.signal('SIGTERM');
      await exited;
      const left = processesOf(dir);
      rmSync(dir, { recursive: true, force: true });
      if (left.length > 0) throw new Error(`processes left behind: ${left.join(', ')}\n${output}`);
    },
  };
  await until(
    () => over || /listening: http/.test(output),
    'the agent to listen',
    () => output,
  );
  if (over) throw new Error(`the agent did not start:\n${output}`);
  return agent;
}

/** Live processes whose environment names this folder: the agent's workers and whatever they left behind. */
export function processesOf(dir: string): number[] {
  const found: number[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const environ = readFileSync(`/proc/${name}/environ`, 'latin1');
      const zombie = /^State:\s+Z/m.test(readFileSync(`/proc/${name}/status`, 'latin1'));
      if (!zombie && environ.includes(`PITWARDEN_LINK=${dir}/`)) found.push(Number(name));
    } catch {
      // The process has exited, or is not ours to read.
    }
  }
  return found;
}

export function runToEnd(
  file: string,
  args: string[],
  input?: string,
): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (data) => {
      stdout += data;
    });
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, stdout, stderr }));
    // A program may exit without having read its input.
    child.stdin.on('error', () => undefined);
    child.stdin.end(input ?? '');
  });
}

/** Sends Ctrl-C repeatedly, like an impatient user. Signals in quick succession count as one. */
export async function interruptUntilGone(agent: TestAgent): Promise<void> {
  const hurry = setInterval(() => agent.signal('SIGINT'), 100);
  await agent.exited;
  clearInterval(hurry);
}

/** Waits for a condition. If it does not come true, fails with what it waited for and the last value it saw. */
export async function until<T>(
  condition: () => T | Promise<T>,
  what: string,
  seen: () => unknown = () => '',
  timeoutMs = 30_000,
): Promise<NonNullable<T>> {
  const endsAt = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > endsAt)
      throw new Error(`waited ${timeoutMs} ms for ${what}; last seen: ${JSON.stringify(await seen())}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Log lines may reach the test after an answer that was sent later. */
export async function untilLogged({ output }: TestAgent, wanted: string | RegExp): Promise<void> {
  const isThere = (): boolean => (typeof wanted === 'string' ? output().includes(wanted) : wanted.test(output()));
  await until(isThere, `the log to have ${wanted}`, output);
}

export async function untilReady(agent: TestAgent, pool: string, count: number): Promise<ListedWorker[]> {
  return until(
    async () => {
      const ready = (await agent.workers(pool)).filter((worker) => worker.state === 'WORKER_STATE_READY');
      return ready.length === count ? ready : undefined;
    },
    `${count} ready workers of ${pool}`,
    async () => [await agent.workers(pool), agent.output().slice(-2000)],
  ) as Promise<ListedWorker[]>;
}
