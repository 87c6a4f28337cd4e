/** Reads google.rpc.Status by hand, from the numbers in google/rpc/status.proto and error_details.proto, and not by our own definitions. */

interface Field {
  readonly number: number;
  readonly value: number;
  readonly bytes: Buffer;
}

export interface DecodedStatus {
  readonly code: number;
  readonly message: string;
  /** By the last part of the type's name. */
  readonly details: Readonly<Record<string, unknown>>;
}

export function statusOf(bytes: Buffer): DecodedStatus {
  const fields = fieldsOf(bytes);
  const details = fields.filter(({ number }) => number === 3).map((field) => detailOf(field.bytes));
  return {
    code: fields.find(({ number }) => number === 1)?.value ?? 0,
    message: text(fields, 2),
    details: Object.fromEntries(details),
  };
}

function detailOf(bytes: Buffer): [string, unknown] {
  const fields = fieldsOf(bytes);
  const type = text(fields, 1);
  const parts = fieldsOf(fields.find(({ number }) => number === 2)?.bytes ?? Buffer.alloc(0));
  switch (type) {
    case 'type.googleapis.com/google.rpc.ErrorInfo': {
      const entries = parts.filter(({ number }) => number === 3).map((entry) => fieldsOf(entry.bytes));
      const metadata = Object.fromEntries(entries.map((entry) => [text(entry, 1), text(entry, 2)]));
      return ['ErrorInfo', { reason: text(parts, 1), domain: text(parts, 2), metadata }];
    }
    case 'type.googleapis.com/google.rpc.RetryInfo': {
      const delay = fieldsOf(parts[0]?.bytes ?? Buffer.alloc(0));
      const of = (wanted: number) => delay.find(({ number }) => number === wanted)?.value ?? 0;
      return ['RetryInfo', { seconds: of(1), nanos: of(2) }];
    }
    case 'type.googleapis.com/google.rpc.BadRequest':
      return [
        'BadRequest',
        parts.map((part) => ({ field: text(fieldsOf(part.bytes), 1), description: text(fieldsOf(part.bytes), 2) })),
      ];
    default:
      throw new Error(`expected a detail that is known, got ${type}`);
  }
}

/** The fields of a message that has only numbers, texts, bytes and messages. */
export function fieldsOf(bytes: Buffer): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): number => {
    let [value, factor] = [0, 1];
    for (;;) {
      const byte = bytes.readUInt8(at);
      at += 1;
      value += (byte & 0x7f) * factor;
      factor *= 128;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const value = varint();
    if (key % 8 !== 0 && key % 8 !== 2) throw new Error(`expected wire type 0 or 2, got ${key % 8}`);
    const length = key % 8 === 2 ? value : 0;
    fields.push({ number: Math.floor(key / 8), value, bytes: bytes.subarray(at, at + length) });
    at += length;
  }
  return fields;
}

function text(fields: readonly Field[], wanted: number): string {
  return fields.find(({ number }) => number === wanted)?.bytes.toString() ?? '';
}
