import { boundTexts, bytesAtMost } from './view-bounds.ts';

/** Lists are answered in pages that every gRPC client can read: 4 MiB is the most that one takes unless told otherwise. */

/** The entries of one answer, which has other fields too. */
const pageBytes = 3 * 1024 * 1024;

/** Where an entry stands in its list. */
export type Key = readonly (string | number)[];

export interface PageRequest {
  /** Entries at most; 0: as many as fit. */
  readonly size: number;
  /** Empty: from the start. */
  readonly token: string;
}

export interface Page {
  readonly views: readonly object[];
  /** Empty: it was the last page. */
  readonly nextToken: string;
}

export interface Listed<T> {
  readonly items: Iterable<T>;
  /** Of the same shape for each; the list is in the order of the keys. */
  keyOf(item: T): Key;
  view(item: T): object;
}

/** Null: no answer gave such a token. */
export function pageOf<T>({ items, keyOf, view }: Listed<T>, { size, token }: PageRequest): Page | null {
  const keyed = withKeys({ items, keyOf });
  const after = token === '' ? null : decode(token, keyed[0]?.key);
  if (after === undefined) return null;
  const left = after === null ? keyed : keyed.filter(({ key }) => compare(key, after) > 0);
  const most = size > 0 ? size : left.length;
  const { views, rest } = takeFitting(left.slice(0, most), ({ item }) => view(item));
  const last = left[views.length - 1];
  const isLast = rest.length === 0 && left.length <= most;
  return { views, nextToken: isLast || last === undefined ? '' : encode(last.key) };
}

/** All items in the order of their list. */
export function sorted<T>(listed: Pick<Listed<T>, 'items' | 'keyOf'>): T[] {
  return withKeys(listed).map(({ item }) => item);
}

function withKeys<T>({ items, keyOf }: Pick<Listed<T>, 'items' | 'keyOf'>): { item: T; key: Key }[] {
  return Array.from(items, (item) => ({ item, key: keyOf(item) })).sort((a, b) => compare(a.key, b.key));
}

/** The views of as many of the first items as one message may hold, at least one; and the items that are left. */
export function takeFitting<T>(
  items: readonly T[],
  view: (item: T) => object,
  roomBytes: number = pageBytes,
): { readonly views: readonly object[]; readonly rest: readonly T[] } {
  const views: object[] = [];
  let bytes = 0;
  for (const item of items) {
    const next = boundTexts(view(item));
    const more = bytesAtMost(next);
    if (views.length > 0 && bytes + more > roomBytes) break;
    bytes += more;
    views.push(next);
  }
  return { views, rest: items.slice(views.length) };
}

function compare(a: Key, b: Key): number {
  for (let index = 0; index < a.length; index += 1) {
    const [left = 0, right = 0] = [a[index], b[index]];
    if (left !== right) return left < right ? -1 : 1;
  }
  return 0;
}

function encode(key: Key): string {
  return Buffer.from(JSON.stringify(key)).toString('base64url');
}

/** Undefined: it is no key of the shape of `like`; where the list has become empty, any will do. */
function decode(token: string, like: Key | undefined): Key | undefined {
  try {
    const key: unknown = JSON.parse(Buffer.from(token, 'base64url').toString());
    if (!Array.isArray(key)) return undefined;
    if (like === undefined) return [];
    return key.length === like.length && like.every((part, index) => typeof part === typeof key[index])
      ? key
      : undefined;
  } catch {
    return undefined;
  }
}
