/** Future events, ordered by virtual time. Events of the same time happen in the order in which they were added. */
export interface Timeline {
  /** Infinite: nothing. */
  nextAtMs(): number;
  /** Infinite: it never happens. */
  at(atMs: number, work: () => void): void;
  take(): (() => void) | undefined;
}

interface Entry {
  readonly atMs: number;
  readonly order: number;
  readonly work: () => void;
}

/** A binary heap: thousands of things are under way at a time. */
export function createTimeline(): Timeline {
  const heap: Entry[] = [];
  let order = 0;
  const isBefore = (a: number, b: number): boolean => {
    const [one, other] = [heap[a], heap[b]];
    if (one === undefined || other === undefined) return one !== undefined;
    return one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order);
  };
  const swap = (a: number, b: number): void => {
    const [one, other] = [heap[a], heap[b]];
    if (one === undefined || other === undefined) return;
    heap[a] = other;
    heap[b] = one;
  };
  return {
    nextAtMs: () => heap[0]?.atMs ?? Number.POSITIVE_INFINITY,
    at: (atMs, work) => {
      if (atMs === Number.POSITIVE_INFINITY) return;
      heap.push({ atMs, order, work });
      order += 1;
      for (let at = heap.length - 1; at > 0; ) {
        const parent = (at - 1) >> 1;
        if (!isBefore(at, parent)) break;
        swap(at, parent);
        at = parent;
      }
    },
    take: () => {
      const [first] = heap;
      const last = heap.pop();
      if (first === undefined || last === undefined) return undefined;
      if (heap.length > 0) heap[0] = last;
      for (let at = 0; ; ) {
        const [left, right] = [2 * at + 1, 2 * at + 2];
        const child = right < heap.length && isBefore(right, left) ? right : left;
        if (child >= heap.length || !isBefore(child, at)) break;
        swap(at, child);
        at = child;
      }
      return first.work;
    },
  };
}
