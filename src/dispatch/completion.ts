import type { Core, WorkerResult } from './core.ts';
import { arm } from './core.ts';
import { delivery, deliveryEvents, isAnswered, moveDelivery } from './delivery.ts';
import { ewma } from './ewma.ts';
import type { DispatchPool } from './pool.ts';
import type { Request, RequestError } from './request.ts';
import { code, mayHaveBegun, nothing, requestError } from './request.ts';
import { isInWorker, isRunning, isRunOver, moveRun, run, runEvents } from './run.ts';
import { countUnclaimed, dropUnclaimed } from './unclaimed.ts';
import type { DispatchWorker } from './worker.ts';

/** Ends requests, each once for its caller, and forgets them. */

/** Weight of the newest request in the average run time: about the last ten requests count. */
const averageWeight = 0.1;

const { cancelled } = code;

/** Ends a request that no worker will answer. */
export function fail(core: Core, request: Request, failure: RequestError): void {
  const error = { ...failure, mayHaveBegun: mayHaveBegun(request) };
  moveRun(request, runEvents.failed);
  end(core, request, error, null, false);
}

/** Hands the end to the sink, once. `isReplay`: the run was over before, so the time until now is not the command's. */
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
  else detachCall(request);
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
  // `ranUs` 0: the command did not begin this time. A worker that has dropped the answer (DATA_LOSS) cannot know that.
  const refused = ranUs === 0 && errorCode !== code.dataLoss;
  return refused ? request.attempts > 1 : mayHaveBegun(request);
}

/** Drops the sink and the payload, because a worker may still run the request for a long time. */
function detachCall(request: Request): void {
  request.currentSink = null;
  request.payload = nothing;
}

/** Returns the gRPC status code that the caller was sent. */
function hand({ currentSink, workerId }: Request, result: WorkerResult | null): number {
  if (currentSink === null || result === null) return 0;
  return currentSink.result(result.payload, result.content_type, workerId);
}

/** Ends a request for its caller. A worker that has the request is told to cancel it, and has a free place once it answers. */
export function giveUp(core: Core, request: Request, failure: RequestError): void {
  if (!isAnswered(request)) cancelRun(core, request, failure);
}

/** Cancels the run and ends the request. Also for a request that is already forgotten, which `giveUp` would ignore. */
export function cancelRun(core: Core, request: Request, failure: RequestError): void {
  const isReplay = isRunOver(request);
  const error = { ...failure, workerId: request.workerId, mayHaveBegun: mayHaveBegun(request) };
  const runs = isRunning(request);
  moveRun(request, runEvents.cancelled);
  if (runs) core.workers.get(request.workerId)?.link.cancel(request.linkId);
  end(core, request, error, null, isReplay);
  if (runs) awaitEnd(core, request);
}

/** Ends a request with its worker's answer: the answer of its run, or a replay. */
export function endByWorker(core: Core, request: Request, result: WorkerResult, isReplay: boolean): void {
  const { error } = result;
  const { workerId } = request;
  if (error === null) return end(core, request, null, result, isReplay);
  const { type, traceback } = error;
  const mayHaveBegun = failedAfterBegin(request, error.code, result.ran_us);
  end(
    core,
    request,
    requestError(error.code, error.message, {
      reason: error.code === code.dataLoss ? 'ANSWER_LOST' : 'COMMAND_FAILED',
      type,
      traceback,
      workerId,
      mayHaveBegun,
    }),
    result,
    isReplay,
  );
}

/** A request that was given up has left its worker. */
export function endGivenUp(request: Request, event: Parameters<typeof moveRun>[1]): void {
  moveRun(request, event);
  moveDelivery(request, deliveryEvents.workerDone);
}

/** Watches a request that was given up: its worker should answer within `killAfterMs` after the deadline. */
export function awaitEnd(core: Core, request: Request): void {
  const killAfterMs = core.pools.get(request.pool)?.limits.killAfterMs ?? 0;
  if (killAfterMs === 0) return moveRun(request, runEvents.unbounded);
  core.deadlines.add(request, Math.max(core.options.nowMs(), request.deadlineMs) + killAfterMs);
  arm(core);
}

/** Keeps how the request ended, for a caller that repeats it. */
function keepEnd(core: Core, pool: DispatchPool | undefined, request: Request, error: RequestError | null): void {
  request.endError = error;
  if (request.delivery !== delivery.detached) return;
  if (pool === undefined) return forget(core, request, deliveryEvents.evicted);
  dropPayload(core, request);
  countUnclaimed(core, request);
  if (request.run !== run.kept) pool.undeliveredFailures.add(request);
  awaitCaller(core, request);
}

/** Starts the grace: the request is forgotten after `keepMs`, and if it still runs, at its deadline at the latest. */
export function awaitCaller(core: Core, request: Request): void {
  const keepUntilMs = core.options.nowMs() + (core.pools.get(request.pool)?.limits.keepMs ?? 0);
  core.deadlines.add(request, isAnswered(request) ? keepUntilMs : Math.min(request.deadlineMs, keepUntilMs));
  arm(core);
}

/** Drops a payload that is not needed any more, and keeps its checksum to compare repetitions with. */
export function dropPayload(core: Core, request: Request): void {
  request.droppedPayloadCrc32 ??= core.options.checksum(request.payload);
  request.payload = nothing;
}

export function keepIn(worker: DispatchWorker, request: Request): void {
  worker.kept.set(request.linkId, request);
  worker.counters.kept = worker.kept.size;
}

/** Nobody will ask for the request again: frees its id, and lets its worker drop the answer. */
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
