import type { Server } from '@grpc/grpc-js';
import type { PackageDefinition } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import type { IDescriptorProto } from 'protobufjs/ext/descriptor/index.js';
import descriptor from 'protobufjs/ext/descriptor/index.js';
import { healthDefinition, packageDefinition } from './proto.ts';

/** Adds gRPC's server reflection, by which tools such as grpcurl learn the services. */
export function addReflection(server: Server): void {
  const definition = { ...packageDefinition, ...healthDefinition };
  const services = ['pitwarden.v1.Execution', 'pitwarden.v1.Control', 'grpc.health.v1.Health'];
  new ReflectionService(withValidRanges(definition), { services }).addToServer(server);
}

function withValidRanges(definition: PackageDefinition): PackageDefinition {
  return Object.fromEntries(
    Object.entries(definition).map(([name, each]) => {
      const { fileDescriptorProtos } = each as { readonly fileDescriptorProtos?: readonly Uint8Array[] };
      if (fileDescriptorProtos === undefined) return [name, each];
      return [name, { ...each, fileDescriptorProtos: fileDescriptorProtos.map(correctFile) }];
    }),
  );
}

const { FileDescriptorProto } = descriptor;

/**
 * protobufjs writes the last reserved number of a message where descriptor.proto has the number after it (ReservedRange.end).
 * Strict readers refuse a file with such a range: "reserved ranges has invalid range: 13 to 12".
 */
function correctFile(bytes: Uint8Array): Buffer {
  const file = FileDescriptorProto.decode(bytes) as unknown as { readonly messageType?: IDescriptorProto[] };
  for (const message of file.messageType ?? []) correctMessage(message);
  return FileDescriptorProto.encode(FileDescriptorProto.create(file)).finish() as Buffer;
}

function correctMessage(message: IDescriptorProto): void {
  for (const range of message.reservedRange ?? []) range.end = (range.end ?? 0) + 1;
  for (const nested of message.nestedType ?? []) correctMessage(nested);
}
