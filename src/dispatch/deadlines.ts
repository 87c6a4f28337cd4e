import type { Request } from './request.ts';

/** How coarse deadlines are: one timer serves all requests that end within the same tick. */
const tickMs = 20;

/** Deadlines of all requests: O(1) to add and to take away, and no timer for each. */
export interface Deadlines {
  /** In at most one place at a time. */
  add(request: Request, atMs: number): void;
  remove(request: Request): void;
  /** Takes out what is due at `nowMs`. */
  take(nowMs: number): Request[];
  /** When to call `take` next; infinite: never. */
  nextAtMs(): number;
}

export function createDeadlines(): Deadlines {
  // The first request of each tick's list.
  const ticks = new Map<number, Request>();
  let earliest = Number.POSITIVE_INFINITY;
  return {
    add: (request, atMs) => {
      const tick = Math.ceil(atMs / tickMs);
      const head = ticks.get(tick) ?? null;
      request.deadlineTick = tick;
      request.nextDue = head;
      if (head !== null) head.previousDue = request;
      ticks.set(tick, request);
      if (tick < earliest) earliest = tick;
    },
    remove: (request) => {
      if (request.deadlineTick < 0) return;
      if (request.previousDue !== null) request.previousDue.nextDue = request.nextDue;
      else if (request.nextDue !== null) ticks.set(request.deadlineTick, request.nextDue);
      else ticks.delete(request.deadlineTick);
      if (request.nextDue !== null) request.nextDue.previousDue = request.previousDue;
      request.nextDue = null;
      request.previousDue = null;
      request.deadlineTick = -1;
    },
    take: (nowMs) => {
      const due: Request[] = [];
      if (earliest * tickMs > nowMs) return due;
      earliest = Number.POSITIVE_INFINITY;
      for (const [tick, head] of ticks) {
        if (tick * tickMs > nowMs) {
          earliest = Math.min(earliest, tick);
          continue;
        }
        ticks.delete(tick);
        for (let request: Request | null = head; request !== null; ) {
          const next: Request | null = request.nextDue;
          request.nextDue = null;
          request.previousDue = null;
          request.deadlineTick = -1;
          due.push(request);
          request = next;
        }
      }
      return due;
    },
    nextAtMs: () => earliest * tickMs,
  };
}
