import type { Action } from '../domain/action.ts';
import type { Sample } from '../domain/event.ts';
import { availableMemory } from '../os/host-memory.ts';
import { sampleTree } from '../os/process/memory.ts';
import { busiestMs, readThreadTimes } from '../os/process/thread-times.ts';
import type { WorkerHandle } from './handle.ts';
import type { WorkerParts } from './parts.ts';

type Reporting = Pick<WorkerParts, 'enqueueDeferred' | 'sampleFailed'>;
type Sampling = Reporting & Pick<WorkerParts, 'nowMs'>;

export function sampleHost({ enqueueDeferred, sampleFailed }: Reporting): void {
  void availableMemory().then(
    (availableBytes) => enqueueDeferred({ type: 'host-sampled', availableBytes }),
    sampleFailed,
  );
}

/** Measures a worker's whole process tree. */
export function sample(
  { enqueueDeferred, sampleFailed, nowMs }: Sampling,
  handle: WorkerHandle | undefined,
  { pssAboveBytes, pssBelowBytes, watched }: Action & { readonly type: 'sample' },
): void {
  if (handle === undefined || handle.identity === null) return;
  const { workerId, identity, cgroup } = handle;
  const cgroupBytes = cgroup?.memoryBytes() ?? 0;
  const sampled = sampleTree(
    { identity, workerId, known: handle.known },
    {
      // The cgroup's own account is more accurate than PSS.
      readsPss: (rssBytes) => cgroupBytes === 0 && (rssBytes >= pssAboveBytes || rssBytes < pssBelowBytes),
      remember: (known) => {
        handle.known = known;
      },
    },
  );
  void sampled.then(
    // Undefined if nothing is left of the worker. Its exit is reported separately.
    (taken) => {
      if (taken === undefined) return;
      const busiest = watched ? busiestThread(handle, nowMs()) : unwatched(handle);
      enqueueDeferred({ type: 'sampled', workerId, sample: { ...taken, cgroupBytes, ...busiest } });
    },
    sampleFailed,
  );
}

function busiestThread(handle: WorkerHandle, atMs: number): Pick<Sample, 'busiestThread'> {
  const before = handle.threads;
  const times = readThreadTimes(handle.known.keys());
  handle.threads = times === null ? null : { atMs, times };
  if (before === null || times === null || atMs <= before.atMs) return {};
  return { busiestThread: busiestMs(before.times, times) / (atMs - before.atMs) };
}

/** A share over the long time until the worker is watched again would say nothing. */
function unwatched(handle: WorkerHandle): Pick<Sample, 'busiestThread'> {
  handle.threads = null;
  return {};
}
