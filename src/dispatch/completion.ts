import type { Core, WorkerResult } from './core.ts';
import { arm } from './core.ts';
import { delivery, deliveryEvents, hasEnded, moveDelivery } from './delivery.ts';
import { ewma } from './ewma.ts';
import type { Pool } from './pool.ts';
import type { Request, RequestError } from './request.ts';
import { code, mayHaveBegun, nothing, refusal } from './request.ts';
import { isInWorker, isRunning, isRunOver, moveRun, run, runEvents } from './run.ts';
import { countUnclaimed, dropUnclaimed } from './unclaimed.ts';
import type { DispatchWorker } from './worker.ts';

/** How requests end: each once for its caller, whoever says it first; and when they are forgotten. */

/** Weight of the newest request in the average run time: about the last ten count. */
const averageWeight = 0.1;

const { cancelled } = code;

/** Ends a request that no worker answers. */
export function fail(core: Core, request: Request, failure: RequestError): void {
  const error = { ...failure, mayHaveBegun: mayHaveBegun(request) };
  moveRun(request, runEvents.failed);
  end(core, request, error, null, false);
}

/** The one end of a request for its caller. `isReplay`: its run was over before, and what it takes now is no time of the command. */
export function end(
  core: Core,
  request: Request,
  error: RequestError | null,
  result: WorkerResult | null,
  isReplay: boolean,
): void {
  const pool = core.pools.get(request.pool);
  moveDelivery(request, request.hasCallerId ? deliveryEvents.ended : deliveryEvents.endedForGood);
  request.queue?.remove(request);
  core.deadlines.remove(request);
  const nowMs = core.options.nowMs();
  const sent = request.sentAtMs > 0;
  const ranMs = sent ? nowMs - request.sentAtMs : 0;
  if (pool !== undefined && result !== null && !isReplay) {
    pool.averageRunMs = pool.averageRunMs === 0 ? ranMs : ewma(pool.averageRunMs, ranMs, averageWeight);
  }
  const code = error === null ? hand(request, result) : error.code;
  if (error !== null) request.currentSink?.error(error);
  if (request.hasCallerId) keepEnd(core, pool, request, error);
  else letGo(request);
  if (request.isCounted) return;
  request.isCounted = true;
  if (error !== null && request.attempts > 0 && error.code !== cancelled) core.options.onFailed(request, error);
  core.options.onOutcome({
    pool: request.pool,
    code,
    refused: false,
    queuedMs: (sent ? request.sentAtMs : nowMs) - request.arrivedAtMs,
    ranMs: isReplay ? 0 : ranMs,
  });
}

function failedAfterBegin(request: Request, errorCode: number, ranUs: number): boolean {
  // Its worker says that this time the command did not begin. Of an answer that it gave up it cannot know.
  const refused = ranUs === 0 && errorCode !== code.dataLoss;
  return refused ? request.attempts > 1 : mayHaveBegun(request);
}

/** A worker may have it for a long time yet, but nothing of its caller's call is kept for that. */
function letGo(request: Request): void {
  request.currentSink = null;
  request.payload = nothing;
}

/** The gRPC status code that its caller was told. */
function hand({ currentSink, workerId }: Request, result: WorkerResult | null): number {
  if (currentSink === null || result === null) return 0;
  return currentSink.result(result.payload, result.content_type, workerId);
}

/** Ends a request for its caller; a worker that has it is told, and keeps the place until it answers. */
export function giveUp(core: Core, request: Request, failure: RequestError): void {
  if (!hasEnded(request)) stop(core, request, failure);
}

export function stop(core: Core, request: Request, failure: RequestError): void {
  const isReplay = isRunOver(request);
  const error = { ...failure, workerId: request.workerId, mayHaveBegun: mayHaveBegun(request) };
  const runs = isRunning(request);
  moveRun(request, runEvents.cancelled);
  if (runs) core.workers.get(request.workerId)?.link.cancel(request.linkId);
  end(core, request, error, null, isReplay);
  if (runs) awaitEnd(core, request);
}

/** Its worker's answer: that of its run, or a replay. */
export function endByWorker(core: Core, request: Request, result: WorkerResult, isReplay: boolean): void {
  const { error } = result;
  const { workerId } = request;
  if (error === null) return end(core, request, null, result, isReplay);
  const { type, traceback } = error;
  const mayHaveBegun = failedAfterBegin(request, error.code, result.ran_us);
  end(core, request, refusal(error.code, error.message, { type, traceback, workerId, mayHaveBegun }), result, isReplay);
}

/** The worker of a request that was given up has it no more. */
export function endGivenUp(request: Request, event: Parameters<typeof moveRun>[1]): void {
  moveRun(request, event);
  moveDelivery(request, deliveryEvents.workerDone);
}

/** What was given up should have ended in its worker `killAfterMs` after its deadline, if not sooner. */
export function awaitEnd(core: Core, request: Request): void {
  const killAfterMs = core.pools.get(request.pool)?.limits.killAfterMs ?? 0;
  if (killAfterMs === 0) return moveRun(request, runEvents.unbounded);
  core.deadlines.add(request, Math.max(core.options.nowMs(), request.deadlineMs) + killAfterMs);
  arm(core);
}

/** How it ended is kept for a caller that asks again. */
function keepEnd(core: Core, pool: Pool | undefined, request: Request, error: RequestError | null): void {
  request.endError = error;
  if (request.delivery !== delivery.detached) return;
  if (pool === undefined) return forget(core, request, deliveryEvents.evicted);
  dropPayload(core, request);
  countUnclaimed(core, request);
  if (request.run !== run.kept) pool.undeliveredFailures.add(request);
  awaitCaller(core, request);
}

/** It is kept for so long, and goes on no longer than its deadline. */
export function awaitCaller(core: Core, request: Request): void {
  const keepUntilMs = core.options.nowMs() + (core.pools.get(request.pool)?.limits.keepMs ?? 0);
  core.deadlines.add(request, hasEnded(request) ? keepUntilMs : Math.min(request.deadlineMs, keepUntilMs));
  arm(core);
}

/** Of a payload that is not needed any more a checksum is kept, to know the request by. */
export function dropPayload(core: Core, request: Request): void {
  request.droppedPayloadCrc32 ??= core.options.checksum(request.payload);
  request.payload = nothing;
}

export function keepIn(worker: DispatchWorker, request: Request): void {
  worker.kept.set(request.linkId, request);
  worker.counters.kept = worker.kept.size;
}

/** Nobody will ask for it again. */
export function forget(core: Core, request: Request, event: Parameters<typeof moveDelivery>[1]): void {
  moveDelivery(request, event);
  const pool = core.pools.get(request.pool);
  if (pool?.byCallerId.get(request.requestId) === request) pool.byCallerId.delete(request.requestId);
  pool?.undeliveredFailures.delete(request);
  request.currentSink = null;
  dropUnclaimed(core, request);
  if (request.run === run.kept) letKeptGo(core, request);
  if (!isInWorker(request)) moveDelivery(request, deliveryEvents.workerDone);
}

function letKeptGo(core: Core, request: Request): void {
  moveRun(request, runEvents.acknowledged);
  const worker = core.workers.get(request.workerId);
  if (worker === undefined) return;
  worker.link.ack(request.linkId);
  worker.kept.delete(request.linkId);
  worker.counters.kept = worker.kept.size;
  if (worker.paused && worker.counters.inFlight + worker.counters.kept === 0) core.options.onIdle(worker.workerId);
}
