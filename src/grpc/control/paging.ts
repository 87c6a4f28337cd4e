import { boundTexts, bytesAtMost } from './view-bounds.ts';

/** Cuts lists into pages that every gRPC client can read: by default a client accepts 4 MiB. */

/** Bytes of the entries of one answer, which leaves room for its other fields. */
export const pageBytes = 3 * 1024 * 1024;

/** The position of an entry in its list. */
export type Key = readonly (string | number)[];

export interface PageRequest {
  /** The most entries of the page; 0: as many as fit. */
  readonly size: number;
  /** Empty: from the start. */
  readonly token: string;
}

export interface Page {
  readonly views: readonly object[];
  /** Empty: this is the last page. */
  readonly nextToken: string;
}

export interface Listed<T> {
  readonly items: Iterable<T>;
  /** The list is in the order of these keys. All have the same shape. */
  keyOf(item: T): Key;
  view(item: T): object;
}

/** Null: the token is not from an answer of this list. */
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

/** All items in the order of their keys. */
export function sorted<T>(listed: Pick<Listed<T>, 'items' | 'keyOf'>): T[] {
  return withKeys(listed).map(({ item }) => item);
}

function withKeys<T>({ items, keyOf }: Pick<Listed<T>, 'items' | 'keyOf'>): { item: T; key: Key }[] {
  return Array.from(items, (item) => ({ item, key: keyOf(item) })).sort((a, b) => compare(a.key, b.key));
}

/** Returns the views of as many items as one message may hold, at least one, and the items that are left. */
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

/** Undefined: the token is no key of the shape of `like`. Without `like`, because the list is empty now, any key will do. */
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
