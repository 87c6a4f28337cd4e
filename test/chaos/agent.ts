import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ClientDuplexStream, ClientReadableStream, ServiceClientConstructor } from '@grpc/grpc-js';
import { credentials, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import type { Subject } from '../../bench/processes.ts';
import { startSubject } from '../../bench/processes.ts';

/** The checkout: this file runs from .pitwarden/chaos/test/chaos/. */
export const root = fileURLToPath(new URL('../../../../', import.meta.url));

export interface ChaosWorker {
  readonly worker_id: string;
  readonly pool: string;
  readonly pid: number;
  readonly state: string;
}

export interface ChaosExit {
  readonly worker_id: string;
  readonly pool: string;
  readonly reason: string;
  readonly unplanned: boolean;
  readonly signal: string;
  readonly exited_at_ms: number;
}

export interface ChaosPool {
  readonly pool: string;
  readonly size: number;
  readonly workers_ready: number;
}

export interface SubmitResult {
  readonly request_id: string;
  /** One of these two. */
  readonly response?: { readonly payload: Buffer; readonly worker_id: string };
  readonly error?: ChaosError;
  readonly more: boolean;
}

export interface ChaosError {
  readonly code: number;
  readonly message: string;
  readonly worker_id: string;
  readonly exit_reason: string;
}

export type SubmitStream = ClientDuplexStream<object, { readonly results: readonly SubmitResult[] }>;

/** A real agent as its users run it, and what may be done to it. */
export interface ChaosAgent extends Subject {
  submit(): SubmitStream;
  workers(): Promise<readonly ChaosWorker[]>;
  pools(): Promise<readonly ChaosPool[]>;
  exits(): Promise<readonly ChaosExit[]>;
  recycle(workerId: string): Promise<void>;
  /** Replaces all workers of a pool; how it ended: `ROLL_STATE_DONE` and the like, or why it could not be followed. */
  roll(pool: string): Promise<string>;
  scale(pool: string, size: number): Promise<void>;
  /** A new file, and SIGHUP. */
  reload(pools: string): void;
  /** Ids of the requests that commands wrote down, once for each run. */
  runs(): string[];
  /** Live processes that carry this agent's folder in their environment. */
  processes(): number[];
  /** Removes its folder, and closes the connections. */
  clear(): void;
}

/** Pools in YAML, each a line `name: { … }` without the app. */
export async function startChaosAgent(pools: string): Promise<ChaosAgent> {
  const folder = mkdtempSync(join(tmpdir(), 'pitwarden-chaos-'));
  const runs = join(folder, 'runs');
  mkdirSync(runs);
  const config = join(folder, 'pitwarden.yaml');
  const write = (text: string): void => {
    const common = `app: chaos_app:app, python: ${root}.venv/bin/python, cwd: ${root}test/chaos`;
    const lines = text.replaceAll('COMMON', common).replaceAll('FOLDER', runs);
    writeFileSync(config, `log: { format: json }\npools:\n${lines}\n`);
  };
  write(pools);
  const flags = ['--runtime-dir', join(folder, 'run'), '--state-dir', join(folder, 'state'), '--http', 'off'];
  const subject = await startSubject(
    process.execPath,
    [join(root, 'bin/pitwarden'), 'agent', '--config', config, ...flags],
    { ready: /ready to serve/, readyWithinMs: 120_000 },
  );
  const targetOf = (socket: string): string => `unix:${join(folder, 'run', socket)}`;
  const channel = { 'grpc.max_receive_message_length': -1, 'grpc-node.flow_control_window': 16 * 1024 * 1024 };
  const execution = new (service('Execution'))(targetOf('agent.sock'), credentials.createInsecure(), channel);
  const control = new (service('Control'))(targetOf('control.sock'), credentials.createInsecure(), channel);
  const ask = <T>(method: string, message: object): Promise<T> =>
    new Promise((resolve, reject) => {
      const call = control[method] as unknown as (...args: unknown[]) => void;
      call.call(control, message, (error: Error | null, answer: T) => (error ? reject(error) : resolve(answer)));
    });
  return {
    ...subject,
    submit: () => (execution['Submit'] as unknown as () => SubmitStream).call(execution),
    workers: async () => (await ask<{ workers: ChaosWorker[] }>('ListWorkers', {})).workers,
    pools: async () => (await ask<{ pools: ChaosPool[] }>('ListPools', {})).pools,
    exits: async () => (await ask<{ exits: ChaosExit[] }>('ListExits', {})).exits,
    roll: (pool) =>
      new Promise((resolve) => {
        const follow = control['RollPool'] as unknown as (request: object) => ClientReadableStream<{ state: string }>;
        const call = follow.call(control, { pool });
        let last = '';
        call.on('data', ({ state }) => {
          last = state;
        });
        call.on('end', () => resolve(last));
        call.on('error', (error) => resolve(error.message));
      }),
    recycle: (workerId) => ask('RecycleWorker', { worker_id: workerId }),
    scale: (pool, size) => ask('ScalePool', { pool, size }),
    reload: (text) => {
      write(text);
      process.kill(subject.pid, 'SIGHUP');
    },
    runs: () => readdirSync(runs).flatMap((name) => readFileSync(join(runs, name), 'utf8').trim().split('\n')),
    processes: () => processesOf(folder),
    clear: () => {
      execution.close();
      control.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export function service(name: string): ServiceClientConstructor {
  const definition = loadSync(
    ['execution', 'control'].map((file) => `pitwarden/v1/${file}.proto`),
    {
      includeDirs: [`${root}proto`],
      keepCase: true,
      longs: Number,
      enums: String,
      defaults: true,
      oneofs: true,
    },
  );
  const loaded = loadPackageDefinition(definition) as unknown as {
    pitwarden: { v1: Record<string, ServiceClientConstructor> };
  };
  const found = loaded.pitwarden.v1[name];
  if (found === undefined) throw new Error(`proto: expected a service ${name}, got none`);
  return found;
}

/** Whether this pid still is that worker: a pid may have been taken by another process meanwhile. */
export function isWorker(pid: number, workerId: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`PITWARDEN_WORKER_ID=${workerId}`);
  } catch {
    return false;
  }
}

/** Live processes that carry this agent's folder in their environment. */
export function processesOf(folder: string): number[] {
  const found: number[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const zombie = /^State:\s+Z/m.test(readFileSync(`/proc/${name}/status`, 'latin1'));
      const environ = readFileSync(`/proc/${name}/environ`, 'latin1');
      if (!zombie && environ.includes(`PITWARDEN_LINK=${folder}/`)) found.push(Number(name));
    } catch {
      // It ended meanwhile, or is not ours to read.
    }
  }
  return found;
}
