import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Client } from '@grpc/grpc-js';
import { credentials } from '@grpc/grpc-js';
import type { Subject } from '../../bench/processes.ts';
import { pause, startSubject } from '../../bench/processes.ts';
import { createRandom } from '../simulate/random.ts';
import { processesOf, root, service } from './agent.ts';
import { say } from './chaos.ts';
import type { Repeating } from './repeating.ts';
import { startRepeating } from './repeating.ts';

/** The agent is killed and started again under load: its workers and their requests must not notice. */

const reportEvery = 20;
const attachWithinMs = 20_000;
const lastRequestsMs = 60_000;
/** Between an agent's being whole and its end. */
const livesMs = { least: 20, most: 500 } as const;

interface Entry {
  readonly worker_id: string;
  readonly pid: number;
  readonly attached: boolean;
  readonly state: string;
}

interface Host {
  readonly folder: string;
  readonly control: Client;
  start(): Promise<Subject>;
  registry(): Promise<readonly Entry[]>;
  runs(): string[];
}

export async function survive({ seed, rounds }: { seed: number; rounds: number }): Promise<readonly string[]> {
  const random = createRandom(seed);
  const host = prepare();
  let agent = await host.start();
  const first = await untilWhole(host, performance.now());
  const pids = pidsOf(first.entries);
  const load = startRepeating(join(host.folder, 'run/agent.sock'), createRandom(seed + 1));
  const wrong: string[] = [];
  const sinceListening: number[] = [];
  const sinceKill: number[] = [];
  const rssMib: number[] = [];
  for (let round = 1; round <= rounds && wrong.length === 0; round += 1) {
    await pause(random.int(livesMs.least, livesMs.most));
    rssMib.push(rssOf(agent.pid));
    const killedAtMs = performance.now();
    process.kill(agent.pid, 'SIGKILL');
    agent = await host.start();
    const listensAtMs = performance.now();
    const whole = await untilWhole(host, listensAtMs);
    sinceListening.push(whole.atMs - listensAtMs);
    sinceKill.push(whole.atMs - killedAtMs);
    const now = pidsOf(whole.entries);
    if (now !== pids) wrong.push(`round ${round}: expected the same workers, ${pids}, got ${now}`);
    wrong.push(...load.violations);
    if (round % reportEvery === 0 || round === rounds) tell(round, load, sinceListening, sinceKill);
  }
  if (!(await load.end(lastRequestsMs))) wrong.push(`${load.open()} requests never ended`);
  wrong.push(...load.violations, ...ranTwice(host.runs(), load.answered));
  const [early, late] = [median(rssMib.slice(0, 20)), median(rssMib.slice(-20))];
  say(`agent's RSS before its kill: ${early} MiB in the first rounds, ${late} MiB in the last`);
  await agent.stop();
  const left = processesOf(host.folder);
  if (left.length > 0) wrong.push(`processes: expected none after the agent's end, got ${left.join(', ')}`);
  if (wrong.length > 0) process.stderr.write(agent.output().slice(-20_000));
  host.control.close();
  rmSync(host.folder, { recursive: true, force: true });
  return [...new Set(wrong)];
}

function prepare(): Host {
  const folder = mkdtempSync(join(tmpdir(), 'pitwarden-survive-'));
  const runs = join(folder, 'runs');
  mkdirSync(runs);
  const config = join(folder, 'pitwarden.yaml');
  const common = `app: chaos_app:app, python: ${root}.venv/bin/python, cwd: ${root}test/chaos, env: { CHAOS_RUNS: ${runs} }`;
  writeFileSync(
    config,
    `log: { format: json }\npools:\n  p: { ${common}, size: 4 }\n  many: { ${common}, size: 2, concurrency: 4 }\n`,
  );
  const flags = ['--runtime-dir', join(folder, 'run'), '--state-dir', join(folder, 'state'), '--http', 'off'];
  const args = [join(root, 'bin/pitwarden'), 'agent', '--config', config, ...flags];
  const control = new (service('Control'))(`unix:${join(folder, 'run/control.sock')}`, credentials.createInsecure(), {
    'grpc.initial_reconnect_backoff_ms': 20,
    'grpc.max_reconnect_backoff_ms': 100,
  });
  return {
    folder,
    control,
    start: () => startSubject(process.execPath, args, { ready: /listening: / }),
    registry: () => registry(control),
    runs: () => readdirSync(runs).flatMap((name) => readFileSync(join(runs, name), 'utf8').trim().split('\n')),
  };
}

/** Empty while nobody answers. */
function registry(control: Client): Promise<readonly Entry[]> {
  return new Promise((resolve) => {
    const ask = (control as unknown as Record<string, (...args: unknown[]) => void>)['GetRegistry'];
    const deadline = Date.now() + 1_000;
    ask?.call(control, {}, { deadline }, (error: Error | null, answer: { workers: Entry[] }) =>
      resolve(error === null ? answer.workers : []),
    );
  });
}

/** All workers there and attached. */
async function untilWhole(host: Host, fromMs: number): Promise<{ entries: readonly Entry[]; atMs: number }> {
  for (;;) {
    const entries = await host.registry();
    const whole = entries.filter(({ attached, state }) => attached && state === 'WORKER_STATE_READY');
    if (entries.length === 6 && whole.length === 6) return { entries, atMs: performance.now() };
    if (performance.now() - fromMs > attachWithinMs) return { entries, atMs: performance.now() };
    await pause(2);
  }
}

function pidsOf(entries: readonly Entry[]): string {
  return entries
    .map(({ worker_id: id, pid }) => `${id}=${pid}`)
    .sort()
    .join(' ');
}

function rssOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Math.round(Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) / 1024);
}

function tell(round: number, load: Repeating, sinceListening: readonly number[], sinceKill: readonly number[]): void {
  say(
    `${round} agents killed: ${load.answered.size} requests answered, ${load.repeats} asked again; ` +
      `all attached after its listening ${spread(sinceListening)} ms, after the kill ${spread(sinceKill)} ms`,
  );
}

function spread(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0);
  return `p50 ${at(0.5)}, p99 ${at(0.99)}, most ${at(1)}`;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Each answered request ran once: commands write down their runs. */
function ranTwice(runs: readonly string[], answered: ReadonlySet<string>): string[] {
  const times = new Map<string, number>();
  for (const id of runs) times.set(id, (times.get(id) ?? 0) + 1);
  const wrong: string[] = [];
  for (const [id, count] of times) if (count > 1) wrong.push(`request ${id}: expected one run, got ${count}`);
  for (const id of answered) if (!times.has(id)) wrong.push(`request ${id}: answered, and never ran`);
  return wrong;
}
