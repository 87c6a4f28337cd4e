import type { Core, Pool, WorkerResult } from './core.ts';
import { arm, nobody, nothing } from './core.ts';
import type { Request, RequestError } from './request.ts';
import { code, mayHaveBegun, refusal } from './request.ts';
import { countUnclaimed, dropUnclaimed } from './unclaimed.ts';
import type { DispatchWorker } from './worker.ts';

/** How requests end: each once, whoever says it first. */

/** Weight of the newest request in the average run time: about the last ten count. */
const averageWeight = 0.1;

/** The one end of a request: a result when there is no error. */
export function end(core: Core, request: Request, failure: RequestError | null, result?: WorkerResult): void {
  if (request.state === 'ended') return;
  const error = failure === null ? null : { ...failure, mayHaveBegun: failedAfterBegin(request, failure, result) };
  const pool = core.pools.get(request.pool);
  // Its run was over before: what it takes now is no time of the command.
  const isReplay = request.state === 'replaying';
  request.queue?.remove(request);
  request.state = 'ended';
  core.deadlines.remove(request);
  const nowMs = core.options.nowMs();
  const sent = request.sentAtMs > 0;
  const ranMs = sent ? nowMs - request.sentAtMs : 0;
  if (pool !== undefined && result !== undefined && !isReplay) {
    pool.averageRunMs =
      pool.averageRunMs === 0 ? ranMs : pool.averageRunMs * (1 - averageWeight) + ranMs * averageWeight;
  }
  const told = error?.code ?? (result === undefined ? 0 : hand(request, result));
  if (error !== null) request.answers.error(error);
  letGo(request);
  if (request.named) keepAnswer(core, pool, request, error);
  if (request.counted) return;
  request.counted = true;
  if (error !== null && request.attempts > 0 && error.code !== code.cancelled) core.options.onFailed(request, error);
  core.options.onOutcome({
    pool: request.pool,
    code: told,
    refused: false,
    queuedMs: (sent ? request.sentAtMs : nowMs) - request.arrivedAtMs,
    ranMs: isReplay ? 0 : ranMs,
  });
}

function failedAfterBegin(request: Request, failure: RequestError, result: WorkerResult | undefined): boolean {
  // Its worker says that this time the command did not begin. Of an answer that it gave up it cannot know.
  const refused = result?.ran_us === 0 && failure.code !== code.dataLoss;
  return refused ? request.attempts > 1 : mayHaveBegun(request);
}

/** One that was cancelled keeps its place until its worker answers, but not what its caller's call hangs from. */
function letGo(request: Request): void {
  request.answers = nobody;
  // By that of a named one a caller that asks again is known, until it has the answer.
  if (!request.named) request.payload = nothing;
}

function hand(request: Request, result: WorkerResult): number {
  return request.answers.result(result.payload, result.content_type, request.workerId);
}

/** Ends a request for its caller; a worker that has it is told, and keeps the place until it answers. */
export function giveUp(core: Core, request: Request, error: RequestError): void {
  if (request.state === 'ended') return;
  const sent = request.state === 'sent';
  if (sent) core.workers.get(request.workerId)?.link.cancel(request.linkId);
  end(core, request, { ...error, workerId: request.workerId });
  if (sent) awaitEnd(core, request);
}

/** Of a payload that is not needed any more a checksum is kept, to know the request by. */
export function bare(core: Core, request: Request): void {
  request.bareCrc32 ??= core.options.checksum(request.payload);
  request.payload = nothing;
}

/** An ended request whose caller is not there: how it ended is kept for when it asks again. */
function keepAnswer(core: Core, pool: Pool | undefined, request: Request, error: RequestError | null): void {
  request.endError = error;
  if (request.caller !== null) return;
  if (pool?.named.get(request.requestId) !== request) return dropUnclaimed(core, request);
  bare(core, request);
  countUnclaimed(core, request);
  if (!request.answered) pool.untold.add(request);
  awaitCaller(core, request);
}

/** It is kept for so long, and goes on no longer than its deadline. */
export function awaitCaller(core: Core, request: Request): void {
  const keepUntilMs = core.options.nowMs() + (core.pools.get(request.pool)?.limits.keepMs ?? 0);
  core.deadlines.add(request, request.state === 'ended' ? keepUntilMs : Math.min(request.deadlineMs, keepUntilMs));
  arm(core);
}

export function keepIn(worker: DispatchWorker, request: Request): void {
  worker.kept.set(request.linkId, request);
  worker.counters.kept = worker.kept.size;
}

/** What was given up should have ended in its worker `killAfterMs` after its deadline, if not sooner. */
export function awaitEnd(core: Core, request: Request): void {
  const killAfterMs = core.pools.get(request.pool)?.limits.killAfterMs ?? 0;
  if (killAfterMs === 0) return;
  request.overdue = true;
  core.deadlines.add(request, Math.max(core.options.nowMs(), request.deadlineMs) + killAfterMs);
  arm(core);
}

export function endByWorker(core: Core, { workerId }: DispatchWorker, request: Request, result: WorkerResult): void {
  const { error } = result;
  if (error === null) return end(core, request, null, result);
  const { type, traceback } = error;
  end(core, request, refusal(error.code, error.message, { type, traceback, workerId }), result);
}
