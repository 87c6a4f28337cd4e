import { repeat } from './caller-ids.ts';
import { fail } from './completion.ts';
import type { Core } from './core.ts';
import { arm } from './core.ts';
import type { DispatchPool, PoolLimits } from './pool.ts';
import { newPool, queuesOf } from './pool.ts';
import type { Request, RequestError, RequestSpec, ResponseSink } from './request.ts';
import { code, newRequest, requestError } from './request.ts';
import { moveRun, runEvents } from './run.ts';
import { send, serveQueue, unknownCommand, workerFor } from './scheduling.ts';
import { awaitExpected } from './takeover.ts';

/** Admits requests or refuses them: on arrival, or when their pool closes. */

/** How long a caller of a closed pool is advised to wait. */
const closedRetryAfterMs = 1_000;

/** Bounds of the wait that a refused caller is advised, and the advice while no run time is known. */
const retryAfterMs = { least: 50, most: 30_000, unknown: 250 } as const;

export interface PoolGate {
  readonly open: boolean;
  /** Why the pool is closed. Callers receive this text. */
  readonly reason: string;
  readonly refuseQueued: boolean;
}

export function setPool(core: Core, name: string, limits: PoolLimits): void {
  const pool = core.pools.get(name);
  if (pool === undefined) core.pools.set(name, newPool(name, limits));
  else {
    pool.limits = limits;
    // Requests that waited for one worker may go to any worker if affinity is no longer strict.
    serveQueue(core, pool);
  }
}

export function setPoolOpen(core: Core, name: string, gate: PoolGate): void {
  const pool = core.pools.get(name);
  if (pool === undefined) return;
  pool.open = gate.open;
  pool.closedBecause = gate.reason;
  pool.refusesQueued = gate.refuseQueued;
  if (gate.refuseQueued) refuseQueued(core, pool, gate.reason);
}

export function removePool(core: Core, name: string): void {
  const pool = core.pools.get(name);
  if (pool === undefined) return;
  refuseQueued(core, pool, pool.closedBecause || `pool ${name} is removed`);
  core.pools.delete(name);
}

export function admitRequest(core: Core, spec: RequestSpec, sink: ResponseSink): Request | undefined {
  const arrivedAtMs = core.options.nowMs();
  const pool = core.pools.get(spec.pool);
  const known = spec.hasCallerId ? pool?.byCallerId.get(spec.requestId) : undefined;
  if (pool !== undefined && known !== undefined) return repeat(core, pool, known, spec, sink);
  const refused = pool === undefined ? unknownPool(core, spec) : refuseAtTheDoor(core, pool, spec, arrivedAtMs);
  if (pool === undefined || refused !== undefined) {
    sink.error(refused ?? unknownPool(core, spec));
    if (refused !== undefined) countRefused(core, spec.pool, refused.code);
    return undefined;
  }
  const request = newRequest(spec, sink, arrivedAtMs, pool.limits.requestTimeoutMs);
  core.deadlines.add(request, request.deadlineMs);
  arm(core);
  if (spec.hasCallerId) {
    pool.byCallerId.set(spec.requestId, request);
    if (pool.expected.size > 0) {
      awaitExpected(pool, request);
      return request;
    }
  }
  const worker = pool.queue.length === 0 ? workerFor(pool, spec) : null;
  if (worker !== null) {
    send(core, pool, worker, request);
  } else {
    moveRun(request, runEvents.enqueued);
    pool.queue.push(request);
    serveQueue(core, pool);
  }
  return request;
}

/** Unknown pools are not counted: names that callers make up would become labels of a metric without bound. */
export function countRefused(core: Core, pool: string, refusedWith: number): void {
  if (core.pools.has(pool)) core.options.onOutcome({ pool, code: refusedWith, refused: true, queuedMs: 0, ranMs: 0 });
}

function unknownPool(core: Core, spec: RequestSpec): RequestError {
  const names = [...core.pools.keys()].sort().join(', ') || 'none';
  return requestError(code.notFound, `pool: expected one of this node's pools (${names}), got "${spec.pool}"`, {
    reason: 'POOL_NOT_FOUND',
  });
}

function refuseAtTheDoor(core: Core, pool: DispatchPool, spec: RequestSpec, nowMs: number): RequestError | undefined {
  if (!pool.open)
    return requestError(code.unavailable, pool.closedBecause, {
      reason: 'POOL_CLOSED',
      retryAfterMs: closedRetryAfterMs,
    });
  if (pool.workers.size > 0 && !pool.commands.has(spec.command)) return unknownCommand(pool, spec.command);
  if (spec.deadlineMs <= nowMs)
    return requestError(code.deadlineExceeded, 'the deadline passed before the request arrived');
  if (pool.poison.any) {
    const crashes = pool.poison.crashesOf(core.options.fingerprint(spec), nowMs);
    if (crashes > 0) return poisonous(spec.command, crashes);
  }
  if (isTakenAtOnce(pool, spec)) return undefined;
  const { maxQueuedRequests, maxQueuedBytes } = pool.limits;
  if (pool.load.requests >= maxQueuedRequests) {
    return queueFull(pool, `queue.max_requests: expected at most ${maxQueuedRequests} requests waiting`);
  }
  const would = pool.load.bytes + spec.payload.length;
  if (would > maxQueuedBytes) {
    return queueFull(pool, `queue.max_bytes: expected at most ${maxQueuedBytes} bytes waiting, got ${would}`);
  }
  return refuseTooLate(pool, spec, nowMs);
}

/** Whether the request would not wait. Then a queue full of one busy session's requests does not refuse it. */
function isTakenAtOnce(pool: DispatchPool, spec: RequestSpec): boolean {
  if (pool.free.size === 0 || pool.expected.size > 0 || pool.queue.length > 0) return false;
  return pool.load.requests === 0 || workerFor(pool, spec) !== null;
}

/** Refuses a request that cannot be served before its deadline, because it would only delay others. */
function refuseTooLate(pool: DispatchPool, spec: RequestSpec, nowMs: number): RequestError | undefined {
  const waitMs = pool.queue.length === 0 ? 0 : pool.rate.expectedMs(pool.queue.length + 1);
  const leftMs = Number.isFinite(spec.deadlineMs) ? spec.deadlineMs - nowMs : pool.limits.requestTimeoutMs;
  if (waitMs <= leftMs) return undefined;
  const ahead = `${pool.queue.length} requests wait in the queue of pool ${pool.name}`;
  const message = `${ahead}: expected a deadline of at least ${Math.ceil(waitMs)} ms, got ${Math.floor(leftMs)} ms`;
  return requestError(code.resourceExhausted, message, {
    reason: 'DEADLINE_TOO_SHORT',
    retryAfterMs: advise(waitMs - leftMs),
  });
}

export function poisonous(command: string, crashes: number): RequestError {
  const message = `this request to ${command} was running in ${crashes} workers when they crashed; it is refused for now (poison.for)`;
  return requestError(code.failedPrecondition, message, { reason: 'REQUEST_POISONED' });
}

function advise(waitMs: number): number {
  return Math.min(retryAfterMs.most, Math.max(retryAfterMs.least, Math.ceil(waitMs)));
}

function queueFull(pool: DispatchPool, message: string): RequestError {
  const waitMs = (pool.averageRunMs * (pool.load.requests + 1)) / Math.max(1, pool.capacity);
  const advised = pool.averageRunMs === 0 ? retryAfterMs.unknown : waitMs;
  return requestError(code.resourceExhausted, `the queue of pool ${pool.name} is full: ${message}`, {
    reason: 'QUEUE_FULL',
    retryAfterMs: advise(advised),
  });
}

function refuseQueued(core: Core, pool: DispatchPool, why: string): void {
  for (const queue of queuesOf(pool)) {
    for (let request = queue.first(); request !== null; request = queue.first()) {
      fail(
        core,
        request,
        requestError(code.unavailable, why, { reason: 'POOL_CLOSED', retryAfterMs: closedRetryAfterMs }),
      );
    }
  }
}
