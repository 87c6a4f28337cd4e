import type { Request } from './request.ts';

/** Deadlines are rounded up to this, so that requests with about the same deadline share one list. */
const tickMs = 20;

/**
 * When each request is due next: its deadline, the end of its caller's grace, or `kill_after` once it was given up (expiry.ts tells
 * which). `add` and `remove` are O(1), and no request has a timer of its own.
 */
export interface Deadlines {
  /** A request is in at most one place at a time. */
  add(request: Request, atMs: number): void;
  remove(request: Request): void;
  /** Removes and returns the requests that are due at `nowMs`. */
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
