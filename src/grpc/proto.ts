import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { GrpcObject, ServiceClientConstructor, ServiceDefinition } from '@grpc/grpc-js';
import { loadPackageDefinition } from '@grpc/grpc-js';
import type { MessageTypeDefinition } from '@grpc/proto-loader';
import { loadSync } from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import type { BoundsCheck, FieldBounds } from './field-bounds.ts';
import { boundsCheck, malformed } from './field-bounds.ts';

const protoDir = fileURLToPath(new URL('../../proto/', import.meta.url));

/** Takes the place of a message that must not be decoded. */
export class UnreadableMessage {
  readonly problem: string;
  constructor(problem: string) {
    this.problem = problem;
  }
}

/** How often repeated fields may occur in one message. */
const repeated: FieldBounds['repeated'] = {
  'ListEventsRequest.kinds': 200,
  'StreamTelemetryRequest.names': 200,
  'SetDesiredRequest.pools': 2_000,
  'SubmitRequest.items': 10_000,
  'SubmitRequest.cancel_request_ids': 10_000,
  'WorkerFrame.returned': 100_000,
  'WorkerFrame.chunks': 30_000,
  'WorkerFrame.results': 30_000,
  'WorkerFrame.progress': 30_000,
  'WorkerFrame.replayed': 120_000,
  'Hello.commands': 1_000,
  // More than `request.keep.max_results` allows.
  'Resumed.held': 120_000,
  'Telemetry.series': 2_000,
  'Telemetry.drops': 20,
  'TelemetrySeries.labels': 16_000,
  'TelemetrySeries.buckets': 60_000,
  'TelemetrySpans.spans': 32,
  'TelemetrySpan.labels': 256,
};

/** Fields of all kinds in one message: enough for its repeated fields, and for fields of later versions. */
const fieldsMost: Readonly<Record<string, number>> = {
  ExecuteRequest: 1_000,
  SubmitRequest: 200_000,
  WorkerFrame: 2_000_000,
  Telemetry: 100_000,
  TelemetrySpans: 2_000,
};

/** The same for each message of Control and of health. Their messages have at most 64 KiB. */
const fieldsOfControl = 10_000;

/**
 * The services of proto/, loaded from its files. Messages are plain objects with the proto's field names. Enums are their names,
 * 64-bit integers are numbers (ours stay below 2^53), and absent fields have their defaults.
 */
export const packageDefinition = load(['execution', 'control', 'link'].map((name) => `pitwarden/v1/${name}.proto`));

export const healthDefinition = load(['grpc/health/v1/health.proto']);

/** The messages of Execution and WorkerLink as protobufjs has them. */
const types = typeRoot(['pitwarden/v1/execution.proto', 'pitwarden/v1/link.proto']);

const loaded = loadPackageDefinition(packageDefinition);

export const clients = {
  Execution: client('Execution'),
  Control: client('Control'),
};

export const services: Readonly<Record<'Execution' | 'Control' | 'WorkerLink' | 'Health', ServiceDefinition>> = {
  Execution: lean(client('Execution').service),
  Control: withEncoded(checked(client('Control').service, 'pitwarden/v1/control.proto'), 'Watch'),
  WorkerLink: lean(client('WorkerLink').service),
  Health: checked(healthDefinition['grpc.health.v1.Health'] as ServiceDefinition, 'grpc/health/v1/health.proto'),
};

/** Encodes and decodes messages that are sent outside of calls, or to several calls. */
export const errorMessage = messageCodec('pitwarden.v1.Error');
export const watchResponse = messageCodec('pitwarden.v1.WatchResponse');

/** Read WorkerFrame.telemetry and Telemetry.spans. */
export const decodeTelemetry = boundedDecoder(types.lookupType('pitwarden.v1.Telemetry'));
export const decodeSpans = boundedDecoder(types.lookupType('pitwarden.v1.TelemetrySpans'));

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
 * A service that uses the message objects of protobufjs, without the copy into plain objects that proto-loader makes of each
 * message. For each request that copy cost as much as the coding itself. An absent field's default is inherited. 64-bit integers
 * come as objects; only counts of these services are so wide.
 */
function lean(service: ServiceDefinition): ServiceDefinition {
  return Object.fromEntries(
    Object.entries(service).map(([name, method]) => {
      const { requestType, responseType } = typesOfMethod(types, method.path);
      const codecs = {
        requestSerialize: encoder(requestType),
        requestDeserialize: boundedDecoder(requestType),
        responseSerialize: scratchEncoder(responseType),
        responseDeserialize: decoder(responseType),
      };
      return [name, { ...method, ...codecs }];
    }),
  );
}

function typeRoot(files: string[]): protobuf.Root {
  const root = new protobuf.Root();
  root.resolvePath = (_, target) => join(protoDir, target);
  root.loadSync(files, { keepCase: true });
  root.resolveAll();
  for (const type of typesOf(root)) {
    // By default an absent field of bytes is an empty array.
    const defaults = type.ctor.prototype as Record<string, unknown>;
    for (const field of type.fieldsArray) if (field.type === 'bytes') defaults[field.name] = Buffer.alloc(0);
  }
  return root;
}

function typesOfMethod(root: protobuf.Root, path: string): { requestType: protobuf.Type; responseType: protobuf.Type } {
  const [, service = '', method = ''] = path.split('/');
  const { resolvedRequestType, resolvedResponseType } = root.lookupService(service).methods[method] ?? {};
  if (!resolvedRequestType || !resolvedResponseType) throw new Error(`proto: expected types of ${path}`);
  return { requestType: resolvedRequestType, responseType: resolvedResponseType };
}

/** A service one of whose methods can also answer with messages that are encoded already. */
function withEncoded(service: ServiceDefinition, name: string): ServiceDefinition {
  const method = service[name];
  if (method === undefined) throw new Error(`proto: expected a method ${name}, got none`);
  const responseSerialize = (message: object): Buffer =>
    Buffer.isBuffer(message) ? message : method.responseSerialize(message);
  return { ...service, [name]: { ...method, responseSerialize } };
}

function encoder(type: protobuf.Type): (message: object) => Buffer {
  return (message) => type.encode(message).finish() as Buffer;
}

/** Holds one encoded message until it is copied, which happens before the next one is encoded. A larger one gets its own Buffer. */
const scratch = Buffer.allocUnsafeSlow(2 * 1024 * 1024);

class ScratchWriter extends protobuf.BufferWriter {
  static override alloc(size: number): Buffer {
    return size <= scratch.length ? scratch.subarray(0, size) : Buffer.allocUnsafe(size);
  }
}

/**
 * Encodes a server's answers. grpc-js copies each encoded message behind its own five bytes at once, so one Buffer serves for all
 * of them. That saves one Buffer a message, which matters for large payloads. `test/grpc/proto.test.ts` fails if grpc-js stops
 * copying.
 */
function scratchEncoder(type: protobuf.Type): (message: object) => Buffer {
  return (message) => type.encode(message, new ScratchWriter()).finish() as Buffer;
}

function decoder(type: protobuf.Type): (bytes: Buffer) => object {
  return (bytes) => type.decode(bytes);
}

function boundedDecoder(type: protobuf.Type): (bytes: Buffer) => object {
  const fields = fieldsMost[type.name];
  if (fields === undefined) throw new Error(`proto: expected a bound for the fields of ${type.name}`);
  return checkedDecoder(boundsCheck(type, { repeated, fields }), (bytes) => type.decode(bytes));
}

/** Returns an unreadable message as a value. If the decoder threw, grpc-js would not tell the caller why. */
function checkedDecoder(check: BoundsCheck, decode: (bytes: Buffer) => object): (bytes: Buffer) => object {
  return (bytes) => {
    const problem = check(bytes);
    if (problem !== undefined) return new UnreadableMessage(problem);
    try {
      return decode(bytes);
    } catch {
      return new UnreadableMessage(malformed);
    }
  };
}

/** Requests that must not be decoded become an `UnreadableMessage`, which api.ts refuses. */
function checked(service: ServiceDefinition, file: string): ServiceDefinition {
  const root = typeRoot([file]);
  return Object.fromEntries(
    Object.entries(service).map(([name, method]) => {
      const check = boundsCheck(typesOfMethod(root, method.path).requestType, { repeated, fields: fieldsOfControl });
      return [name, { ...method, requestDeserialize: checkedDecoder(check, method.requestDeserialize) }];
    }),
  );
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
