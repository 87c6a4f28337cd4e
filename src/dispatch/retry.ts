import { fail, forget } from './completion.ts';
import type { Core } from './core.ts';
import { deliveryEvents, moveDelivery } from './delivery.ts';
import type { DispatchPool } from './pool.ts';
import type { Request } from './request.ts';
import { code, requestError } from './request.ts';
import { moveRun, runEvents } from './run.ts';

/*
 * A request may run again if its worker ended (workers.ts), its link broke (reattach.ts), or the worker returned it
 * (scheduling.ts). A caller that repeats its request gets the answer of the one run: caller-ids.ts.
 */

/** A command that began may have done its work. It runs again only if its caller called the request idempotent. */
export function mayRunAgain({ idempotent, attempts }: Request, pool: DispatchPool, neverBegan: boolean): boolean {
  return neverBegan || (idempotent && attempts < pool.limits.maxAttempts);
}

/** Puts requests back to the front of the queue, in their order of arrival. */
export function runAgain(core: Core, pool: DispatchPool, requests: Request[]): void {
  for (const request of requests.sort((a, b) => a.arrivedAtMs - b.arrivedAtMs).reverse()) {
    moveRun(request, runEvents.requeued);
    if (request.droppedPayloadCrc32 !== null) {
      // The payload is not here, and no caller has brought it again. A repetition is a new request.
      moveRun(request, runEvents.failed);
      core.deadlines.remove(request);
      forget(core, request, deliveryEvents.evicted);
      continue;
    }
    moveDelivery(request, deliveryEvents.requeued);
    request.workerId = '';
    request.sentAtMs = 0;
    if (pool.refusesQueued)
      fail(core, request, requestError(code.unavailable, pool.closedBecause, { reason: 'POOL_CLOSED' }));
    else pool.queue.unshift(request);
  }
}
