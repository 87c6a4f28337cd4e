import { askAgain, notTheSame } from './caller-ids.ts';
import { awaitCaller, awaitEnd, fail, forget, keepIn } from './completion.ts';
import type { Core } from './core.ts';
import { deliveryEvents } from './delivery.ts';
import type { DispatchPool } from './pool.ts';
import type { Request } from './request.ts';
import { code, newRequest, nothing, requestError } from './request.ts';
import { moveRun, run, runEvents } from './run.ts';
import { refuseStream, serveQueue } from './scheduling.ts';
import { countUnclaimed } from './unclaimed.ts';
import type { DispatchWorker, HeldRequest, Resumed } from './worker.ts';

/** Takes over the requests that workers of an earlier agent have. Named requests wait until those workers have dialled in. */

/** A worker of an earlier agent may have this request, so it waits until all of those workers have dialled in. */
export function awaitExpected(pool: DispatchPool, request: Request): void {
  moveRun(request, runEvents.heldBack);
  pool.waiting.push(request);
}

export function noLongerExpected(core: Core, pool: DispatchPool, workerId: string): void {
  if (!pool.expected.delete(workerId) || pool.expected.size > 0) return;
  for (let request = pool.waiting.first(); request !== null; request = pool.waiting.first()) {
    pool.waiting.remove(request);
    moveRun(request, runEvents.enqueued);
    pool.queue.push(request);
  }
  serveQueue(core, pool);
}

/** Takes over the requests of a worker of an earlier agent. Requests that their callers did not name are cancelled. */
export function takeOver(core: Core, pool: DispatchPool, worker: DispatchWorker, resumed: Resumed): void {
  const { counters } = worker;
  worker.nextLinkId = resumed.last_id;
  counters.completed = resumed.completed;
  counters.failed = resumed.failed;
  for (const held of resumed.held) {
    // A link id that the worker reports twice is taken over once: the worker can answer it only once.
    if (!worker.running.has(held.id) && !worker.kept.has(held.id)) takeHeld(core, pool, worker, held);
  }
  if (worker.maxRequests > 0 && counters.completed + counters.failed >= worker.maxRequests) {
    core.options.onBudgetSpent(worker.workerId);
  }
}

function takeHeld(core: Core, pool: DispatchPool, worker: DispatchWorker, held: HeldRequest): void {
  if (!held.keep && held.ended) return;
  const named = held.keep && !held.cancelled ? pool.byCallerId.get(held.request_id) : undefined;
  const isAsked = named?.run === run.awaitingEarlierWorkers;
  // Not wanted: it has no caller's id, was cancelled, or its id is that of a request which does not wait for earlier workers.
  const isWanted = held.keep && !held.cancelled && (named === undefined || isAsked);
  if (held.ended && !isWanted) return worker.link.ack(held.id);
  const request = isAsked && isSameAsked(core, worker, named, held) ? named : heldRequest(core, pool, held);
  request.workerId = worker.workerId;
  request.linkId = held.id;
  request.sentAtMs = core.options.nowMs() - held.age_ms;
  request.attempts = Math.max(1, request.attempts);
  if (held.ended) {
    moveRun(request, runEvents.foundAnswered);
    keepIn(worker, request);
  } else {
    moveRun(request, isWanted ? runEvents.foundRunning : runEvents.foundCancelled);
    request.mayHaveEmitted = true;
    worker.running.set(held.id, request);
    worker.payloadBytes += request.payloadBytes;
    worker.counters.inFlight += 1;
    pool.inFlight += 1;
    if (!isWanted) {
      worker.link.cancel(held.id);
      awaitEnd(core, request);
      forget(core, request, deliveryEvents.evicted);
    }
  }
  if (isWanted) index(core, pool, worker, request);
}

/** Makes the request known by its name. A caller that has asked for it already gets its answer. */
function index(core: Core, pool: DispatchPool, worker: DispatchWorker, request: Request): void {
  pool.byCallerId.set(request.requestId, request);
  if (request.currentSink !== null) return askAgain(worker, request);
  // A caller that came and left before the worker dialled has started the grace of the request. It starts again below.
  core.deadlines.remove(request);
  countUnclaimed(core, request);
  awaitCaller(core, request);
}

/** Compares a waiting request with the worker's request of the same name. False: they differ, and the waiting one has failed. */
function isSameAsked(core: Core, worker: DispatchWorker, waiting: Request, held: HeldRequest): boolean {
  const isSameRequest =
    waiting.command === held.command &&
    waiting.payloadBytes === held.payload_bytes &&
    core.options.checksum(waiting.payload) === held.payload_crc32;
  const wrong = isSameRequest
    ? refuseStream(worker.commands.get(held.command)?.streams === true, waiting)
    : requestError(code.invalidArgument, notTheSame(held.request_id));
  if (wrong !== undefined) {
    fail(core, waiting, wrong);
    return false;
  }
  core.pools.get(waiting.pool)?.waiting.remove(waiting);
  return true;
}

/** A request without a caller, made from what the worker holds. */
function heldRequest(core: Core, pool: DispatchPool, held: HeldRequest): Request {
  const nowMs = core.options.nowMs();
  const spec = {
    pool: pool.name,
    command: held.command,
    payload: nothing,
    contentType: '',
    requestId: held.request_id,
    hasCallerId: held.keep,
    sessionId: '',
    idempotent: false,
    deadlineMs: held.remaining_ms > 0 ? nowMs + held.remaining_ms : Number.POSITIVE_INFINITY,
    streams: true,
  };
  const request = newRequest(spec, null, nowMs - held.age_ms, pool.limits.requestTimeoutMs + held.age_ms);
  request.payloadBytes = held.payload_bytes;
  request.droppedPayloadCrc32 = held.payload_crc32;
  return request;
}
