import type { Metadata } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { code, requestError } from '../../dispatch/request.ts';
import { failedStatus } from '../error-details.ts';
import type { MemoryBudget } from '../memory-budget.ts';
import { roomRetryAfterMs } from '../memory-budget.ts';
import { toStatus } from '../status.ts';

/** How a call ends whose messages are not read. */
export interface Status {
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata | null;
}

/** Uses the text of grpc-js, because clients know it. */
export function tooLarge(bytes: number, maxBytes: number): Status {
  const details = `Received message larger than max (${bytes} vs ${maxBytes})`;
  return failedStatus(status.RESOURCE_EXHAUSTED, details, 'REQUEST_TOO_LARGE');
}

export function noRoom({ maxBytes, usedBytes, name }: MemoryBudget, what: string, bytes: number): Status {
  const free = `${usedBytes} of ${maxBytes} bytes (${name}) are in use`;
  return exhausted(
    `${what}: expected no more than this connection's share of the agent's memory, got ${bytes} bytes while ${free}`,
  );
}

/** The call may be repeated, because nothing of it has begun. */
export function exhausted(details: string): Status {
  const { metadata = null } = toStatus(
    requestError(code.resourceExhausted, details, { reason: 'MEMORY_FULL', retryAfterMs: roomRetryAfterMs }),
  );
  return { code: status.RESOURCE_EXHAUSTED, details, metadata };
}

export function internalError(details: string): Status {
  return failedStatus(status.INTERNAL, details, 'INTERNAL');
}
