import { ewma } from './ewma.ts';

/** How fast a pool serves while requests wait: the time from one answer to the next, averaged. */
export interface ServiceRate {
  /** An answer came while `waiting` requests wait for a worker. */
  answered(nowMs: number, waiting: number): void;
  /** How long this many requests in a row are expected to take; 0: unknown. */
  expectedMs(requests: number): number;
}

/** How many answers the average needs before it is used. */
const answersLeast = 20;
/** Weight of the newest answer: about the last twenty answers count. */
const weight = 0.05;

export function createServiceRate(): ServiceRate {
  let answers = 0;
  let betweenMs = 0;
  let lastAtMs = Number.NaN;
  return {
    answered: (nowMs, waiting) => {
      if (!Number.isNaN(lastAtMs)) {
        const sinceMs = nowMs - lastAtMs;
        betweenMs = answers === 0 ? sinceMs : ewma(betweenMs, sinceMs, weight);
        answers += 1;
      }
      // While nothing waits, the time to the next answer depends on the callers and not on the pool.
      lastAtMs = waiting > 0 ? nowMs : Number.NaN;
    },
    expectedMs: (requests) => (answers < answersLeast ? 0 : betweenMs * requests),
  };
}
