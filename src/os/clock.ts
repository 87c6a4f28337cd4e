/** The agent's clock: monotonic time for decisions, unix time for display. */
export interface Clock {
  /**
   * Milliseconds of the system's monotonic clock, which starts at boot, so all agents of one boot share it. Never goes
   * back, and is never 0.
   */
  nowMs(): number;
  /** Converts a monotonic time to unix time. The result stays the same until the wall clock is set. */
  toUnixMs(monotonicMs: number): number;
}

/**
 * How far the wall clock may be from its expected value before it counts as set. The wall clock has whole milliseconds;
 * both clocks are slewed alike, so they do not drift apart.
 */
const toleranceMs = 5;

/** `wallNowMs` reads the wall clock, as `Date.now` does. */
export function createClock(nowMs: () => number, wallNowMs: () => number): Clock {
  // A delay between the two readings can only make the offset smaller, so the largest is the most accurate.
  const readOffset = (): number => Math.max(...Array.from({ length: 3 }, () => wallNowMs() - nowMs()));
  let offsetMs = readOffset();
  return {
    nowMs,
    toUnixMs: (monotonicMs) => {
      // The same holds here: the wall clock was set if it fits neither of the monotonic readings around it.
      const beforeMs = nowMs();
      const wallMs = wallNowMs();
      const afterMs = nowMs();
      const isSet = wallMs > afterMs + offsetMs + toleranceMs || wallMs < beforeMs + offsetMs - toleranceMs;
      if (isSet) offsetMs = readOffset();
      return offsetMs + monotonicMs;
    },
  };
}

/** `performance.now` is the same clock counted from the start of this process, and is faster to read. */
const startedAtMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

export const systemClock: Clock = createClock(() => startedAtMs + performance.now(), Date.now);
