import { askAgain } from './caller-ids.ts';
import { endGivenUp, fail, giveUp, keepIn } from './completion.ts';
import type { Core } from './core.ts';
import { isAfter } from './core.ts';
import { delivery } from './delivery.ts';
import type { DispatchPool } from './pool.ts';
import type { Request, RequestError } from './request.ts';
import { code, requestError } from './request.ts';
import { mayRunAgain, runAgain } from './retry.ts';
import { isGivenUp, moveRun, runEvents } from './run.ts';
import { addToAvailable, removeFromAvailable, serveQueue, takeFromWorker } from './scheduling.ts';
import type { DispatchWorker, NewWorker } from './worker.ts';

/**
 * A worker has dialled this same agent again. Everything that was on its link when the link broke may have arrived or not. The
 * worker's hello reports which requests it holds.
 */
export function reattach(core: Core, pool: DispatchPool, worker: DispatchWorker, next: NewWorker): void {
  const { link, resumed } = next;
  const heldById = new Map((resumed?.held ?? []).map((each) => [each.id, each]));
  const lastBegunLinkId = worker.lastBegunLinkId();
  const lastId = resumed?.last_id ?? 0;
  const again: Request[] = [];
  removeFromAvailable(pool, worker);
  worker.link = link;
  for (const request of worker.kept.values()) {
    request.pendingReplays = 0;
    if (request.delivery === delivery.replaying) askAgain(worker, request);
  }
  for (const [linkId, request] of [...worker.running]) {
    const held = heldById.get(linkId);
    // The worker did not get the request, or reports by its mark that it had not begun it.
    const neverBegan = isAfter(linkId, lastId) || isAfter(linkId, lastBegunLinkId);
    if (held !== undefined && !held.ended) goOn(core, worker, request);
    else {
      takeFromWorker(core, pool, worker, request);
      removeFromAvailable(pool, worker);
      if (isGivenUp(request)) endedMeanwhile(worker, request, held?.keep === true);
      else if (held?.keep && request.hasCallerId) answeredMeanwhile(worker, request);
      else {
        if (neverBegan) request.attempts -= 1;
        if (mayRunAgain(request, pool, neverBegan)) again.push(request);
        else fail(core, request, linkBroke(worker));
      }
    }
  }
  // The worker keeps answers that are unknown here: their acknowledgements were lost with the link.
  for (const { id, ended, keep } of heldById.values()) if (ended && keep && !worker.kept.has(id)) link.ack(id);
  if (resumed !== null) {
    worker.counters.completed = resumed.completed;
    worker.counters.failed = resumed.failed;
  }
  worker.paused = next.paused;
  worker.stalled = false;
  addToAvailable(pool, worker);
  runAgain(core, pool, again);
  serveQueue(core, pool);
}

/** The request still runs in the worker. Chunks may have been lost with the link, and workers keep only those of named requests. */
function goOn(core: Core, worker: DispatchWorker, request: Request): void {
  if (isGivenUp(request)) return worker.link.cancel(request.linkId);
  // Replays that were asked for on the old link will not come.
  request.pendingReplays = 0;
  const isStream = worker.commands.get(request.command)?.streams === true;
  if (isStream && !request.hasCallerId) return giveUp(core, request, linkBroke(worker));
  if (isStream) request.mayHaveEmitted = true;
  const isVoid = request.delivery === delivery.replaying || (isStream && request.delivery === delivery.attached);
  if (isVoid) askAgain(worker, request);
}

/** A request that was given up has ended in the worker. Nobody will ask for an answer that the worker may keep. */
function endedMeanwhile(worker: DispatchWorker, request: Request, isKept: boolean): void {
  endGivenUp(request, runEvents.answered);
  if (isKept) worker.link.ack(request.linkId);
}

/** The answer was lost with the link, but the worker keeps it. */
function answeredMeanwhile(worker: DispatchWorker, request: Request): void {
  moveRun(request, runEvents.answeredAndKept);
  request.pendingReplays = 0;
  keepIn(worker, request);
  if (request.currentSink !== null) askAgain(worker, request);
}

function linkBroke({ workerId }: DispatchWorker): RequestError {
  return requestError(code.unavailable, `the link to worker ${workerId} broke while it sent the answer`, {
    reason: 'LINK_BROKEN',
    workerId,
  });
}
