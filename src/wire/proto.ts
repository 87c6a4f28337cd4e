import { fileURLToPath } from 'node:url';
import type { GrpcObject, ServiceClientConstructor, ServiceDefinition } from '@grpc/grpc-js';
import { loadPackageDefinition } from '@grpc/grpc-js';
import type { MessageTypeDefinition } from '@grpc/proto-loader';
import { loadSync } from '@grpc/proto-loader';

/**
 * The services of proto/, loaded from the files themselves. Messages are plain objects with the proto's field names:
 * enums are their names, 64-bit integers are numbers (ours stay below 2^53), absent fields are their defaults.
 */
export const packageDefinition = load(['execution', 'control', 'link'].map((name) => `pitwarden/v1/${name}.proto`));

/** Only to tell of it by reflection: grpc-health-check serves it. */
export const healthDefinition = load(['grpc/health/v1/health.proto']);

const loaded = loadPackageDefinition(packageDefinition);

export const clients = {
  Execution: client('Execution'),
  Control: client('Control'),
};

export const services: Readonly<Record<'Execution' | 'Control' | 'WorkerLink', ServiceDefinition>> = {
  Execution: client('Execution').service,
  Control: client('Control').service,
  WorkerLink: client('WorkerLink').service,
};

/** Writes and reads messages that travel outside calls. */
export const errorMessage = messageCodec('pitwarden.v1.Error');

function load(files: string[]) {
  return loadSync(files, {
    // The same two levels up from src/ and from dist/.
    includeDirs: [fileURLToPath(new URL('../../proto/', import.meta.url))],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
}

function client(name: string): ServiceClientConstructor {
  const v1 = (loaded['pitwarden'] as GrpcObject)['v1'] as GrpcObject;
  return v1[name] as ServiceClientConstructor;
}

function messageCodec(name: string) {
  const definition = packageDefinition[name] as MessageTypeDefinition<object, object> | undefined;
  if (definition === undefined) throw new Error(`proto: expected a message ${name}, got none`);
  return { encode: definition.serialize, decode: definition.deserialize };
}
