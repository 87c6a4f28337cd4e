import type { ReportedProgress } from '../domain/evidence.ts';
import { noteRun } from './command-stats.ts';
import { endByWorker, endGivenUp, keepIn } from './completion.ts';
import type { Core, WorkerResult } from './core.ts';
import { delivery, isAnswered } from './delivery.ts';
import type { Request } from './request.ts';
import { isGivenUp, isRunning, isRunOver, moveRun, runEvents } from './run.ts';
import { addToAvailable, serveQueue, takeFromWorker } from './scheduling.ts';
import type { DispatchWorker } from './worker.ts';

/** Handles what workers send about requests: chunks, results, progress and replays. */

export function onChunk(core: Core, workerId: string, linkId: number, payload: Buffer, contentType: string): void {
  const worker = core.workers.get(workerId);
  const request = worker?.running.get(linkId) ?? worker?.kept.get(linkId);
  if (worker === undefined || request === undefined) return;
  worker.counters.lastEvidenceAtMs = core.options.nowMs();
  if (isAnswered(request) || request.pendingReplays > 0) return;
  moveRun(request, runEvents.begun);
  request.mayHaveEmitted = true;
  if (request.chunksToSkip > 0) {
    request.chunksToSkip -= 1;
    return;
  }
  request.chunksDelivered += 1;
  request.currentSink?.chunk(payload, contentType, workerId);
}

export function onResult(core: Core, workerId: string, linkId: number, result: WorkerResult): void {
  const worker = core.workers.get(workerId);
  if (worker === undefined) return;
  const request = worker.running.get(linkId);
  if (request === undefined) return onReplayEnd(core, worker, linkId, result);
  const pool = core.pools.get(worker.pool);
  if (pool === undefined) return;
  const { counters } = worker;
  takeFromWorker(core, pool, worker, request);
  const nowMs = core.options.nowMs();
  counters.lastEvidenceAtMs = nowMs;
  worker.lastAnswerAtMs = nowMs;
  // With more requests than it may run, the worker has not returned the recalled requests yet, so it stays stalled.
  if (counters.inFlight <= worker.concurrency) worker.stalled = false;
  if (result.ran_us > 0 && pool.poison.suspects && !isRunOver(request)) {
    pool.poison.answered(core.options.fingerprint(request));
  }
  if (result.ran_us > 0) noteRun(pool.commands.get(request.command), result.ran_us / 1000);
  if (result.error === null) {
    counters.completed += 1;
    pool.completed += 1;
  } else {
    counters.failed += 1;
    pool.failed += 1;
  }
  // Among equals the worker that answered last comes first. Its caches are warm, which halves the time of a lone request. A worker
  // whose answer is an error comes last: if it has lost its database and fails quickly, it must not attract all requests.
  const { error } = result;
  addToAvailable(pool, worker, error === null ? 'first' : 'last');
  pool.rate.answered(nowMs, pool.queue.length);
  if (isGivenUp(request)) {
    endGivenUp(request, runEvents.answered);
    // Nobody will ask for the answer.
    if (request.hasCallerId) worker.link.ack(linkId);
  } else if (request.hasCallerId) {
    answeredAndKept(core, worker, request, result);
  } else {
    moveRun(request, runEvents.answered);
    endByWorker(core, request, result, false);
  }
  if (worker.paused && counters.inFlight === 0) core.options.onIdle(workerId);
  if (worker.maxRequests > 0 && counters.completed + counters.failed === worker.maxRequests) {
    core.options.onBudgetSpent(workerId);
  }
  if (pool.queue.length > 0 || pool.parked.size > 0) serveQueue(core, pool);
}

/** The worker has answered a named request, and keeps the answer. */
function answeredAndKept(core: Core, worker: DispatchWorker, request: Request, result: WorkerResult): void {
  moveRun(request, runEvents.answeredAndKept);
  keepIn(worker, request);
  // A sink that waits for a replay gets the replay instead.
  if (request.delivery === delivery.replaying && request.pendingReplays > 0) return;
  endByWorker(core, request, result, false);
}

/** One request's report of its progress. */
export interface ProgressOf extends ReportedProgress {
  readonly id: number;
}

export function onProgress(core: Core, workerId: string, reports: readonly ProgressOf[]): void {
  const worker = core.workers.get(workerId);
  if (worker === undefined) return;
  worker.counters.lastEvidenceAtMs = core.options.nowMs();
  for (const { id, fraction, message } of reports) {
    const request = worker.running.get(id);
    if (request === undefined) continue;
    request.progress = { fraction, message };
    moveRun(request, runEvents.begun);
    if (isRunning(request)) request.currentSink?.progress?.(request.progress);
  }
}

export function onReplayed(core: Core, workerId: string, linkIds: readonly number[]): void {
  const worker = core.workers.get(workerId);
  for (const linkId of linkIds) {
    const request = worker?.running.get(linkId) ?? worker?.kept.get(linkId);
    if (request === undefined || request.pendingReplays === 0) continue;
    request.pendingReplays -= 1;
    request.chunksToSkip = request.chunksDelivered;
  }
}

/** The end of a replay. The request itself was counted when it ended. */
function onReplayEnd(core: Core, worker: DispatchWorker, linkId: number, result: WorkerResult): void {
  const request = worker.kept.get(linkId);
  if (request === undefined || request.delivery !== delivery.replaying || request.pendingReplays > 0) return;
  endByWorker(core, request, result, true);
}
