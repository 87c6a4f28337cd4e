import type { Element } from './der.ts';
import { elementsOf, fieldsOf, objectId } from './der.ts';

/** The encodings of text in a name. Each has its own tag. */
const decoders: Readonly<Record<number, (bytes: Buffer) => string>> = {
  12: (bytes) => bytes.toString('utf8'),
  19: (bytes) => bytes.toString('latin1'),
  20: (bytes) => bytes.toString('latin1'),
  22: (bytes) => bytes.toString('latin1'),
  30: (bytes) => Buffer.from(bytes).swap16().toString('utf16le'),
};

/**
 * A text that is equal for names that RFC 5280 (7.1) considers equal: the encoding, upper case and repeated spaces do not matter. A CA
 * may write its name in one way into its certificate and in another into its lists.
 */
export function comparableName(name: Element): string {
  const parts = [...elementsOf(name)].map((set) =>
    [...elementsOf(set)].map((attribute) => {
      const [type, value] = fieldsOf(attribute);
      const decode = decoders[value?.tag ?? 0];
      if (value === undefined || decode === undefined || (value.tag === 30 && value.content.length % 2 === 1))
        return [objectId(type), value?.whole.toString('hex')];
      return [objectId(type), decode(value.content).trim().replace(/\s+/g, ' ').toLowerCase()];
    }),
  );
  return JSON.stringify(parts);
}
