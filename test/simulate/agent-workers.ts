import type { PoolConfig } from '../../src/domain/config.ts';
import type { WorkerSpec } from '../../src/domain/state.ts';
import type { LedgerEntry } from '../../src/os/storage/ledger.ts';
import { admit, reportAttached } from '../../src/workers/attach.ts';
import type { WorkerHandle } from '../../src/workers/handle.ts';
import { newHandle } from '../../src/workers/handle.ts';
import { renewEntry } from '../../src/workers/ledger-notes.ts';
import type { WorkerParts } from '../../src/workers/parts.ts';
import { messageOf } from '../../src/workers/parts.ts';
import type { Workers } from '../../src/workers/workers.ts';
import { createWorkers } from '../../src/workers/workers.ts';
import type { AgentHost } from './agent-host.ts';
import type { RunningAgent } from './running-agent.ts';
import type { SimulatedWorker } from './worker.ts';

export function partsOf(agent: RunningAgent, host: AgentHost): WorkerParts {
  const quiet = (): void => undefined;
  return {
    ...{ agentId: `agent ${agent.number}`, linkPath: '/run/link', apiSocket: '', payloadMaxBytes: 0 },
    ledger: agent.ledger,
    guardian: { watch: quiet, pid: () => undefined, killPredecessors: quiet, close: quiet },
    // Only parts of src/workers/ that are replaced below use these two.
    ...{ cgroups: undefined as never, outputDirectory: undefined as never },
    tasksOfAll: () => 0,
    dispatch: agent.dispatch,
    log: {
      ...{ debug: quiet, info: quiet, warn: quiet, error: quiet },
      ...{ end: () => Promise.resolve(false), endNow: () => false },
    },
    sampleFailed: quiet,
    nowMs: host.nowMs,
    enqueue: (event) => agent.enqueue(event),
    enqueueDeferred: (event) => agent.enqueueDeferred(event),
  };
}

/** The workers of src/workers/, except what is done with processes. */
export function createSimulatedWorkers(agent: RunningAgent, host: AgentHost, parts: WorkerParts): Workers {
  const workers = createWorkers(parts);
  const handles = workers.handles as Map<string, WorkerHandle>;
  const addHandle = (entry: LedgerEntry, pool: PoolConfig, adopted: boolean): WorkerHandle => {
    const mark = (): number => host.processes.get(entry.worker_id)?.session.begunThrough ?? 0;
    const begun = { path: '', read: mark, remove: () => undefined };
    const handle = newHandle(parts, { entry, pool, begun, cgroup: undefined, adopted });
    handles.set(entry.worker_id, handle);
    return handle;
  };
  const withProcess = (workerId: string, use: (worker: SimulatedWorker) => void): void => {
    const worker = host.processes.get(workerId);
    if (worker !== undefined) use(worker);
  };
  return {
    ...workers,
    spawn: (pool, spec) => {
      const handle = addHandle(newEntry(agent, spec), pool, false);
      void spawn(parts, agent, host, handle, handles).catch(host.failed);
    },
    admit: (action) => {
      host.settling();
      void admit(parts, handles.get(action.workerId), action).catch(host.failed);
    },
    adopt: ({ entry, identity: { bootId, pid, startTime }, pool }) => {
      const found = { boot_id: bootId, pid, start_time: startTime, agent_id: parts.agentId };
      const handle = addHandle({ ...entry, ...found }, pool, true);
      if (entry.pid === 0) void renewEntry(parts, handle);
    },
    sample: ({ workerId }) => withProcess(workerId, (worker) => sample(agent, host, worker)),
    terminate: (workerId) => withProcess(workerId, (worker) => worker.terminate()),
    inspect: () => undefined,
    kill: ({ workerId }) => withProcess(workerId, (worker) => kill(host, worker)),
    sweep: ({ workerId }) => {
      agent.later(host.processes.get(workerId)?.behaviour.sweepMs ?? 0, () => {
        agent.enqueue({ type: 'gone', workerId, survivors: [] });
      });
    },
    forget: (workerId) => {
      agent.ledger.forget(workerId);
      const handle = handles.get(workerId);
      if (handle !== undefined) handle.released = true;
      handles.delete(workerId);
      host.gone(workerId);
    },
  };
}

/** As src/workers/spawn.ts: into the ledger, then the process, then its identity into the ledger. */
async function spawn(
  parts: WorkerParts,
  agent: RunningAgent,
  host: AgentHost,
  handle: WorkerHandle,
  handles: Map<string, WorkerHandle>,
): Promise<void> {
  const { workerId } = handle;
  const { ledger, enqueue } = parts;
  const blocked = (error: unknown): void =>
    enqueue({ type: 'start-blocked', workerId, message: `the ledger cannot be written: ${messageOf(error)}` });
  try {
    await ledger.enter(handle.entry);
  } catch (error) {
    return blocked(error);
  }
  const started = host.start(workerId, handle.pool);
  if (typeof started === 'string') {
    await pass(agent, host, 1);
    return enqueue({ type: started, workerId, message: 'no process' });
  }
  const worker = started;
  await pass(agent, host, worker.behaviour.spawnMs);
  const identity = { pid: worker.pid, boot_id: 'b', start_time: '1' };
  handle.entry = { ...handle.entry, ...identity, state: 'starting', spawned_at_boot_ms: parts.nowMs() };
  try {
    await ledger.enter(handle.entry);
  } catch (error) {
    kill(host, worker);
    return agent.later(worker.behaviour.killMs, () => blocked(error));
  }
  enqueue({ type: 'spawned', workerId, pid: worker.pid });
  handle.recorded = true;
  if (handle.hello !== null) reportAttached(parts, handles, handle, handle.hello);
  if (worker.exit !== null) enqueue({ type: 'exited', workerId, exit: worker.exit, lastLines: ['the end'] });
}

/** Resolves after this time. If the agent has died by then, it never resolves, so nothing that awaits it goes on. */
function pass(agent: RunningAgent, host: AgentHost, ms: number): Promise<void> {
  return new Promise((resolve) =>
    agent.later(ms, () => {
      host.settling();
      resolve();
    }),
  );
}

function kill(host: AgentHost, worker: SimulatedWorker): void {
  host.later(worker.behaviour.killMs, () => worker.die({ code: null, signal: 'SIGKILL' }));
}

function sample(agent: RunningAgent, host: AgentHost, worker: SimulatedWorker): void {
  // Now and then the system does not tell.
  if (!worker.alive || host.random.chance(0.02)) return;
  const { workerId, memoryBytes, session, burnsCpu, bornAtMs } = worker;
  const burnedMs = burnsCpu || session.running > 0 ? host.nowMs() - bornAtMs : 0;
  const bytes = { rssBytes: memoryBytes, pssBytes: memoryBytes, cgroupBytes: 0 };
  const taken = { ...bytes, cpuMs: burnedMs, state: burnedMs > 0 ? 'R' : 'S' };
  agent.later(1, () => agent.enqueueDeferred({ type: 'sampled', workerId, sample: taken }));
}

function newEntry({ number }: RunningAgent, spec: WorkerSpec): LedgerEntry {
  return {
    ...{ worker_id: spec.id, pool: spec.pool, slot: spec.slot, generation: spec.generation },
    ...{ boot_id: '', pid: 0, start_time: '', agent_id: `agent ${number}`, state: 'spawning' },
    ...{ started_at_boot_ms: spec.startedAtMs, spawned_at_boot_ms: 0, ready_at_boot_ms: 0 },
    ...{ max_age_ms: spec.limits.maxAgeMs, max_requests: spec.limits.maxRequests, concurrency: spec.concurrency },
    ...{ fingerprint: spec.fingerprint, launch: spec.launch, verifier: '', repeats_token: false },
  };
}
