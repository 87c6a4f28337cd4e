import { readdirSync, readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import type { Client, ServiceError } from '@grpc/grpc-js';
import { credentials, Server, ServerCredentials } from '@grpc/grpc-js';
import { service } from '../chaos/agent.ts';
import type { Probed, ProbeSettings } from './probe.ts';

/** Runs beside the fuzzer's own work, in a thread: calls the agent as an ordinary caller does, with a connection of its own. */

const everyMs = 20;
const timeoutMs = 10_000;
const outstandingMost = 32;

const { socket, bareSocket, agentPid, workerPid } = workerData as ProbeSettings;
const Execution = service('Execution');
const bare = new Server();
bare.addService(Execution.service, { Execute: (_: unknown, answer: (e: null, a: object) => void) => answer(null, {}) });
await new Promise<void>((resolve, reject) =>
  bare.bindAsync(`unix:${bareSocket}`, ServerCredentials.createInsecure(), (error) =>
    error ? reject(error) : resolve(),
  ),
);
const [agentClient, bareClient] = [socket, bareSocket].map((path) => {
  return new Execution(`unix:${path}`, credentials.createInsecure()) as Client;
}) as [Client, Client];

let probed: Probed[] = [];
let outstanding = 0;
const pending = new Set<number>();

/** How long threads that could run had to wait for a core, in ms. */
function waitedMs(pid: number, tasks: readonly string[]): number {
  let sum = 0;
  for (const task of tasks) {
    try {
      sum += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'latin1').split(' ')[1]) / 1e6;
    } catch {
      // It has ended, or this kernel does not tell: then nothing is taken off.
    }
  }
  return sum;
}

const workerTasks = readdirSync(`/proc/${workerPid}/task`);
const machineMs = (): number => waitedMs(agentPid, [String(agentPid)]) + waitedMs(workerPid, workerTasks);

function call(client: Client): Promise<{ ms: number; error: string }> {
  const startedAtMs = performance.now();
  return new Promise((resolve) => {
    const execute = (client as unknown as Record<string, (...rest: unknown[]) => void>)['Execute'];
    const request = { pool: 'probe', command: 'echo', payload: Buffer.from('["probe"]') };
    const deadline = Date.now() + timeoutMs;
    execute?.call(client, request, { deadline }, (error: ServiceError | null) =>
      resolve({ ms: performance.now() - startedAtMs, error: error === null ? '' : error.message }),
    );
  });
}

async function probe(): Promise<void> {
  if (outstanding >= outstandingMost) return;
  outstanding += 1;
  const startedAtMs = performance.now();
  pending.add(startedAtMs);
  const before = machineMs();
  const [agent, machine] = await Promise.all([call(agentClient), call(bareClient)]);
  const excusedMs = machine.ms + (machineMs() - before);
  outstanding -= 1;
  pending.delete(startedAtMs);
  probed.push({ ms: agent.ms, judgedMs: Math.max(0, agent.ms - excusedMs), error: agent.error });
}

const timer = setInterval(() => void probe(), everyMs);
parentPort?.on('message', async (what: 'take' | 'end') => {
  // What has not been answered yet is of this round as well.
  const askedAtMs = performance.now();
  while ([...pending].some((startedAtMs) => startedAtMs <= askedAtMs)) await new Promise((go) => setTimeout(go, 5));
  parentPort?.postMessage(probed);
  probed = [];
  if (what !== 'end') return;
  clearInterval(timer);
  bare.forceShutdown();
  agentClient.close();
  bareClient.close();
  parentPort?.close();
});
