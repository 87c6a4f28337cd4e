/** Node's longest timer, 24.8 days. A longer one would fire after a millisecond. */
export const longestTimerMs = 2 ** 31 - 1;

/**
 * Calls `work` after `delayMs`, or after 24 days if that is sooner: `work` must check what is due and set the next
 * wake-up. Rounded up, since a timer that fires a fraction early would find nothing due.
 */
export function setWakeUp(work: () => void, delayMs: number): NodeJS.Timeout {
  return setTimeout(work, Math.min(longestTimerMs, Math.max(0, Math.ceil(delayMs))));
}
