/** The agent's time: monotonic for decisions, unix for people. */
export interface Clock {
  /** Milliseconds; never goes back, and never is 0. */
  nowMs(): number;
  /** The unix time of a monotonic one, by what the wall clock says now. */
  toUnixMs(monotonicMs: number): number;
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  toUnixMs: (monotonicMs) => Date.now() - performance.now() + monotonicMs,
};
