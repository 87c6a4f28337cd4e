import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Client } from '@grpc/grpc-js';
import { credentials } from '@grpc/grpc-js';
import type { Subject } from '../../bench/processes.ts';
import { pause, startSubject } from '../../bench/processes.ts';
import type { ChaosPool, ChaosWorker } from '../chaos/agent.ts';
import { processesOf, root, service } from '../chaos/agent.ts';

/** Small enough that a leak shows and that what the budget allows does not hide one. */
export const budgetMib = 128;

export interface Use {
  /** Of its heap and buffers, garbage collected. */
  readonly heldMib: number;
  readonly descriptors: number;
}

/** The agent that is attacked, and its folder, in which one agent can follow another. */
export interface FuzzTarget {
  readonly folder: string;
  readonly socket: string;
  readonly link: string;
  readonly config: string;
  readonly lies: string;
  readonly configText: string;
  pid(): number;
  httpPort(): number;
  /** The end of what it has printed. */
  output(): string;
  /** How many characters it has printed. */
  printed(): number;
  /** What it has printed since it had printed so many, as far as that is kept. */
  outputSince(printed: number): string;
  /** Why it is no healthy process; undefined: it is one. */
  dead(): string | undefined;
  start(): Promise<void>;
  /** Ends it with this signal, and waits for its end. */
  end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void>;
  control<T>(method: string, request?: object, withinMs?: number): Promise<T>;
  execute(pool: string, command: string, withinMs: number): Promise<string>;
  workers(pool: string): Promise<ChaosWorker[]>;
  /** Why its pools do not serve; undefined: they do. */
  notWhole(): Promise<string | undefined>;
  use(): Promise<Use>;
  /** The most memory that it has had at once since the last `forgetPeak`. */
  peakMib(): number;
  forgetPeak(): void;
  /** Ends whatever is left of it, and removes the folder. */
  clear(): Promise<void>;
}

const ownPython = join(root, '.venv/bin/python');
const here = join(root, 'test/fuzz');

export function prepareTarget(): FuzzTarget {
  const folder = mkdtempSync(join(tmpdir(), 'pw-fuzz-'));
  const path = (name: string): string => join(folder, name);
  const [config, socket, lies, liar] = [path('pitwarden.yaml'), path('run/agent.sock'), path('lies'), path('liar')];
  const configText = configOf(liar, lies);
  writeFileSync(liar, `#!/bin/sh\nexec ${ownPython} ${join(here, 'liar.py')}\n`);
  chmodSync(liar, 0o755);
  writeFileSync(config, configText);
  const collector = path('collect.sock');
  const collect = join(root, '.pitwarden/fuzz/test/fuzz/collect.js');
  const flags = ['--runtime-dir', path('run'), '--state-dir', path('state'), '--http', '127.0.0.1:0'];
  const args = ['--expose-gc', '--import', collect, join(root, 'bin/pitwarden'), 'agent', '--config', config, ...flags];
  const clients: Client[] = [];
  const client = (name: string, at: string): Client => {
    const made = new (service(name))(`unix:${at}`, credentials.createInsecure(), {
      'grpc.initial_reconnect_backoff_ms': 20,
      'grpc.max_reconnect_backoff_ms': 100,
    });
    clients.push(made);
    return made;
  };
  const [control, execution] = [client('Control', path('run/control.sock')), client('Execution', socket)];
  let agent: Subject | undefined;
  let httpPort = 0;
  const pid = (): number => agent?.pid ?? 0;
  const ask = <T>(of: Client, method: string, request: object, withinMs: number): Promise<T> =>
    new Promise((resolve, reject) => {
      const call = (of as unknown as Record<string, (...rest: unknown[]) => void>)[method];
      const deadline = Date.now() + withinMs;
      call?.call(of, request, { deadline }, (error: Error | null, answer: T) =>
        error ? reject(error) : resolve(answer),
      );
    });
  const target: FuzzTarget = {
    ...{ folder, socket, link: path('run/link/link.sock'), config, lies, configText, pid },
    httpPort: () => httpPort,
    output: () => agent?.output() ?? '',
    printed: () => agent?.printed() ?? 0,
    outputSince: (printed) => {
      const all = agent?.output() ?? '';
      const fresh = (agent?.printed() ?? 0) - printed;
      // Of a new agent all is new.
      return fresh < 0 ? all : all.slice(Math.max(0, all.length - fresh));
    },
    dead: () => (existsSync(`/proc/${pid()}/fd`) && stateOf(pid()) !== 'Z' ? undefined : 'the agent has ended'),
    start: async () => {
      rmSync(collector, { force: true });
      const options = { ready: /listening: http/, readyWithinMs: 30_000, env: { COLLECT_SOCKET: collector } };
      agent = await startSubject(process.execPath, args, options);
      httpPort = Number(/http:\/\/127\.0\.0\.1:(\d+)/.exec(agent.output())?.[1]);
      if (!(httpPort > 0)) throw new Error(`the agent: expected its HTTP port in\n${agent.output()}`);
    },
    end: async (signal) => {
      const ended = pid();
      if (target.dead() === undefined) process.kill(ended, signal);
      const endsAtMs = performance.now() + 40_000;
      while (target.dead() === undefined) {
        if (performance.now() > endsAtMs) throw new Error(`the agent: expected its end after ${signal}, waited 40 s`);
        await pause(10);
      }
    },
    control: (method, request = {}, withinMs = 10_000) => ask(control, method, request, withinMs),
    execute: (pool, command, withinMs) =>
      ask<{ worker_id: string }>(execution, 'Execute', { pool, command, payload: Buffer.from('[]') }, withinMs).then(
        ({ worker_id: workerId }) => workerId,
      ),
    workers: async (pool) => (await target.control<{ workers: ChaosWorker[] }>('ListWorkers', { pool })).workers,
    notWhole: async () => {
      try {
        const { pools } = await target.control<{ pools: ChaosPool[] }>('ListPools');
        for (const name of ['probe', 'p']) {
          const found = pools.find(({ pool }) => pool === name);
          if (found === undefined) return `pool ${name} is missing`;
          if (found.size !== 1 || found.workers_ready < 1) return `pool ${name}: ${JSON.stringify(found)}`;
          await target.execute(name, 'echo', 5_000);
        }
        return undefined;
      } catch (error) {
        return error instanceof Error ? error.message : String(error);
      }
    },
    use: async () => ({
      heldMib: (await collectAt(collector)) / 1024 / 1024,
      descriptors: readdirSync(`/proc/${pid()}/fd`).length,
    }),
    peakMib: () => Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid()}/status`, 'utf8'))?.[1] ?? 0) / 1024,
    forgetPeak: () => writeFileSync(`/proc/${pid()}/clear_refs`, '5'),
    clear: async () => {
      for (const each of clients) each.close();
      if (target.dead() === undefined) await target.end('SIGKILL');
      await agent?.stop();
      for (const left of processesOf(folder)) kill(left);
      rmSync(folder, { recursive: true, force: true });
    },
  };
  return target;
}

function configOf(liar: string, lies: string): string {
  const common = `app: fuzz_app:app, cwd: ${here}, restart: { backoff: { min: 10ms, max: 50ms }, quarantine_after: 1000 }`;
  const keep = 'request: { keep: { for: 1s } }, orphan_timeout: 5s, drain: { timeout: 1s, kill_after: 1s }';
  return `log: { format: json }
memory_floor: off
message: { budget: ${budgetMib}MiB }
pools:
  probe: { ${common}, python: ${ownPython}, concurrency: 4 }
  p: { ${common}, python: ${ownPython}, concurrency: 2, ${keep} }
  liar: { ${common}, python: ${liar}, concurrency: 4, env: { FUZZ_LIES: ${lies} }, ${keep} }
`;
}

function collectAt(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let text = '';
    socket.on('data', (data) => {
      text += data.toString();
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(Number(text)));
  });
}

function stateOf(pid: number): string {
  try {
    return /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? '';
  } catch {
    return 'Z';
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has gone already.
  }
}
