import type {
  ServerDuplexStream,
  ServerUnaryCall,
  ServerWritableStream,
  sendUnaryData,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { UnreadableMessage } from '../proto.ts';
import { execute } from './execute.ts';
import { executeStream } from './execute-stream.ts';
import type { ExecuteMessage, ExecutionSource, SubmitMessage } from './source.ts';
import { submit } from './submit.ts';

export function executionService(source: ExecutionSource): UntypedServiceImplementation {
  return {
    Execute: (call: ServerUnaryCall<ExecuteMessage | UnreadableMessage, object>, callback: sendUnaryData<object>) =>
      execute(source, call, callback),
    ExecuteStream: (call: ServerWritableStream<ExecuteMessage | UnreadableMessage, object>) =>
      executeStream(source, call),
    Submit: (call: ServerDuplexStream<SubmitMessage, object>) => submit(source, call),
  };
}
