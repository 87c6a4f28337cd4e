import type { Core } from './core.ts';
import type { Request } from './request.ts';
import { nothing } from './request.ts';

/**
 * The bytes that a request holds count for its caller's connection. When the caller of a named request has left, the connection
 * gives them back although the request is still here. From then on they count as unclaimed, until a caller is back or nobody can
 * ask for the request.
 */

/** The objects and map entries of one request. */
const objectBytes = 1024;

/** Bytes that a request holds beside its payload. */
export function requestBytesOf({ command, requestId, sessionId }: Request): number {
  return objectBytes + command.length + requestId.length + sessionId.length;
}

/** Call this when a request without a caller begins to be kept, or when its bytes change. */
export function countUnclaimed(core: Core, request: Request): void {
  setUnclaimed(core, request, unclaimedBytesOf(request));
}

/** A caller is back. */
export function claim(core: Core, request: Request): void {
  setUnclaimed(core, request, 0);
}

/** Nobody can ask for the request any more. Its payload is dropped, because its worker may still have it for a long time. */
export function dropUnclaimed(core: Core, request: Request): void {
  request.payload = nothing;
  setUnclaimed(core, request, 0);
}

export function unclaimedBytesOf(request: Request): number {
  const { payload, endError } = request;
  const error = endError === null ? 0 : endError.message.length + endError.traceback.length;
  return requestBytesOf(request) + payload.length + error;
}

function setUnclaimed(core: Core, request: Request, bytes: number): void {
  const more = bytes - request.unclaimedBytes;
  if (more === 0) return;
  request.unclaimedBytes = bytes;
  if (more > 0) core.options.unclaimed.add(more);
  else core.options.unclaimed.give(-more);
}
