import type { ServerWritableStream } from '@grpc/grpc-js';
import type { Request, RequestError, ResponseSink } from '../../dispatch/request.ts';
import { code } from '../../dispatch/request.ts';
import { compact } from '../compact.ts';
import { connectionOf } from '../connection.ts';
import type { UnreadableMessage } from '../proto.ts';
import { toStatus } from '../status.ts';
import { onCallEnd } from './call-end.ts';
import { createUnread, overheadBytes, refuseAnswer, refuseUnread } from './flow-control.ts';
import { createProgressRelay } from './progress-relay.ts';
import type { ExecuteMessage, ExecutionSource } from './source.ts';
import { deadlineOf, requestSpecOf } from './validate.ts';

export function executeStream(
  source: ExecutionSource,
  call: ServerWritableStream<ExecuteMessage | UnreadableMessage, object>,
): void {
  const fail = (error: RequestError): void => {
    call.emit('error', toStatus(error));
  };
  const connection = connectionOf(call);
  const spec =
    refuseUnread(source, connection) ??
    requestSpecOf(source, call.request, deadlineOf(source, call.getDeadline()), true);
  if ('code' in spec) return fail(spec);
  const unread = createUnread(connection, () => request !== undefined && source.dispatch.resume(request, sink));
  const write = (payload: Buffer, contentType: string, workerId: string): number => {
    if (over || call.cancelled || call.destroyed) return code.cancelled;
    const wrong = refuseAnswer(source, connection, payload, workerId);
    if (wrong !== undefined) {
      end(wrong);
      return wrong.code;
    }
    const bytes = payload.length + overheadBytes;
    // A waiting chunk should not keep the worker's whole frame in memory.
    const own = unread.bytes > 0 ? compact(payload) : payload;
    unread.add(bytes);
    const response = { payload: own, content_type: contentType, request_id: spec.requestId, worker_id: workerId };
    call.write(response, () => unread.taken(bytes));
    if (unread.isMuch() && request !== undefined) source.dispatch.pause(request, sink);
    return 0;
  };
  let over = false;
  /** Ends the call with an error of the connection's own, and cancels the request. */
  const end = (error: RequestError): void => {
    over = true;
    fail(error);
    if (request !== undefined) source.dispatch.cancel(request, sink);
  };
  const relay = spec.reports
    ? createProgressRelay((report, written) => {
        if (over || call.cancelled || call.destroyed) return;
        const bytes = overheadBytes + report.message.length;
        unread.add(bytes);
        call.write({ request_id: spec.requestId, progress: report }, () => {
          unread.taken(bytes);
          written();
        });
      })
    : null;
  const sink: ResponseSink = {
    chunk: write,
    result: (payload, contentType, workerId) => {
      relay?.close();
      const status = contentType === '' ? 0 : write(payload, contentType, workerId);
      if (status === 0) call.end();
      return status;
    },
    error: (error) => {
      relay?.close();
      if (!over && !call.destroyed) fail(error);
    },
  };
  if (relay !== null) sink.progress = relay.report;
  const request: Request | undefined = source.dispatch.submit(spec, sink);
  call.on('cancelled', () => {
    relay?.close();
    unread.forget();
    if (request !== undefined) onCallEnd(source, call, connection, request, sink);
  });
}
