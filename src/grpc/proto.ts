import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { GrpcObject, ServiceClientConstructor, ServiceDefinition } from '@grpc/grpc-js';
import { loadPackageDefinition } from '@grpc/grpc-js';
import type { MessageTypeDefinition } from '@grpc/proto-loader';
import { loadSync } from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import type { FieldBounds } from './field-bounds.ts';
import { boundsCheck, malformed } from './field-bounds.ts';

const protoDir = fileURLToPath(new URL('../../proto/', import.meta.url));

/** What came in place of a message that must not be decoded. */
export class UnreadableMessage {
  readonly problem: string;
  constructor(problem: string) {
    this.problem = problem;
  }
}

/** How often repeated fields may occur in one message. The messages of Control are so small that their size bounds them. */
const repeated: FieldBounds['repeated'] = {
  'SubmitRequest.items': 10_000,
  'SubmitRequest.cancel_request_ids': 10_000,
  'WorkerFrame.returned': 100_000,
  'WorkerFrame.chunks': 30_000,
  'WorkerFrame.results': 30_000,
  'WorkerFrame.progress': 30_000,
  'WorkerFrame.replayed': 120_000,
  'Hello.commands': 1_000,
  // Above the most that `request.keep.max_results` allows.
  'Resumed.held': 120_000,
};

/** Fields of all kinds in one message: what its repeated fields need, with room for fields of later versions. */
const fieldsMost: Readonly<Record<string, number>> = {
  ExecuteRequest: 1_000,
  SubmitRequest: 200_000,
  WorkerFrame: 2_000_000,
};

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
  Execution: lean(client('Execution').service),
  Control: client('Control').service,
  WorkerLink: lean(client('WorkerLink').service),
};

/** Writes and reads messages that travel outside calls. */
export const errorMessage = messageCodec('pitwarden.v1.Error');

function load(files: string[]) {
  return loadSync(files, {
    includeDirs: [protoDir],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
}

/**
 * A service whose messages are read and written as protobufjs has them, without the copy into plain objects that
 * proto-loader makes of each: on the path of every request that copy cost as much as the coding itself.
 * An absent field's default is inherited; 64-bit integers, of which ours have none that matter, come as objects.
 */
function lean(service: ServiceDefinition): ServiceDefinition {
  const root = new protobuf.Root();
  root.resolvePath = (_, target) => join(protoDir, target);
  root.loadSync(['pitwarden/v1/execution.proto', 'pitwarden/v1/link.proto'], { keepCase: true });
  root.resolveAll();
  for (const type of typesOf(root)) {
    // Else an absent one is an empty array.
    const defaults = type.ctor.prototype as Record<string, unknown>;
    for (const field of type.fieldsArray) if (field.type === 'bytes') defaults[field.name] = Buffer.alloc(0);
  }
  return Object.fromEntries(
    Object.entries(service).map(([name, method]) => {
      const [, serviceName = '', methodName = ''] = method.path.split('/');
      const { resolvedRequestType, resolvedResponseType } = root.lookupService(serviceName).methods[methodName] ?? {};
      if (!resolvedRequestType || !resolvedResponseType) throw new Error(`proto: expected types of ${method.path}`);
      const codecs = {
        requestSerialize: encoder(resolvedRequestType),
        requestDeserialize: boundedDecoder(resolvedRequestType),
        responseSerialize: scratchEncoder(resolvedResponseType),
        responseDeserialize: decoder(resolvedResponseType),
      };
      return [name, { ...method, ...codecs }];
    }),
  );
}

function encoder(type: protobuf.Type): (message: object) => Buffer {
  return (message) => type.encode(message).finish() as Buffer;
}

/** Where messages are coded that are copied before the next one is coded; a larger one gets a Buffer of its own. */
const scratch = Buffer.allocUnsafeSlow(2 * 1024 * 1024);

class ScratchWriter extends protobuf.BufferWriter {
  static override alloc(size: number): Buffer {
    return size <= scratch.length ? scratch.subarray(0, size) : Buffer.allocUnsafe(size);
  }
}

/**
 * What a server answers: grpc-js copies it behind its own five bytes as soon as it is coded, so what it is coded into
 * serves for all. That spares one Buffer a message, which counts where payloads are large (`test/grpc/proto.test.ts`
 * sees that it stays so).
 */
function scratchEncoder(type: protobuf.Type): (message: object) => Buffer {
  return (message) => type.encode(message, new ScratchWriter()).finish() as Buffer;
}

function decoder(type: protobuf.Type): (bytes: Buffer) => object {
  return (bytes) => type.decode(bytes);
}

/** An unreadable message is a value and no error: of errors here grpc-js tells callers nothing. */
function boundedDecoder(type: protobuf.Type): (bytes: Buffer) => object {
  const fields = fieldsMost[type.name];
  if (fields === undefined) throw new Error(`proto: expected a bound for the fields of ${type.name}`);
  const check = boundsCheck(type, { repeated, fields });
  return (bytes) => {
    const problem = check(bytes);
    if (problem !== undefined) return new UnreadableMessage(problem);
    try {
      return type.decode(bytes);
    } catch {
      return new UnreadableMessage(malformed);
    }
  };
}

function typesOf(parent: protobuf.NamespaceBase): protobuf.Type[] {
  return parent.nestedArray.flatMap((nested) => [
    ...(nested instanceof protobuf.Type ? [nested] : []),
    ...(nested instanceof protobuf.Namespace ? typesOf(nested) : []),
  ]);
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
