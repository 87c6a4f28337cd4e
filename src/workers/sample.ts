import type { Action } from '../domain/action.ts';
import { availableMemory } from '../os/host-memory.ts';
import { sampleTree } from '../os/process/memory.ts';
import type { WorkerHandle } from './handle.ts';
import type { WorkerParts } from './parts.ts';

type Reporting = Pick<WorkerParts, 'enqueueDeferred' | 'sampleFailed'>;

export function sampleHost({ enqueueDeferred, sampleFailed }: Reporting): void {
  void availableMemory().then(
    (availableBytes) => enqueueDeferred({ type: 'host-sampled', availableBytes }),
    sampleFailed,
  );
}

/** Measures a worker's whole process tree. */
export function sample(
  { enqueueDeferred, sampleFailed }: Reporting,
  handle: WorkerHandle | undefined,
  { pssAboveBytes, pssBelowBytes }: Action & { readonly type: 'sample' },
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
    (taken) => taken !== undefined && enqueueDeferred({ type: 'sampled', workerId, sample: { ...taken, cgroupBytes } }),
    sampleFailed,
  );
}
