/** Reads ASN.1 in its DER encoding (X.690), as certificates and revocation lists are written. */

export interface Element {
  /** The first byte: class, constructed or not, and number. No larger numbers occur in certificates. */
  readonly tag: number;
  readonly content: Buffer;
  /** With tag and length. */
  readonly whole: Buffer;
}

export const tags = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  objectId: 0x06,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
} as const;

/** A field that is marked with a number of its own, as `[0] EXPLICIT` in ASN.1. */
export function contextTag(number: number): number {
  return 0xa0 + number;
}

export class DerError extends Error {}

/** The one element that the bytes are. */
export function element(bytes: Buffer): Element {
  const found = elementAt(bytes, 0);
  if (found.whole.length !== bytes.length) throw new DerError('expected one element, got more');
  return found;
}

/** The elements within a constructed one, one after the other. */
export function* elementsOf({ content }: Element): Generator<Element> {
  for (let at = 0; at < content.length; ) {
    const next = elementAt(content, at);
    yield next;
    at += next.whole.length;
  }
}

/** The same as a list, for elements that have only a few. */
export function fieldsOf(parent: Element | undefined, tag: number = tags.sequence): Element[] {
  return [...elementsOf(expectTag(parent, tag))];
}

export function expectTag(found: Element | undefined, tag: number): Element {
  if (found?.tag !== tag) throw new DerError(`expected an element with tag ${tag}, got ${found?.tag ?? 'none'}`);
  return found;
}

/** The dotted form, such as 2.5.29.20. */
export function objectId(found: Element | undefined): string {
  const { content } = expectTag(found, tags.objectId);
  const parts: number[] = [];
  let part = 0;
  for (const byte of content) {
    part = part * 128 + (byte & 0x7f);
    if (part > Number.MAX_SAFE_INTEGER / 128) throw new DerError('expected a short object id');
    if (byte < 0x80) {
      parts.push(part);
      part = 0;
    }
  }
  const [first = 0, ...more] = parts;
  const root = Math.min(Math.floor(first / 40), 2);
  return [root, first - root * 40, ...more].join('.');
}

/** Hexadecimal digits in upper case without leading zeros, for serial numbers: compare with `serialOf`. */
export function integerDigits(found: Element | undefined): string {
  return withoutZeros(expectTag(found, tags.integer).content.toString('hex'));
}

export function withoutZeros(digits: string): string {
  return digits.replace(/^0+(?=.)/, '').toUpperCase();
}

/** Unix milliseconds. */
export function timeMs(found: Element | undefined): number {
  const text = found?.content.toString('latin1') ?? '';
  const isShort = found?.tag === tags.utcTime;
  const [, year = '', ...rest] =
    (isShort ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/).exec(text) ?? [];
  if (year === '' || (!isShort && found?.tag !== tags.generalizedTime)) throw new DerError('expected a time');
  const [month = '', day = '', ...clock] = rest;
  // RFC 5280: two digits mean 1950 to 2049.
  const century = isShort ? (Number(year) < 50 ? '20' : '19') : '';
  const ms = Date.parse(`${century}${year}-${month}-${day}T${clock.join(':')}Z`);
  if (!Number.isFinite(ms)) throw new DerError('expected a time');
  return ms;
}

function elementAt(bytes: Buffer, at: number): Element {
  const tag = bytes[at];
  const first = bytes[at + 1];
  if (tag === undefined || first === undefined || (tag & 0x1f) === 0x1f) throw new DerError('expected an element');
  const lengthBytes = first < 0x80 ? 0 : first & 0x7f;
  const begin = at + 2 + lengthBytes;
  if (first === 0x80 || lengthBytes > 4 || begin > bytes.length) throw new DerError('expected a length');
  const length = lengthBytes === 0 ? first : bytes.readUIntBE(at + 2, lengthBytes);
  if (begin + length > bytes.length) throw new DerError('expected a whole element');
  return { tag, content: bytes.subarray(begin, begin + length), whole: bytes.subarray(at, begin + length) };
}
