import type { Core, Pool } from './core.ts';
import { unknownCommand, workerFor } from './placing.ts';
import type { Ask, RequestError } from './request.ts';
import { code, refusal } from './request.ts';

/** What is refused at the door. */

/** When a caller of a closed pool may look again. */
export const closedRetryAfterMs = 1_000;
/** Advice to a refused caller stays within this. */
const retryAfterMs = { least: 50, most: 30_000, unknown: 250 } as const;

export function unknownPool(core: Core, ask: Ask): RequestError {
  const names = [...core.pools.keys()].sort().join(', ') || 'none';
  return refusal(code.notFound, `pool: expected one of this node's pools (${names}), got "${ask.pool}"`);
}

export function refuseAtTheDoor(core: Core, pool: Pool, ask: Ask, nowMs: number): RequestError | undefined {
  if (!pool.open) return refusal(code.unavailable, pool.closedBecause, { retryAfterMs: closedRetryAfterMs });
  if (pool.workers.size > 0 && !pool.commands.has(ask.command)) return unknownCommand(pool, ask.command);
  if (ask.deadlineMs <= nowMs) return refusal(code.deadlineExceeded, 'the deadline passed before the request arrived');
  if (pool.poison.any) {
    const crashes = pool.poison.crashesOf(core.options.fingerprint(ask), nowMs);
    if (crashes > 0) return poisonous(ask.command, crashes);
  }
  if (isTakenAtOnce(pool, ask)) return undefined;
  const { maxQueuedRequests, maxQueuedBytes } = pool.limits;
  if (pool.load.requests >= maxQueuedRequests) {
    return queueFull(pool, `queue.max_requests: expected at most ${maxQueuedRequests} requests waiting`);
  }
  const would = pool.load.bytes + ask.payload.length;
  if (would > maxQueuedBytes) {
    return queueFull(pool, `queue.max_bytes: expected at most ${maxQueuedBytes} bytes waiting, got ${would}`);
  }
  return refuseTooLate(pool, ask, nowMs);
}

/** It would not wait: a hot session that does keeps nobody else out. */
function isTakenAtOnce(pool: Pool, ask: Ask): boolean {
  if (pool.free.size === 0 || pool.expected.size > 0 || pool.queue.length > 0) return false;
  return pool.load.requests === 0 || workerFor(pool, ask) !== null;
}

/** What cannot be served before its deadline would only be in the way of what can. */
function refuseTooLate(pool: Pool, ask: Ask, nowMs: number): RequestError | undefined {
  const waitMs = pool.queue.length === 0 ? 0 : pool.rate.expectedMs(pool.queue.length + 1);
  const leftMs = Number.isFinite(ask.deadlineMs) ? ask.deadlineMs - nowMs : pool.limits.requestTimeoutMs;
  if (waitMs <= leftMs) return undefined;
  const ahead = `${pool.queue.length} requests wait in the queue of pool ${pool.name}`;
  const message = `${ahead}: expected a deadline of at least ${Math.ceil(waitMs)} ms, got ${Math.floor(leftMs)} ms`;
  return refusal(code.resourceExhausted, message, { retryAfterMs: advise(waitMs - leftMs) });
}

export function poisonous(command: string, crashes: number): RequestError {
  const message = `this request to ${command} was running in ${crashes} workers when they crashed; it is refused for now (poison.for)`;
  return refusal(code.failedPrecondition, message);
}

function advise(waitMs: number): number {
  return Math.min(retryAfterMs.most, Math.max(retryAfterMs.least, Math.ceil(waitMs)));
}

function queueFull(pool: Pool, message: string): RequestError {
  const waitMs = (pool.averageRunMs * (pool.load.requests + 1)) / Math.max(1, pool.capacity);
  const advised = pool.averageRunMs === 0 ? retryAfterMs.unknown : waitMs;
  return refusal(code.resourceExhausted, `the queue of pool ${pool.name} is full: ${message}`, {
    retryAfterMs: advise(advised),
  });
}
