import type { Draft } from './draft.ts';
import { putNode, record } from './draft.ts';
import { becomeDue } from './lifecycle.ts';
import { heldMemory, memoryBytes, slopeOf } from './policies/memory.ts';
import type { HostMemory, Worker } from './state.ts';

/**
 * Guards the host's memory. While it is below the floor, no worker is started beside the one that it replaces. If it
 * stays there, the worker that has grown most since it became ready, and is still growing, is replaced; further ones
 * follow after a wait.
 */

const sampleEveryMs = 2_000;
/** Consecutive samples below the floor after which a worker is replaced. */
const lowSamplesMax = 2;
/** Replacing a worker that has grown less frees nothing. */
const growthMinBytes = 16 * 1024 * 1024;
const leakMinBytesPerS = 64 * 1024;
/**
 * Wait until the next replacement while the host stays below its floor, since the last one may not have helped. Each
 * wait doubles.
 */
const pressureWaitMs = { least: 30_000, most: 3_600_000 } as const;

/** Whether there is room for a replacement beside this worker, assuming that it needs as much memory. */
export function mayStartBeside(draft: Draft, worker: Worker): boolean {
  return headroom(draft) >= memoryBytes(worker.usage);
}

/**
 * Memory that replacements may use, minus what starting replacements still need to reach the size of their
 * predecessors.
 */
export function headroom(draft: Draft): number {
  const { floorBytes, availableBytes } = draft.node.host;
  if (floorBytes === 0 || availableBytes === 0) return Number.POSITIVE_INFINITY;
  return availableBytes - floorBytes - reservedBytes(draft);
}

function reservedBytes(draft: Draft): number {
  let reserved = 0;
  const workers = [...draft.workers.values()];
  for (const worker of workers) {
    if (worker.phase !== 'starting') continue;
    const before = workers.find(
      ({ id, pool, slot, phase }) =>
        id !== worker.id && pool === worker.pool && slot === worker.slot && phase !== 'exited',
    );
    if (before !== undefined) reserved += Math.max(0, memoryBytes(before.usage) - memoryBytes(worker.usage));
  }
  return reserved;
}

export function hostSampled(draft: Draft, availableBytes: number): void {
  const { host } = draft.node;
  const low = host.floorBytes > 0 && availableBytes < host.floorBytes;
  const enough = low ? {} : { pressureRecycles: 0 };
  setHost(draft, { availableBytes, lowSamples: low ? host.lowSamples + 1 : 0, ...enough });
  if (!low || host.lowSamples > 0) return;
  const message = `${availableBytes} bytes available, memory_floor ${host.floorBytes}: workers are stopped before their replacements start`;
  record(draft, { kind: 'host_memory_low', message, unplanned: true });
}

/** Requests a sample of the host if one is due. Returns when the next one is due. */
export function guardHost(draft: Draft): number {
  const { host } = draft.node;
  if (host.floorBytes === 0 || draft.node.phase === 'stopping' || draft.node.phase === 'stopped')
    return Number.POSITIVE_INFINITY;
  if (draft.facts.nowMs >= host.nextSampleAtMs) {
    setHost(draft, { nextSampleAtMs: (Math.floor(draft.facts.nowMs / sampleEveryMs) + 1) * sampleEveryMs });
    draft.actions.push({ type: 'sample-host' });
  }
  if (host.lowSamples >= lowSamplesMax) recycleLeaker(draft);
  return draft.node.host.nextSampleAtMs;
}

function recycleLeaker(draft: Draft): void {
  const { host } = draft.node;
  const { nowMs } = draft.facts;
  if (nowMs < host.nextPressureRecycleAtMs) return;
  const leaker = largestLeaker(draft);
  if (leaker === undefined) return;
  const waitMs = Math.min(pressureWaitMs.most, pressureWaitMs.least * 2 ** host.pressureRecycles);
  setHost(draft, { pressureRecycles: host.pressureRecycles + 1, nextPressureRecycleAtMs: nowMs + waitMs });
  const grown = grownBytes(leaker);
  becomeDue(
    draft,
    leaker,
    'memory',
    `the host has ${host.availableBytes} bytes available; this worker has grown most, by ${grown} bytes`,
  );
}

function largestLeaker(draft: Draft): Worker | undefined {
  let found: Worker | undefined;
  let most = growthMinBytes;
  for (const worker of draft.workers.values()) {
    if (worker.phase !== 'ready' || worker.due !== null || worker.usage.firstBytes === 0) continue;
    // A worker that no longer grows would be just as large after a replacement, even if it started large.
    if (grownBytes(worker) < most || slopeOf(worker.usage.history) < leakMinBytesPerS) continue;
    found = worker;
    most = grownBytes(worker);
  }
  return found;
}

function grownBytes({ usage }: Worker): number {
  return heldMemory(usage) - usage.firstBytes;
}

export function setHost(draft: Draft, patch: Partial<HostMemory>): void {
  putNode(draft, { host: { ...draft.node.host, ...patch } });
}
