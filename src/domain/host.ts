import type { Draft } from './draft.ts';
import { record } from './draft.ts';
import { becomeDue } from './lifecycle.ts';
import { memoryBytes, slopeOf } from './policies/memory.ts';
import type { Host, Worker } from './state.ts';

/**
 * The guard of the host's memory. Below the floor no worker is started beside the one it replaces; if it stays there, the
 * worker that has grown most since it became ready is replaced, one at a time.
 */

const sampleEveryMs = 2_000;
/** Samples in a row below the floor after which a worker has to go. */
const lowSamplesMax = 2;
/** To replace one that has grown less gives nothing back. */
const growthMinBytes = 16 * 1024 * 1024;

/** Whether there is room for a replacement beside this worker: it will need about as much. */
export function mayStartBeside(draft: Draft, worker: Worker): boolean {
  const { floorBytes, availableBytes } = draft.node.host;
  if (floorBytes === 0 || availableBytes === 0) return true;
  return availableBytes - floorBytes >= memoryBytes(worker.usage);
}

export function hostSampled(draft: Draft, availableBytes: number): void {
  const { host } = draft.node;
  const low = host.floorBytes > 0 && availableBytes < host.floorBytes;
  setHost(draft, { availableBytes, lowSamples: low ? host.lowSamples + 1 : 0 });
  if (!low || host.lowSamples > 0) return;
  const message = `${availableBytes} bytes available, memory_floor ${host.floorBytes}: nothing is started beside what it replaces`;
  record(draft, { kind: 'host_memory_low', message, unplanned: true });
}

/** Looks again in time; the time of that. */
export function guardHost(draft: Draft): number {
  const { host } = draft.node;
  if (host.floorBytes === 0 || draft.node.phase === 'stopping' || draft.node.phase === 'stopped')
    return Number.POSITIVE_INFINITY;
  if (draft.facts.nowMs >= host.nextSampleAtMs) {
    setHost(draft, { nextSampleAtMs: (Math.floor(draft.facts.nowMs / sampleEveryMs) + 1) * sampleEveryMs });
    draft.actions.push({ type: 'sample-host' });
  }
  if (host.lowSamples >= lowSamplesMax) relieve(draft);
  return draft.node.host.nextSampleAtMs;
}

function relieve(draft: Draft): void {
  const { host } = draft.node;
  if (draft.workers.has(host.relief)) return;
  const leaker = largestLeaker(draft);
  if (leaker === undefined) return;
  setHost(draft, { relief: leaker.id, lowSamples: 0 });
  const grown = leaker.usage.rssBytes - leaker.usage.firstRssBytes;
  becomeDue(
    draft,
    leaker,
    'memory',
    `the host has ${host.availableBytes} bytes available; it has grown most, by ${grown}`,
  );
}

function largestLeaker(draft: Draft): Worker | undefined {
  let found: Worker | undefined;
  let most = growthMinBytes;
  for (const worker of draft.workers.values()) {
    const { rssBytes, firstRssBytes, history } = worker.usage;
    const grown = rssBytes - firstRssBytes;
    if (worker.phase !== 'ready' || worker.due !== null || firstRssBytes === 0 || grown < most) continue;
    // What has been given back already, or stands still after a large start, is not leaking.
    if (slopeOf(history) < 0) continue;
    found = worker;
    most = grown;
  }
  return found;
}

/** Not put: it is nothing that a watcher sees. */
function setHost(draft: Draft, patch: Partial<Host>): void {
  draft.node = { ...draft.node, host: { ...draft.node.host, ...patch } };
}
