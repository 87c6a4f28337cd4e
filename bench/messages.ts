import protobuf from 'protobufjs';
import { root } from './paths.ts';

const protos = new protobuf.Root();
protos.resolvePath = (_, target) => `${root}proto/${target}`;
protos.loadSync('pitwarden/v1/execution.proto', { keepCase: true });

export const ExecuteRequest = protos.lookupType('pitwarden.v1.ExecuteRequest');
export const ExecuteResponse = protos.lookupType('pitwarden.v1.ExecuteResponse');
export const SubmitRequest = protos.lookupType('pitwarden.v1.SubmitRequest');
export const SubmitResponse = protos.lookupType('pitwarden.v1.SubmitResponse');

export const executePath = '/pitwarden.v1.Execution/Execute';

export interface Ask {
  readonly pool: string;
  readonly command: string;
  readonly payloadBytes: number;
}

export function encodeAsk({ pool, command, payloadBytes }: Ask): Buffer {
  const payload = Buffer.alloc(payloadBytes, 'x');
  const message = { pool, command, payload, content_type: 'application/octet-stream' };
  return Buffer.from(ExecuteRequest.encode(ExecuteRequest.create(message)).finish());
}
