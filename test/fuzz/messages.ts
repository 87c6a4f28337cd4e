import { join } from 'node:path';
import fc from 'fast-check';
import protobuf from 'protobufjs';
import { root } from '../chaos/agent.ts';

const protos = new protobuf.Root();
protos.resolvePath = (_, target) => join(root, 'proto', target);
protos.loadSync(
  [...['execution', 'control', 'link'].map((name) => `pitwarden/v1/${name}.proto`), 'grpc/health/v1/health.proto'],
  { keepCase: true },
);
protos.resolveAll();

export interface Method {
  readonly path: string;
  readonly request: protobuf.Type;
}

/** Ends the agent, or closes the node to all callers, as it promises: there is nothing to find in that. */
const obeyed = ['Handover', 'DrainNode'];

export function methodsOf(service: string): Method[] {
  return protos
    .lookupService(service)
    .methodsArray.filter(({ name }) => !obeyed.includes(name))
    .map(({ name, resolvedRequestType }) => {
      if (resolvedRequestType === null) throw new Error(`proto: expected a type of ${name}`);
      return { path: `/${service}/${name}`, request: resolvedRequestType };
    });
}

/** Of reflection, whose proto is not ours: `list_services`, `file_containing_symbol`, and an unknown field. */
export const reflection = {
  paths: ['v1', 'v1alpha'].map((version) => `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`),
  requests: ['\x3a\x01*', '\x22\x16pitwarden.v1.Execution', '\x1a\x04a.pr', '\x2a\x06\x0a\x01x\x10\x01', '\x7a\x00'],
};

/** The pools that may be harmed. The probe's is none of them. */
const words: Readonly<Record<string, readonly string[]>> = {
  pool: ['p', 'liar', '', 'nobody', '__proto__'],
  command: ['echo', 'wait', 'count', '', 'nobody', 'constructor'],
  content_type: [
    '',
    'application/json',
    'application/octet-stream',
    'application/vnd.pitwarden.arguments+json',
    'a\nb',
  ],
};
/** Numbers that a healthy agent obeys at a price: a thousand workers are not what is looked for. */
const small: readonly string[] = ['size'];

/** A message of pitwarden.v1, as latin1. */
export function encoded(name: string, fields: object): string {
  const type = protos.lookupType(`pitwarden.v1.${name}`);
  return Buffer.from(type.encode(type.fromObject(fields)).finish()).toString('latin1');
}

/** A message of this type with some of its fields set, encoded, as latin1. */
export function messages(type: protobuf.Type): fc.Arbitrary<string> {
  return objects(type, 3).map((message) => Buffer.from(type.encode(message).finish()).toString('latin1'));
}

function objects(type: protobuf.Type, depth: number): fc.Arbitrary<Record<string, unknown>> {
  const fields = type.fieldsArray.filter((field) => depth > 0 || !(field.resolvedType instanceof protobuf.Type));
  return fc.record(
    Object.fromEntries(
      fields.map((field) => {
        const one = valuesOf(field, depth);
        return [field.name, field.repeated ? fc.array(one, { maxLength: 3 }) : one];
      }),
    ),
    {
      requiredKeys: fields
        .filter(({ name }) => name === 'pool' || name === 'command' || name === 'id')
        .map((f) => f.name),
    },
  );
}

function valuesOf(field: protobuf.Field, depth: number): fc.Arbitrary<unknown> {
  const { resolvedType, type, name } = field;
  if (resolvedType instanceof protobuf.Type) return objects(resolvedType, depth - 1);
  if (resolvedType instanceof protobuf.Enum) return fc.integer({ min: -1, max: 20 });
  if (small.includes(name)) return fc.oneof(fc.integer({ min: 0, max: 2 }), fc.constant(2 ** 32 - 1));
  switch (type) {
    case 'string': {
      const text = fc.oneof(
        fc.string({ maxLength: 20 }),
        fc.constantFrom('\u0000', '\ud800', 'é'.repeat(3_000), '../..'),
      );
      const known = words[name];
      return known === undefined ? text : fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...known) }, text);
    }
    case 'bytes':
      return fc.oneof(fc.uint8Array({ maxLength: 20 }), fc.constant(Buffer.from('[]')), fc.constant(Buffer.from('{}')));
    case 'bool':
      return fc.boolean();
    case 'double':
    case 'float':
      return fc.oneof(fc.double(), fc.constantFrom(...(extremesOf(field) as number[])));
    default:
      // Link ids count from 1, so small numbers are those of requests that there are.
      return fc.oneof(fc.integer({ min: 0, max: 12 }), fc.constantFrom(2 ** 31, 2 ** 32 - 1, -1, 2 ** 53));
  }
}

/** Values of a scalar at and beyond its ends. */
function extremesOf({ type, resolvedType }: protobuf.Field): readonly unknown[] {
  if (resolvedType instanceof protobuf.Enum) return [-1, 0, 1_000];
  switch (type) {
    case 'string':
      return ['', '\u0000', '__proto__', 'é'.repeat(3_000)];
    case 'bytes':
      return [Buffer.alloc(0), Buffer.alloc(5_000, 0xff)];
    case 'bool':
      return [false, true];
    case 'double':
    case 'float':
      return [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -1, 5e-324, 1e308];
    default:
      return [0, 1, 2 ** 31, 2 ** 32 - 1, -1, 2 ** 53];
  }
}

/**
 * For each scalar of a message, and of the messages in it, and for each of its extremes: the message that has nothing else. Messages with
 * the fields in `last` come last, in that order.
 */
export function extremes(type: protobuf.Type, last: readonly string[]): string[] {
  const rank = (message: object): number => last.findIndex((name) => name in message);
  return extremeObjects(type, 3)
    .sort((a, b) => rank(a) - rank(b))
    .map((message) => Buffer.from(type.encode(message).finish()).toString('latin1'));
}

function extremeObjects(type: protobuf.Type, depth: number): Record<string, unknown>[] {
  // What has an id is about a request: most likely there is one with the first id.
  const about = type.fields['id'] === undefined ? {} : { id: 1 };
  return type.fieldsArray.flatMap((field) => {
    const { resolvedType, name, repeated } = field;
    const isMessage = resolvedType instanceof protobuf.Type;
    if (isMessage && depth === 0) return [];
    const values = isMessage ? [{}, ...extremeObjects(resolvedType, depth - 1)] : extremesOf(field);
    return values.map((value) => ({ ...about, [name]: repeated ? [value] : value }));
  });
}

/** Items of one repeated field: the bytes before them, one of them, and how often it stands there. */
export interface ManyItems {
  readonly field: string;
  readonly head: string;
  readonly item: string;
  readonly times: number;
}

/** For each repeated field of a message, and of the messages in it, the message that has as many empty items as that. */
export function manyItems(type: protobuf.Type, times: number, depth = 3): ManyItems[] {
  return type.fieldsArray.flatMap((field): ManyItems[] => {
    const isMessage = field.resolvedType instanceof protobuf.Type;
    const tag = varint((field.id << 3) | 2);
    const found: ManyItems[] = [];
    if (field.repeated && (isMessage || field.type === 'string' || field.type === 'bytes')) {
      found.push({ field: `${type.name}.${field.name}`, head: '', item: `${tag}\0`, times });
    } else if (field.repeated) {
      // Packed numbers: each is one byte.
      found.push({ field: `${type.name}.${field.name}`, head: tag + varint(2 * times), item: '\0\0', times });
    }
    if (!(field.resolvedType instanceof protobuf.Type) || depth === 0) return found;
    for (const inner of manyItems(field.resolvedType, times, depth - 1)) {
      const bytes = inner.head.length + inner.item.length * times;
      found.push({ ...inner, head: tag + varint(bytes) + inner.head });
    }
    return found;
  });
}

function varint(value: number): string {
  const writer = new protobuf.Writer();
  return Buffer.from(writer.uint32(value).finish()).toString('latin1');
}

/** Empty items of repeated fields 1 to 6, nesting without an end, over-long numbers, groups, lengths that lie. */
export const wirePieces: readonly string[] = [
  ...['\x0a\x00', '\x12\x00', '\x1a\x00', '\x22\x00', '\x2a\x00', '\x32\x00', '\x08\x01', '\x18\x01', '\x42\x00'],
  ...[
    '\x0b',
    '\x0c',
    '\x0a\x7f',
    '\x0a\xff\xff\xff\xff\x0f',
    '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01',
    '\x0a\x02\x0a\x00',
  ],
];
