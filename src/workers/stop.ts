import type { Dispatch } from '../dispatch/dispatch.ts';
import type { Action } from '../domain/action.ts';
import { terminateGroup } from '../os/process/signal.ts';
import { sweepTree } from '../os/process/tree.ts';
import { removeFile } from '../os/storage/remove-file.ts';
import type { Log } from '../telemetry/log.ts';
import { inspect } from './evidence.ts';
import type { WorkerHandle } from './handle.ts';
import { lastBegunLinkId } from './handle.ts';
import type { WorkerParts } from './parts.ts';
import { messageOf } from './parts.ts';

/** How long a sweep may take before the survivors are reported; an unkillable process waits on a device. */
export const sweepTimeoutMs = 10_000;

/** Processes that a warning names. */
const suspectsNamed = 10;

export function terminate(handle: WorkerHandle | undefined): void {
  if (handle?.identity) terminateGroup(handle.identity);
}

/** Kills the worker after a look at its stacks, whatever comes of the look. */
export function inspectThenKill(
  parts: WorkerParts,
  handle: WorkerHandle | undefined,
  { workerId, stuck }: Action & { readonly type: 'kill' },
): void {
  const kill = (): void => sweep(parts, handle, { type: 'kill', workerId });
  if (handle === undefined) return kill();
  void inspect(parts, handle, stuck).then(kill);
}

/** Kills all of the worker's tree. A sweep, which comes after its exit, is reported when nothing is left. */
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

/** Names processes of other users that may be of the worker's tree: nothing proves whose they are. */
export function warnOfSuspects(log: Log, workerId: string, suspects: readonly number[]): void {
  if (suspects.length === 0) return;
  const named = suspects.slice(0, suspectsNamed).join(', ');
  const message = `${workerId}: ${suspects.length} processes of other users may be of its tree, and are left alone: ${named}`;
  log.warn(message, { worker_id: workerId });
}

/** Takes the worker from dispatch. Of a worker that marks what it begins, only marked requests may have run. */
export function release(
  dispatch: Pick<Dispatch, 'removeWorker'>,
  handle: WorkerHandle | undefined,
  { workerId, reason, message, crashed }: Action & { readonly type: 'release' },
): void {
  if (handle !== undefined) handle.released = true;
  dispatch.removeWorker(workerId, { reason, message, crashed, lastBegunLinkId: lastBegunLinkId(handle) });
}

/** Nothing is left of the worker: its entry and its files go. */
export function forget(
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
