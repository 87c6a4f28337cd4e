import { awaitCaller, cancelRun, dropPayload, forget, giveUp } from './completion.ts';
import type { Core } from './core.ts';
import { delivery, deliveryEvents, isAnswered, moveDelivery } from './delivery.ts';
import type { Request, ResponseSink } from './request.ts';
import { code, requestError } from './request.ts';
import { isRunOver, isWaiting, run } from './run.ts';
import { setStreamPaused } from './stream-pause.ts';
import { countUnclaimed, unclaimedBytesOf } from './unclaimed.ts';

/**
 * The end of a caller's call: the caller cancelled, is known to have read the answer, or may not have read it. In the last case a
 * request with a caller's id stays for a while (its grace), because the caller may repeat it: caller-ids.ts.
 */

/** The caller cancelled the request, so nobody will repeat it. */
export function cancel(core: Core, request: Request, sink: ResponseSink): void {
  if (request.currentSink !== sink) return;
  giveUp(core, request, requestError(code.cancelled, 'the caller cancelled the request'));
  if (request.hasCallerId) forget(core, request, deliveryEvents.cancelled);
}

/**
 * The caller's call is over. A caller that has read the answer will not repeat the request. A caller whose connection broke may:
 * if it gave the request an id, the request goes on for `keepMs`, or its answer is kept.
 */
export function settle(core: Core, request: Request, sink: ResponseSink, isRead: boolean): void {
  if (request.currentSink !== sink) return;
  if (!request.hasCallerId)
    return giveUp(core, request, requestError(code.cancelled, 'the connection of the caller closed'));
  if (!isAnswered(request)) abandon(core, request);
  else if (isRead) forget(core, request, deliveryEvents.receiptProven);
  // A request that was given up at its deadline is not kept.
  else if (request.run === run.cancelled) forget(core, request, deliveryEvents.evicted);
  else abandon(core, request);
}

/** The request goes on without a caller for `keepMs`, or its end is kept for that long. */
function abandon(core: Core, request: Request): void {
  moveDelivery(request, deliveryEvents.sinkLost);
  request.currentSink = null;
  // Without room in memory a waiting request is dropped. A repetition is then a new request, held by its caller's connection.
  if (isWaiting(request) && !core.options.unclaimed.fits(unclaimedBytesOf(request))) {
    return callerGraceExpired(core, request);
  }
  if (isAnswered(request)) dropPayload(core, request);
  // Nobody reads the stream now, so nothing need hold it back.
  setStreamPaused(core, request, false);
  core.deadlines.remove(request);
  countUnclaimed(core, request);
  awaitCaller(core, request);
  boundKept(core, request);
}

/** Evicts the oldest kept ends beyond `keepMax`, so that callers who lose many connections do not fill the memory. */
function boundKept(core: Core, request: Request): void {
  const pool = core.pools.get(request.pool);
  const worker = core.workers.get(request.workerId);
  if (pool === undefined || !isAnswered(request)) return;
  const isKept = request.run === run.kept;
  if (!isKept) pool.undeliveredFailures.add(request);
  const kept = isKept ? (worker?.kept.values() ?? []) : pool.undeliveredFailures;
  let spare = (isKept ? (worker?.kept.size ?? 0) : pool.undeliveredFailures.size) - pool.limits.keepMax;
  for (const oldest of kept) {
    if (spare <= 0) return;
    if (oldest.delivery !== delivery.detached) continue;
    spare -= 1;
    core.deadlines.remove(oldest);
    forget(core, oldest, deliveryEvents.evicted);
  }
}

/** Nobody repeated the request in time, or there is no room to wait for that. */
export function callerGraceExpired(core: Core, request: Request): void {
  const isOver = isRunOver(request);
  forget(core, request, deliveryEvents.graceOver);
  if (!isOver)
    cancelRun(
      core,
      request,
      requestError(code.cancelled, 'the caller did not repeat the request in time (request.keep.for)'),
    );
}
