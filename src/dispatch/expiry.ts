import { callerGraceExpired } from './caller-left.ts';
import { awaitEnd, giveUp } from './completion.ts';
import type { Core } from './core.ts';
import { isAfter, nextAtMs } from './core.ts';
import { delivery } from './delivery.ts';
import type { Request } from './request.ts';
import { code, requestError } from './request.ts';
import { isRunning, moveRun, run, runEvents } from './run.ts';
import { recallFromStalled } from './scheduling.ts';

/** Acts when a time is over: a deadline, a grace, or the time in which a cancelled request should have ended. */

/** If a timer fires this late, the agent itself was stopped or very busy. */
const lateMs = 200;

export function expire(core: Core): number {
  const nowMs = core.options.nowMs();
  // A late agent has not yet read what its workers sent meanwhile, so it gives them a little longer.
  const isLate = nowMs - core.armedAtMs > lateMs;
  for (const request of core.deadlines.take(nowMs)) {
    if (request.run === run.cancelled && isLate) core.deadlines.add(request, nowMs + lateMs);
    else if (request.run === run.cancelled) stillRuns(core, request, nowMs);
    else if (request.delivery === delivery.detached) callerGraceExpired(core, request);
    else giveUp(core, request, requestError(code.deadlineExceeded, deadlineMessage(core, request)));
  }
  recallFromStalled(core, nowMs);
  core.armedAtMs = nextAtMs(core);
  return core.armedAtMs;
}

/** The worker was told to cancel the request, and has not answered within `killAfterMs`. */
function stillRuns(core: Core, request: Request, nowMs: number): void {
  const worker = core.workers.get(request.workerId);
  if (worker === undefined) return;
  if (isAfter(request.linkId, worker.lastBegunLinkId())) {
    // The request has not begun, so another one keeps the worker busy.
    return awaitEnd(core, request);
  }
  moveRun(request, runEvents.overdue);
  const overMs = Math.round(nowMs - request.deadlineMs);
  const message = `request ${request.requestId} (${request.command}) still runs ${overMs} ms after its deadline`;
  core.options.onOverdue(worker.workerId, message);
}

function deadlineMessage(core: Core, request: Request): string {
  const tookMs = Math.round(core.options.nowMs() - request.arrivedAtMs);
  if (isRunning(request))
    return `the deadline passed while ${request.command} ran, ${tookMs} ms after the request came`;
  const none = core.pools.get(request.pool)?.workers.size === 0 ? ', which has no ready worker' : '';
  return `the deadline passed after ${tookMs} ms in the queue of pool ${request.pool}${none}`;
}
