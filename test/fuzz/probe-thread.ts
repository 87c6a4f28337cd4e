import { readdirSync, readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import type { Client, ServiceError } from '@grpc/grpc-js';
import { credentials } from '@grpc/grpc-js';
import { service } from '../chaos/agent.ts';
import type { Probed, ProbeSettings } from './probe.ts';

/** Runs beside the fuzzer's own work, in a thread: calls the agent as an ordinary caller does, with a connection of its own. */

const everyMs = 20;
const timeoutMs = 10_000;
const outstandingMost = 32;

const { socket, agentPid, workerPid } = workerData as ProbeSettings;
const client = new (service('Execution'))(`unix:${socket}`, credentials.createInsecure()) as Client;

let probed: Probed[] = [];
let outstanding = 0;
const pending = new Set<number>();

interface Use {
  readonly ranMs: number;
  /** It could run, and no core was free. */
  readonly waitedMs: number;
}

/** Of one thread; nothing where it has ended, or where this kernel does not tell. */
function useOf(thread: string): Use {
  try {
    const [ran, waited] = readFileSync(`/proc/${thread}/schedstat`, 'latin1').split(' ');
    return { ranMs: Number(ran) / 1e6, waitedMs: Number(waited) / 1e6 };
  } catch {
    return { ranMs: 0, waitedMs: 0 };
  }
}

interface Snapshot {
  readonly atMs: number;
  readonly agent: Use;
  readonly agentHelpers: ReadonlyMap<string, Use>;
  readonly workers: readonly Use[];
  /** That the host of a virtual machine took from all its cores. */
  readonly stolenMs: number;
}

const agentMain = String(agentPid);
const workerTasks = readdirSync(`/proc/${workerPid}/task`);

function snapshot(): Snapshot {
  const helpers = tasksOf(agentPid).filter((task) => task !== agentMain);
  return {
    atMs: performance.now(),
    agent: useOf(`${agentPid}/task/${agentMain}`),
    agentHelpers: new Map(helpers.map((task) => [task, useOf(`${agentPid}/task/${task}`)])),
    workers: workerTasks.map((task) => useOf(`${workerPid}/task/${task}`)),
    stolenMs: Number(/^cpu +(?:\d+ +){7}(\d+)/.exec(readFileSync('/proc/stat', 'latin1'))?.[1] ?? 0) * 10,
  };
}

function tasksOf(pid: number): readonly string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/**
 * How much of the time between two snapshots the machine took: the agent's main thread or the worker waited for a core, or the
 * agent's main thread stood still while one of its helpers (for garbage collection) waited for one.
 */
function machineMs(before: Snapshot, after: Snapshot): number {
  const agentWaited = waitedMs(before.agent, after.agent);
  const agentRan = after.agent.ranMs - before.agent.ranMs;
  const agentStood = Math.max(0, after.atMs - before.atMs - agentRan - agentWaited);
  const helperWaited = [...after.agentHelpers].map(([task, use]) => waitedMs(before.agentHelpers.get(task), use));
  return (
    agentWaited +
    Math.min(agentStood, Math.max(0, ...helperWaited)) +
    after.workers.reduce((sum, use, index) => sum + waitedMs(before.workers[index], use), 0) +
    (after.stolenMs - before.stolenMs)
  );
}

/** Of a thread that began or ended meanwhile nothing is known. */
function waitedMs(from: Use | undefined, to: Use): number {
  return Math.max(0, to.waitedMs - (from ?? to).waitedMs);
}

/**
 * What this thread had waited at the end of the last turn of its event loop. Waiting for a core delays a call only in the turn that
 * sends it, and from the end of the turn before the one that reads the answer: in between, the call does not need this thread.
 */
let lastTurn = useOf('thread-self');

function probe(): void {
  if (outstanding >= outstandingMost) return;
  outstanding += 1;
  const [before, ownBefore] = [snapshot(), useOf('thread-self')];
  pending.add(before.atMs);
  let sendingMs = 0;
  setImmediate(() => {
    lastTurn = useOf('thread-self');
    sendingMs = waitedMs(ownBefore, lastTurn);
  });
  const execute = (client as unknown as Record<string, (...rest: unknown[]) => void>)['Execute'];
  const request = { pool: 'probe', command: 'echo', payload: Buffer.from('["probe"]') };
  execute?.call(client, request, { deadline: Date.now() + timeoutMs }, (error: ServiceError | null) => {
    const after = snapshot();
    const readingMs = waitedMs(lastTurn, useOf('thread-self'));
    setImmediate(() => {
      lastTurn = useOf('thread-self');
    });
    outstanding -= 1;
    pending.delete(before.atMs);
    const ms = after.atMs - before.atMs;
    const judgedMs = Math.max(0, ms - machineMs(before, after) - sendingMs - readingMs);
    probed.push({ ms, judgedMs, error: error?.message ?? '' });
  });
}

const timer = setInterval(probe, everyMs);
parentPort?.on('message', async (what: 'take' | 'end') => {
  // What has not been answered yet is of this round as well.
  const askedAtMs = performance.now();
  while ([...pending].some((startedAtMs) => startedAtMs <= askedAtMs)) await new Promise((go) => setTimeout(go, 5));
  parentPort?.postMessage(probed);
  probed = [];
  if (what !== 'end') return;
  clearInterval(timer);
  client.close();
  parentPort?.close();
});
