import type { Resumed } from '../dispatch/worker.ts';
import type { Action } from '../domain/action.ts';
import type { PoolConfig } from '../domain/config.ts';
import type { OfferedCommand } from '../domain/state.ts';
import { boundByLife } from '../grpc/worker-link/sanitize.ts';
import type { LinkLimits, ProvenLink, WorkerFrame, WorkerHello } from '../grpc/worker-link/source.ts';
import { telemetryBytesPerS } from '../grpc/worker-link/telemetry.ts';
import { guard } from './guard.ts';
import type { WorkerHandle, WorkerHandles } from './handle.ts';
import { lastBegunLinkId } from './handle.ts';
import type { WorkerParts } from './parts.ts';
import { warmUpLinkId } from './warm-up.ts';

/** A worker's link, from the hello to its end, and the limits that are sent over it. */

export function attachWorker(parts: WorkerParts, handles: WorkerHandles, hello: WorkerHello, link: ProvenLink): void {
  const handle = handles.get(hello.worker_id);
  if (handle === undefined) return link.close();
  boundByLife(hello, parts.nowMs() - handle.entry.started_at_boot_ms);
  handle.link = link;
  handle.hello = hello;
  handle.resumed = withoutWarmUp(hello);
  handle.helloAtMs = parts.nowMs();
  handle.admitted = false;
  // The worker may attach before the ledger has its identity; then `spawn` reports it.
  if (handle.recorded) reportAttached(parts, handles, handle, hello);
}

/** A warm-up is not a request of dispatch. */
function withoutWarmUp({ resumed }: WorkerHello): Resumed | null {
  return resumed === null ? null : { ...resumed, held: resumed.held.filter(({ id }) => id !== warmUpLinkId) };
}

/**
 * Before dispatch is given the worker, which may take as long as its warm-up and a write to the ledger, requests from before may
 * end or be given back.
 */
export function noteEarly(
  handle: WorkerHandle | undefined,
  { results, returned }: Pick<WorkerFrame, 'results' | 'returned'>,
): void {
  if (handle === undefined || handle.admitted || handle.resumed === null) return;
  const answered = results.filter(({ id }) => id !== warmUpLinkId);
  if (answered.length + returned.length === 0) return;
  const ended = new Set(answered.map(({ id }) => id));
  const gone = new Set(returned);
  const failed = answered.filter(({ error }) => error !== null).length;
  const { held, ...counts } = handle.resumed;
  handle.resumed = {
    ...counts,
    completed: counts.completed + answered.length - failed,
    failed: counts.failed + failed,
    held: held.flatMap((each) => {
      if (gone.has(each.id)) return [];
      if (!ended.has(each.id)) return [each];
      return each.keep ? [{ ...each, ended: true, cancelled: false }] : [];
    }),
  };
}

export function reportAttached(
  { enqueue }: Pick<WorkerParts, 'enqueue'>,
  handles: WorkerHandles,
  handle: WorkerHandle,
  hello: WorkerHello,
): void {
  const { workerId } = handle;
  handle.offered = offeredCommands(handles, handle, hello);
  const reported = {
    commands: handle.offered,
    sdkVersion: hello.sdk_version,
    pythonVersion: hello.python_version,
    start: { interpreterMs: hello.interpreter_ms, importMs: hello.import_ms, hooksMs: hello.hooks_ms },
  };
  enqueue({ type: 'attached', workerId, hello: reported });
}

/** Workers of a pool with the same commands share one list, which saves memory with 1,000 workers. */
function offeredCommands(
  handles: WorkerHandles,
  { pool }: WorkerHandle,
  hello: WorkerHello,
): readonly OfferedCommand[] {
  const offered = hello.commands.map(({ name, summary, streams }) => ({ name, summary, streams }));
  for (const other of handles.values()) {
    if (other.pool.name === pool.name && isSameOffer(other.offered, offered)) return other.offered;
  }
  return offered;
}

function isSameOffer(a: readonly OfferedCommand[], b: readonly OfferedCommand[]): boolean {
  return (
    a.length === b.length &&
    a.every(({ name, summary, streams }, index) => {
      const other = b[index];
      return other?.name === name && other.summary === summary && other.streams === streams;
    })
  );
}

export function linkClosed(
  { enqueue }: Pick<WorkerParts, 'enqueue'>,
  handle: WorkerHandle | undefined,
  link: ProvenLink,
): void {
  if (handle?.link !== link) return;
  handle.link = null;
  handle.process?.look();
  enqueue({ type: 'link-closed', workerId: handle.workerId });
}

/**
 * Adds the worker to dispatch once the ledger has it as ready: a later agent assumes that a worker that is still
 * starting has no requests.
 */
export async function admit(
  { dispatch, nowMs }: Pick<WorkerParts, 'dispatch' | 'nowMs'>,
  handle: WorkerHandle | undefined,
  { maxRequests, paused }: Action & { readonly type: 'admit' },
): Promise<void> {
  if (handle === undefined) return;
  handle.paused = paused;
  const { link } = handle;
  await handle.readyNoted;
  // Meanwhile the worker may have ended, or dialled again and then been admitted again.
  if (handle.released || handle.link === null || handle.link !== link) return;
  if (handle.hello === null) return;
  // A new worker said during its warm-up that it leaves: it will exit soon. One from before may have requests to end.
  if (handle.leaving && handle.resumed === null) return;
  const commands = new Map(
    handle.hello.commands.map(({ name, streams, is_async }) => [name, { streams, isAsync: is_async }]),
  );
  handle.admitted = true;
  dispatch.addWorker({
    workerId: handle.workerId,
    pool: handle.pool.name,
    concurrency: handle.entry.concurrency,
    maxRequests,
    commands,
    marksBegun: handle.hello.marks_begun,
    lastBegunLinkId: () => lastBegunLinkId(handle),
    counters: handle.counters,
    link: handle.link,
    resumed: aged(handle, nowMs()),
    paused: handle.paused || handle.leaving,
  });
  if (handle.leaving) dispatch.onLeaving(handle.workerId);
}

/** The requests that a worker has from earlier links, with their present ages. */
function aged({ resumed, helloAtMs }: WorkerHandle, nowMs: number): Resumed | null {
  const sinceMs = nowMs - helloAtMs;
  if (resumed === null || sinceMs <= 0) return resumed;
  const held = resumed.held.map((each) => ({
    ...each,
    age_ms: each.age_ms + sinceMs,
    remaining_ms: each.remaining_ms === 0 ? 0 : Math.max(1, each.remaining_ms - sinceMs),
  }));
  return { ...resumed, held };
}

/** Limits that the worker itself enforces, and that a reload may change. */
export function linkLimitsOf(pool: PoolConfig, tasks: number): LinkLimits {
  return {
    orphan_timeout_ms: pool.orphanTimeoutMs,
    drain_timeout_ms: pool.drain.timeoutMs,
    keep_results: pool.request.keep.maxResults,
    keep_bytes: pool.request.keep.maxBytes,
    keep_ms: pool.request.keep.forMs,
    tasks,
    telemetry_bytes_per_s: pool.telemetry.maxSeries === 0 ? 0 : telemetryBytesPerS,
  };
}

/** After a reload: sends the pool's limits to its workers, and the new grace time to the guardian. */
export function sendLimits(parts: WorkerParts, handles: WorkerHandles, pool: PoolConfig): void {
  for (const handle of handles.values()) {
    if (handle.pool.name !== pool.name) continue;
    handle.pool = pool;
    guard(parts, handle);
    handle.tasksSent = parts.tasksOfAll();
    handle.link?.limit(linkLimitsOf(pool, handle.tasksSent));
  }
}

/**
 * Before a spawn: tells the running workers how many tasks all workers together may have then. Otherwise the new worker
 * would use up a part of theirs.
 */
export function raiseTasks({ tasksOfAll }: Pick<WorkerParts, 'tasksOfAll'>, handles: WorkerHandles): void {
  const tasks = tasksOfAll();
  for (const handle of handles.values()) {
    if (handle.link === null || handle.pool.limits.pids === 0 || handle.tasksSent === tasks) continue;
    handle.tasksSent = tasks;
    handle.link.limit(linkLimitsOf(handle.pool, tasks));
  }
}
