/** The agent's time: monotonic for decisions, unix for people. */
export interface Clock {
  /**
   * Milliseconds of the system's monotonic clock, which began when the host did: the same for every agent of one boot. Never
   * goes back, and never is 0.
   */
  nowMs(): number;
  /** The unix time of a monotonic one, by what the wall clock says now. */
  toUnixMs(monotonicMs: number): number;
}

/** `performance.now` is that clock less the start of this process, and quicker to read. */
const startedAtMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

export const systemClock: Clock = {
  nowMs: () => startedAtMs + performance.now(),
  toUnixMs: (monotonicMs) => Date.now() - systemClock.nowMs() + monotonicMs,
};
