import protobuf from 'protobufjs';

/**
 * Counts the fields of a message before protobufjs decodes it. Decoding makes an object of every two bytes of empty items, so
 * 64 MiB of them would take seconds and gigabytes. Counting takes nanoseconds each and no memory.
 */

export interface FieldBounds {
  /** How often each repeated field may occur in one message, by `Message.field`. A missing bound is an error. */
  readonly repeated: Readonly<Record<string, number>>;
  /** Fields of all kinds in one message, including unknown fields and those of nested messages. */
  readonly fields: number;
}

/** Returns what is wrong with the bytes; undefined: they may be decoded. */
export type BoundsCheck = (bytes: Uint8Array) => string | undefined;

export function boundsCheck(type: protobuf.Type, bounds: FieldBounds): BoundsCheck {
  const counters: Counter[] = [];
  const plan = planOf(type, bounds, counters, new Map());
  return (bytes) => {
    for (const counter of counters) counter.count = 0;
    return new Scan(bytes, bounds.fields).look(plan);
  };
}

interface Counter {
  readonly name: string;
  readonly most: number;
  count: number;
}

interface FieldPlan {
  readonly name: string;
  /** Wire type of one value: 0 varint, 1 eight bytes, 2 with a length, 5 four bytes. */
  readonly wireType: number;
  readonly message: MessagePlan | null;
  readonly counter: Counter | null;
  /** One occurrence with a length may hold many values. */
  readonly packable: boolean;
}

/** By field number. */
type MessagePlan = (FieldPlan | undefined)[];

function planOf(
  type: protobuf.Type,
  bounds: FieldBounds,
  counters: Counter[],
  known: Map<protobuf.Type, MessagePlan>,
): MessagePlan {
  const before = known.get(type);
  if (before !== undefined) return before;
  const plan: MessagePlan = [];
  known.set(type, plan);
  for (const field of type.fieldsArray) {
    const { id, name, resolvedType } = field.resolve();
    const message = resolvedType instanceof protobuf.Type ? planOf(resolvedType, bounds, counters, known) : null;
    const basic: Readonly<Record<string, number>> = protobuf.types.basic;
    const wireType = message === null ? basic[resolvedType instanceof protobuf.Enum ? 'int32' : field.type] : 2;
    if (wireType === undefined || field.map) throw new Error(`proto: no bounds for fields such as ${field.fullName}`);
    const packable = field.repeated && message === null && wireType !== 2;
    plan[id] = { name, wireType, message, counter: field.repeated ? counterOf(type, name, bounds) : null, packable };
    const { counter } = plan[id];
    if (counter !== null) counters.push(counter);
  }
  return plan;
}

function counterOf(type: protobuf.Type, field: string, bounds: FieldBounds): Counter {
  const most = bounds.repeated[`${type.name}.${field}`];
  if (most === undefined) throw new Error(`proto: expected a bound for the repeated field ${type.name}.${field}`);
  return { name: field, most, count: 0 };
}

/** Also the problem of a message that passed the check and that protobufjs cannot decode. */
export const malformed = 'expected a well-formed message, got one that is not';

/**
 * One pass over the bytes. It is stricter than protobufjs about field types, lengths that leave their message, and groups, which
 * proto3 does not have. Otherwise protobufjs could decode fields in bytes that are skipped here.
 */
class Scan {
  readonly #bytes: Uint8Array;
  readonly #mostFields: number;
  #at = 0;
  #fields = 0;

  constructor(bytes: Uint8Array, mostFields: number) {
    this.#bytes = bytes;
    this.#mostFields = mostFields;
  }

  look(plan: MessagePlan): string | undefined {
    return this.#message(plan, this.#bytes.length);
  }

  #message(plan: MessagePlan, end: number): string | undefined {
    while (this.#at < end) {
      this.#fields += 1;
      if (this.#fields > this.#mostFields)
        return `expected at most ${this.#mostFields} fields in one message, got more`;
      const tag = this.#varint(end);
      if (tag < 0) return malformed;
      const wrong = this.#field(plan[tag >>> 3], tag & 7, end);
      if (wrong !== undefined) return wrong;
    }
    return undefined;
  }

  #field(field: FieldPlan | undefined, wireType: number, end: number): string | undefined {
    const { counter = null } = field ?? {};
    const packed = field?.packable === true && wireType === 2;
    if (field !== undefined && wireType !== field.wireType && !packed) return malformed;
    if (counter !== null && !packed) {
      counter.count += 1;
      if (counter.count > counter.most) return tooMany(counter);
    }
    if (wireType === 0) return this.#varint(end) < 0 ? malformed : undefined;
    const length = wireType === 2 ? this.#varint(end) : wireType === 1 ? 8 : wireType === 5 ? 4 : -1;
    const fieldEnd = this.#at + length;
    if (length < 0 || fieldEnd > end) return malformed;
    if (field?.message != null) return this.#message(field.message, fieldEnd);
    if (packed && counter !== null) counter.count += this.#valuesBefore(fieldEnd, field?.wireType ?? 0);
    this.#at = fieldEnd;
    return counter !== null && counter.count > counter.most ? tooMany(counter) : undefined;
  }

  #valuesBefore(end: number, wireType: number): number {
    if (wireType !== 0) return (end - this.#at) / (wireType === 1 ? 8 : 4);
    let values = 0;
    for (let at = this.#at; at < end; at += 1) if ((this.#bytes[at] ?? 0) < 0x80) values += 1;
    return values;
  }

  /** The low 32 bits of a varint; -1: the varint is longer than ten bytes, or leaves its message. */
  #varint(end: number): number {
    const bytes = this.#bytes;
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.#at >= end) return -1;
      const byte = bytes[this.#at] ?? 0;
      this.#at += 1;
      if (shift < 32) value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
    return -1;
  }
}

function tooMany({ name, most }: Counter): string {
  return `${name}: expected at most ${most} in one message, got more`;
}
