import type { ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import type { ResponseSink } from '../../dispatch/request.ts';
import { addUnread, connectionOf } from '../connection.ts';
import type { UnreadableMessage } from '../proto.ts';
import { toStatus } from '../status.ts';
import { onCallEnd } from './call-end.ts';
import { refuseAnswer } from './flow-control.ts';
import type { ExecuteMessage, ExecutionSource } from './source.ts';
import { specOfCall } from './validate.ts';

export function execute(
  source: ExecutionSource,
  call: ServerUnaryCall<ExecuteMessage | UnreadableMessage, object>,
  callback: sendUnaryData<object>,
): void {
  const connection = connectionOf(call);
  const spec = specOfCall(source, call, connection, false);
  if ('code' in spec) return callback(toStatus(spec));
  let unread = 0;
  const sink: ResponseSink = {
    chunk: () => undefined,
    result: (payload, contentType, workerId) => {
      const wrong = refuseAnswer(source, connection, payload, workerId);
      if (wrong !== undefined) {
        callback(toStatus(wrong));
        return wrong.code;
      }
      unread = payload.length;
      addUnread(connection, unread);
      callback(null, { payload, content_type: contentType, request_id: spec.requestId, worker_id: workerId });
      return 0;
    },
    error: (error) => callback(toStatus(error)),
  };
  const request = source.dispatch.submit(spec, sink);
  if (request === undefined) return;
  // grpc-js emits `cancelled` whenever the stream closes, success included.
  call.on('cancelled', () => {
    addUnread(connection, -unread);
    onCallEnd(source, call, connection, request, sink);
  });
}
