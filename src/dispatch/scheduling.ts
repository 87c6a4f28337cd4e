import { mayPrefetch, prefetchMax, prefetchMaxBytes } from './command-stats.ts';
import { endGivenUp, fail } from './completion.ts';
import type { Core } from './core.ts';
import { arm } from './core.ts';
import type { DispatchPool } from './pool.ts';
import { createQueue } from './queue.ts';
import type { Request, RequestError, RequestSpec } from './request.ts';
import { code, requestError } from './request.ts';
import { runAgain } from './retry.ts';
import { isGivenUp, moveRun, run, runEvents } from './run.ts';
import type { DispatchWorker } from './worker.ts';

/** Chooses the worker for each request, and takes back requests that a worker has not begun, so that they run again. */

/** A worker that has answered nothing for this long is asked to give back the requests that wait in it. */
const recallAfterMs = 10;

export function unknownCommand(pool: DispatchPool, command: string): RequestError {
  const names = [...pool.commands.keys()].sort().join(', ') || 'none';
  return requestError(
    code.notFound,
    `command: expected one that pool ${pool.name} offers (${names.slice(0, 500)}), got "${command}"`,
    { reason: 'COMMAND_NOT_FOUND' },
  );
}

/**
 * Gives waiting requests to workers, first come first served. While a worker is free, a request that no free worker can take is
 * parked in the lane of its command or of its session's worker, so that it does not block the next ones and is not examined again
 * in vain.
 */
export function serveQueue(core: Core, pool: DispatchPool): void {
  for (;;) {
    const parked = pool.parked.size > 0 ? firstOfParked(pool) : null;
    const queued = pool.queue.first();
    const isParkedFirst = parked !== null && (queued === null || parked.request.arrivedAtMs <= queued.arrivedAtMs);
    const request = isParkedFirst ? parked.request : queued;
    if (request === null) return;
    const worker = isParkedFirst ? parked.worker : workerFor(pool, request);
    if (worker !== null) {
      request.queue?.remove(request);
      send(core, pool, worker, request);
    } else if (!pool.commands.has(request.command)) {
      if (pool.workers.size === 0) return;
      fail(core, request, unknownCommand(pool, request.command));
    } else if (pool.free.size > 0) {
      park(pool, request);
    } else {
      return;
    }
  }
}

/** The oldest parked request that a worker can take now. */
function firstOfParked(pool: DispatchPool): { request: Request; worker: DispatchWorker } | null {
  let found: { request: Request; worker: DispatchWorker } | null = null;
  for (const [lane, queue] of pool.parked) {
    for (let request = queue.first(); ; request = queue.first()) {
      if (request === null) {
        pool.parked.delete(lane);
        break;
      }
      const worker = workerFor(pool, request);
      if (worker !== null) {
        if (found === null || request.arrivedAtMs < found.request.arrivedAtMs) found = { request, worker };
        break;
      }
      if (pool.workers.size > 0 && !pool.commands.has(request.command)) {
        // The last worker that offered the command has gone. `serveQueue` refuses the request.
        queue.remove(request);
        pool.queue.unshift(request);
      } else if (laneOf(pool, request) === lane) break;
      // The session has another worker by now, so the request waits in another lane.
      else park(pool, request);
    }
  }
  return found;
}

function park(pool: DispatchPool, request: Request): void {
  const lane = laneOf(pool, request);
  let queue = pool.parked.get(lane);
  if (queue === undefined) {
    queue = createQueue(pool.load);
    pool.parked.set(lane, queue);
  }
  request.queue?.remove(request);
  queue.push(request);
}

/** What a parked request waits for: one worker, or any that offers the command. */
function laneOf(pool: DispatchPool, request: Request): DispatchWorker | string {
  const { affinity } = pool.limits;
  const own = affinity === 'strict' && request.sessionId !== '' ? sessionsWorker(pool, request) : null;
  return own ?? request.command;
}

/** A worker that can begin the request at once, or else one in which it waits only briefly. */
export function workerFor(
  pool: DispatchPool,
  spec: Pick<RequestSpec, 'command' | 'payload' | 'sessionId'>,
): DispatchWorker | null {
  const { command, payload } = spec;
  const own = spec.sessionId === '' || pool.limits.affinity === 'off' ? null : sessionsWorker(pool, spec);
  if (own !== null && own.counters.inFlight < own.concurrency) return own;
  if (own !== null && pool.limits.affinity === 'strict') return null;
  if (pool.free.size > 0) return freeWorkerFor(pool, command);
  const stats = pool.commands.get(command);
  const worker = pool.prefetchable.first();
  if (worker === null || stats === undefined || !mayPrefetch(stats, worker.expectedMs)) return null;
  if (worker.payloadBytes + payload.length > prefetchMaxBytes) return null;
  return worker.commands.get(command)?.isAsync === false ? worker : null;
}

/** The session's worker, if it still takes requests. */
function sessionsWorker(
  pool: DispatchPool,
  { command, sessionId }: Pick<RequestSpec, 'command' | 'sessionId'>,
): DispatchWorker | null {
  const worker = pool.affinity.workerOf(sessionId);
  if (worker === undefined) return null;
  if (pool.workers.has(worker) && !worker.paused && !worker.leaving && worker.commands.has(command)) return worker;
  pool.affinity.forget(sessionId);
  return null;
}

/** Workers of one pool offer the same commands, except while a new version of the application rolls out. */
function freeWorkerFor(pool: DispatchPool, command: string): DispatchWorker | null {
  const first = pool.free.first();
  if (first === null || first.commands.has(command)) return first;
  for (const worker of pool.free.all()) if (worker.commands.has(command)) return worker;
  return null;
}

/** Puts the worker in `free` or `prefetchable`, or in neither, by its number of requests. `where`: its place among equals. */
export function addToAvailable(pool: DispatchPool, worker: DispatchWorker, where: 'first' | 'last' = 'last'): void {
  const { inFlight } = worker.counters;
  if (worker.paused || worker.leaving) return;
  if (inFlight < worker.concurrency) pool.free.add(worker, where);
  else if (worker.marksBegun && !worker.stalled && inFlight < worker.concurrency + prefetchMax) {
    pool.prefetchable.add(worker, where);
  }
}

export function removeFromAvailable(pool: DispatchPool, worker: DispatchWorker): void {
  // `remove` ignores workers that are not listed.
  if (worker.counters.inFlight < worker.concurrency) pool.free.remove(worker);
  else pool.prefetchable.remove(worker);
}

export function send(core: Core, pool: DispatchPool, worker: DispatchWorker, request: Request): void {
  const wrong = refuseStream(worker.commands.get(request.command)?.streams === true, request);
  if (wrong !== undefined) return fail(core, request, wrong);
  const nowMs = core.options.nowMs();
  const linkId = newLinkId(worker);
  const { counters } = worker;
  moveRun(request, runEvents.placed);
  request.sentAtMs = nowMs;
  request.mayHaveEmitted = false;
  request.progress = null;
  request.pendingReplays = 0;
  request.chunksToSkip = request.chunksDelivered;
  request.attempts += 1;
  request.workerId = worker.workerId;
  request.linkId = linkId;
  request.expectedMs = pool.commands.get(request.command)?.expectedMs ?? 0;
  if (pool.limits.affinity !== 'off' && request.sessionId !== '') pool.affinity.remember(request.sessionId, worker);
  removeFromAvailable(pool, worker);
  worker.running.set(linkId, request);
  worker.expectedMs += request.expectedMs;
  worker.payloadBytes += request.payloadBytes;
  counters.inFlight += 1;
  pool.inFlight += 1;
  addToAvailable(pool, worker);
  if (counters.inFlight > worker.concurrency) watchForStall(core, worker, nowMs);
  worker.link.request({
    id: linkId,
    command: request.command,
    payload: request.payload,
    content_type: request.contentType,
    request_id: request.requestId,
    session_id: request.sessionId,
    timeout_ms: linkTimeout(request.deadlineMs - nowMs),
    keep: request.hasCallerId,
  });
  if (request.paused) worker.link.pause(linkId);
}

/** A plain call cannot take the results of a command that streams. */
export function refuseStream(
  commandStreams: boolean,
  { command, streams }: Pick<RequestSpec, 'command' | 'streams'>,
): RequestError | undefined {
  if (!commandStreams || streams) return undefined;
  const message = `command ${command} streams its results: expected ExecuteStream or Submit, got Execute`;
  return requestError(code.invalidArgument, message);
}

/** The timeout that the worker gets; 0: none. Dispatch alone enforces a timeout that 32 bits cannot hold. */
function linkTimeout(ms: number): number {
  return ms > 0xffff_ffff ? 0 : Math.max(1, Math.ceil(ms));
}

/** The id grows by 1 and wraps, because `isAfter` compares ids of one worker by their distance. */
function newLinkId(worker: DispatchWorker): number {
  do worker.nextLinkId = (worker.nextLinkId + 1) >>> 0;
  while (worker.running.has(worker.nextLinkId));
  return worker.nextLinkId;
}

/** Takes an answered or returned request from its worker. */
export function takeFromWorker(core: Core, pool: DispatchPool, worker: DispatchWorker, request: Request): void {
  const { counters } = worker;
  removeFromAvailable(pool, worker);
  worker.running.delete(request.linkId);
  counters.inFlight -= 1;
  pool.inFlight -= 1;
  worker.payloadBytes -= request.payloadBytes;
  if (request.run === run.cancelled) core.deadlines.remove(request);
  // A sum of many fractions drifts, so an idle worker is reset to 0.
  worker.expectedMs = counters.inFlight === 0 ? 0 : worker.expectedMs - request.expectedMs;
  if (counters.inFlight <= worker.concurrency) core.prefetched.delete(worker);
}

/** A worker has more requests than it may run. If it stalls, it is asked to give the others back. */
export function watchForStall(core: Core, worker: DispatchWorker, nowMs: number): void {
  if (core.prefetched.has(worker)) return;
  core.prefetched.add(worker);
  worker.lastAnswerAtMs = Math.max(worker.lastAnswerAtMs, nowMs);
  if (Number.isFinite(core.recallAtMs)) return;
  core.recallAtMs = nowMs + recallAfterMs;
  arm(core);
}

export function recallFromStalled(core: Core, nowMs: number): void {
  if (nowMs < core.recallAtMs) return;
  for (const worker of core.prefetched) {
    if (worker.stalled || nowMs - worker.lastAnswerAtMs < recallAfterMs) continue;
    const pool = core.pools.get(worker.pool);
    if (pool !== undefined) removeFromAvailable(pool, worker);
    worker.stalled = true;
    const unwritten = worker.link.recall();
    if (unwritten.length > 0) onReturned(core, worker.workerId, unwritten);
  }
  core.recallAtMs = core.prefetched.size > 0 ? nowMs + recallAfterMs : Number.POSITIVE_INFINITY;
}

export function onReturned(core: Core, workerId: string, linkIds: readonly number[]): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined) return;
  const again: Request[] = [];
  for (const linkId of linkIds) {
    const request = worker.running.get(linkId);
    if (request === undefined) continue;
    takeFromWorker(core, pool, worker, request);
    addToAvailable(pool, worker);
    if (isGivenUp(request)) endGivenUp(request, runEvents.returned);
    else {
      request.attempts -= 1;
      again.push(request);
    }
  }
  runAgain(core, pool, again);
  if (worker.paused && worker.counters.inFlight === 0) core.options.onIdle(workerId);
  serveQueue(core, pool);
}
