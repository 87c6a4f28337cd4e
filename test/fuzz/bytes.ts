import fc from 'fast-check';

/** Bytes as a short description, so that a failure can be read and shrinks: valid ones, and what is done to them in order. */
export interface Bytes {
  /** As latin1. */
  readonly valid: string;
  readonly edits: readonly Edit[];
}

/** Places are shares of the length that the bytes have by then. */
export type Edit =
  | { readonly do: 'cut'; readonly at: number }
  | { readonly do: 'flip'; readonly at: number; readonly mask: number }
  | { readonly do: 'insert'; readonly at: number; readonly text: string; readonly times: number }
  | { readonly do: 'copy'; readonly from: number; readonly to: number; readonly at: number };

/** More than this is cut off: it would only measure how fast the fuzzer makes bytes. */
const mostBytes = 48 * 1024 * 1024;

export function editedBytes({ valid, edits }: Bytes): Buffer {
  return edits.reduce<Buffer>((bytes, edit) => apply(bytes, edit).subarray(0, mostBytes), Buffer.from(valid, 'latin1'));
}

function apply(bytes: Buffer, edit: Edit): Buffer {
  const place = (share: number): number => Math.floor(share * bytes.length);
  const at = place(edit.at);
  switch (edit.do) {
    case 'cut':
      return bytes.subarray(0, at);
    case 'flip': {
      const copy = Buffer.from(bytes);
      if (at < copy.length) copy[at] = (copy[at] ?? 0) ^ edit.mask;
      return copy;
    }
    case 'insert': {
      const text = Buffer.from(edit.text, 'latin1');
      const times = Math.min(edit.times, Math.floor(mostBytes / Math.max(1, text.length)));
      return Buffer.concat([bytes.subarray(0, at), Buffer.alloc(text.length * times, text), bytes.subarray(at)]);
    }
    case 'copy':
      return Buffer.concat([
        bytes.subarray(0, at),
        bytes.subarray(place(edit.from), place(edit.to)),
        bytes.subarray(at),
      ]);
  }
}

/** Often an end: what is put in there leaves the rest well-formed. */
const share = fc.oneof(
  fc.constantFrom(0, 1),
  fc.integer({ min: 0, max: 1000 }).map((thousandths) => thousandths / 1000),
);

/** Now and then so many that a bound must hold; else so few that many cases fit into a second. */
const times = fc.oneof(
  { weight: 12, arbitrary: fc.integer({ min: 1, max: 300 }) },
  { weight: 2, arbitrary: fc.integer({ min: 1_000, max: 200_000 }) },
  { weight: 1, arbitrary: fc.integer({ min: 1_000_000, max: 20_000_000 }) },
);

/** `pieces`: what hurts in this format when it is put in, best many times. */
export function mutated(valid: fc.Arbitrary<string>, pieces: readonly string[]): fc.Arbitrary<Bytes> {
  const noise = fc.uint8Array({ minLength: 1, maxLength: 12 }).map((bytes) => Buffer.from(bytes).toString('latin1'));
  const text = fc.oneof(noise, fc.constantFrom(...pieces));
  const edit: fc.Arbitrary<Edit> = fc.oneof(
    fc.record({ do: fc.constant('flip' as const), at: share, mask: fc.integer({ min: 1, max: 255 }) }),
    fc.record({ do: fc.constant('insert' as const), at: share, text, times }),
    fc.record({ do: fc.constant('cut' as const), at: share }),
    fc.record({ do: fc.constant('copy' as const), from: share, to: share, at: share }),
  );
  return fc.record({ valid, edits: fc.array(edit, { maxLength: 3 }) });
}
