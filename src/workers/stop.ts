import type { Dispatch } from '../dispatch/dispatch.ts';
import type { Action } from '../domain/action.ts';
import { terminateGroup } from '../os/process/send-signal.ts';
import { sweepTree } from '../os/process/tree.ts';
import { removeFile } from '../os/storage/remove-file.ts';
import type { Log } from '../telemetry/log.ts';
import { inspect } from './evidence.ts';
import type { WorkerHandle } from './handle.ts';
import { lastBegunLinkId } from './handle.ts';
import type { WorkerParts } from './parts.ts';
import { messageOf } from './parts.ts';

/** How long a sweep may take before the survivors are reported. A process that cannot be killed waits on a device. */
export const sweepTimeoutMs = 10_000;

/** How many processes a warning lists. */
const suspectsNamed = 10;

export function terminate(handle: WorkerHandle | undefined): void {
  if (handle?.identity) terminateGroup(handle.identity);
}

/** Records the worker's stacks, then kills it even if that failed. */
export function inspectThenKill(
  parts: WorkerParts,
  handle: WorkerHandle | undefined,
  { workerId, inspectBecause }: Action & { readonly type: 'kill' },
): void {
  const kill = (): void => sweep(parts, handle, { type: 'kill', workerId });
  if (handle === undefined) return kill();
  void inspect(parts, handle, inspectBecause).then(kill);
}

/**
 * Kills the worker's whole process tree. The type `sweep`, used after its exit, reports `gone` when nothing is left.
 */
export function sweep(
  { enqueue, log }: Pick<WorkerParts, 'enqueue' | 'log'>,
  handle: WorkerHandle | undefined,
  { type, workerId }: { readonly type: 'kill' | 'sweep'; readonly workerId: string },
): void {
  const done = (survivors: readonly number[]): void => {
    if (type === 'sweep') enqueue({ type: 'gone', workerId, survivors });
  };
  const identity = handle?.identity ?? null;
  // It never had a process.
  if (identity === null) return done([]);
  const endedAtTicks = handle?.process?.endedAtTicks();
  const target = { identity, workerId, endedAtTicks, known: handle?.known };
  void sweepTree(target, { timeoutMs: sweepTimeoutMs, cgroup: handle?.cgroup }).then(
    ({ survivors, suspects }) => {
      if (type === 'sweep') warnOfSuspects(log, workerId, suspects);
      done(survivors);
    },
    (error: unknown) => {
      log.error(`sweep failed: ${messageOf(error)}`, { worker_id: workerId });
      done([identity.pid]);
    },
  );
}

/** Warns of other users' processes that may belong to the worker's tree, which cannot be proven. */
export function warnOfSuspects(log: Log, workerId: string, suspects: readonly number[]): void {
  if (suspects.length === 0) return;
  const named = suspects.slice(0, suspectsNamed).join(', ');
  const message = `${workerId}: ${suspects.length} processes of other users may belong to its process tree, and are left alone: ${named}`;
  log.warn(message, { worker_id: workerId });
}

/** Removes the worker from dispatch. If it marks the requests that it begins, only marked ones may have run. */
export function releaseWorker(
  dispatch: Pick<Dispatch, 'removeWorker'>,
  handle: WorkerHandle | undefined,
  { workerId, reason, message, crashed }: Action & { readonly type: 'release' },
): void {
  if (handle !== undefined) handle.released = true;
  dispatch.removeWorker(workerId, { reason, message, crashed, lastBegunLinkId: lastBegunLinkId(handle) });
}

/** Removes the entry and the files of a worker of which nothing is left. */
export function forgetWorker(
  { ledger }: Pick<WorkerParts, 'ledger'>,
  handles: Map<string, WorkerHandle>,
  workerId: string,
): void {
  ledger.forget(workerId);
  const handle = handles.get(workerId);
  if (handle === undefined) return;
  handle.released = true;
  handle.link?.close();
  handle.process?.close();
  handle.begun.remove();
  removeFile(handle.stacksPath);
  handle.cgroup?.remove();
  handles.delete(workerId);
}
