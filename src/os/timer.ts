/** Node's longest timer: one that is set for longer fires after a millisecond. */
export const longestTimerMs = 2 ** 31 - 1;

/**
 * Calls `work` once the time has come, and for waits of more than 24 days every 24 days until then: `work` has to look what is
 * due, and set the next wake-up. Rounded up, since a timer that fires a fraction early would find nothing due.
 */
export function setWakeUp(work: () => void, delayMs: number): NodeJS.Timeout {
  return setTimeout(work, Math.min(longestTimerMs, Math.max(0, Math.ceil(delayMs))));
}
