// A bare grpc-js server that echoes: node echo-grpc-js.js SOCKET

import { once } from 'node:events';
import type { GrpcObject, ServerWritableStream, ServiceClientConstructor } from '@grpc/grpc-js';
import { loadPackageDefinition, Server, ServerCredentials } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { root } from '../paths.ts';

const [, , socket = ''] = process.argv;
const definition = loadSync('pitwarden/v1/execution.proto', { includeDirs: [`${root}proto`], keepCase: true });
const v1 = (loadPackageDefinition(definition)['pitwarden'] as GrpcObject)['v1'] as GrpcObject;
const server = new Server({ 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 });
server.addService((v1['Execution'] as ServiceClientConstructor).service, {
  Execute: (
    call: { request: { payload: Buffer; content_type: string; command: string } },
    answer: (error: null, response: object) => void,
  ) => {
    const { payload, content_type, command } = call.request;
    if (command === 'handler_5ms') setTimeout(answer, 5, null, { payload, content_type });
    else answer(null, { payload, content_type });
  },
  ExecuteStream: (call: ServerWritableStream<{ payload: Buffer }, object>) => void stream(call),
});

/** So many chunks of such a size, as bench_app's command does it. */
async function stream(call: ServerWritableStream<{ payload: Buffer }, object>): Promise<void> {
  const { count, size } = JSON.parse(call.request.payload.toString()) as { count: number; size: number };
  const response = { payload: Buffer.alloc(size, 'x'), content_type: 'application/octet-stream' };
  for (let sent = 0; sent < count; sent += 1) if (!call.write(response)) await once(call, 'drain');
  call.end();
}

server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) => {
  if (error !== null) throw error;
  process.stdout.write('ready\n');
});
