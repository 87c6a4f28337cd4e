import type { Request, ResponseSink } from '../../dispatch/request.ts';
import { needsReceipt } from '../../dispatch/request.ts';
import { requestBytesOf } from '../../dispatch/unclaimed.ts';
import type { Connection, UnprovenAnswer } from '../connection.ts';
import { howEnded } from '../connection.ts';
import { createReceipts } from './receipts.ts';
import type { ExecutionSource } from './source.ts';

/** Payload bytes of answered requests that one connection keeps until its caller is known to have read the answers. */
const unprovenMaxBytes = 1024 * 1024;

/** Called when a call has ended. A caller that cancelled wants no answer; one whose connection broke may repeat its request. */
export function onCallEnd(
  source: ExecutionSource,
  call: object,
  connection: Connection,
  request: Request,
  sink: ResponseSink,
): void {
  const how = howEnded(call, connection);
  if (how === 'cancelled') source.dispatch.cancel(request, sink);
  else if (how === 'broken') source.dispatch.settle(request, sink, false);
  else awaitReceipt(source, connection, request, sink);
}

/**
 * Called when the kernel has the whole answer. The agent and the worker keep a request with a caller's id until the caller is
 * known to have read the answer.
 */
export function awaitReceipt(
  source: ExecutionSource,
  connection: Connection,
  request: Request,
  sink: ResponseSink,
): void {
  const { dispatch } = source;
  const { session } = connection;
  if (!needsReceipt(request)) return dispatch.settle(request, sink, true);
  if (session === undefined || session.destroyed) return dispatch.settle(request, sink, false);
  const { memory } = connection;
  connection.receipts ??= createReceipts<UnprovenAnswer>(session, (answer, isRead) => {
    connection.unprovenBytes -= answer.payloadBytes;
    memory?.give(answer.heldBytes);
    dispatch.settle(answer.request, answer.sink, isRead);
  });
  const { payload } = request;
  const fits = connection.unprovenBytes + payload.length <= unprovenMaxBytes && memory?.fits(payload.length) !== false;
  if (!fits) dispatch.dropPayload(request, sink);
  const payloadBytes = request.payload.length;
  const heldBytes = requestBytesOf(request) + payloadBytes;
  connection.unprovenBytes += payloadBytes;
  memory?.add(heldBytes);
  connection.receipts.add({ request, sink, payloadBytes, heldBytes });
}
