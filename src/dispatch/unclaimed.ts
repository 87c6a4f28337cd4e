import type { Core } from './core.ts';
import type { Request } from './request.ts';
import { nothing } from './request.ts';

/**
 * What a request holds counts as its caller's connection's. When the caller of a named request has left, the connection has
 * given the bytes back and the request is still here: they count as unclaimed until its caller is back, or nobody can ask for it.
 */

/** The objects and map entries of one request. */
const objectBytes = 1024;

/** What a request holds beside its payload. */
export function requestBytesOf({ command, requestId, sessionId }: Request): number {
  return objectBytes + command.length + requestId.length + sessionId.length;
}

/** Called where a request without a caller begins to be kept, or keeps less or more than before. */
export function countUnclaimed(core: Core, request: Request): void {
  setUnclaimed(core, request, unclaimedBytesOf(request));
}

/** Its caller is back. */
export function claim(core: Core, request: Request): void {
  setUnclaimed(core, request, 0);
}

/** Nobody can ask for it any more. Its worker may have it for a long time yet. */
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
