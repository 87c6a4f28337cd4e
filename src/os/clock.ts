/** The agent's time: monotonic for decisions, unix for people. */
export interface Clock {
  /**
   * Milliseconds of the system's monotonic clock, which began when the host did: the same for every agent of one boot. Never
   * goes back, and never is 0.
   */
  nowMs(): number;
  /** The unix time of a monotonic one. The same at each call, until the wall clock is set. */
  toUnixMs(monotonicMs: number): number;
}

/**
 * How far the wall clock may differ from what is expected before it counts as set. It shows whole milliseconds; both clocks
 * are slewed alike, so that they do not drift apart.
 */
const toleranceMs = 5;

/** `wallNowMs`: the wall clock, as `Date.now` reads it. */
export function createClock(nowMs: () => number, wallNowMs: () => number): Clock {
  // Being held up between two readings can only make it less.
  const readOffset = (): number => Math.max(...Array.from({ length: 3 }, () => wallNowMs() - nowMs()));
  let offsetMs = readOffset();
  return {
    nowMs,
    toUnixMs: (monotonicMs) => {
      // The same here: a wall clock that fits neither reading beside it was set.
      const beforeMs = nowMs();
      const wallMs = wallNowMs();
      const afterMs = nowMs();
      const isSet = wallMs > afterMs + offsetMs + toleranceMs || wallMs < beforeMs + offsetMs - toleranceMs;
      if (isSet) offsetMs = readOffset();
      return offsetMs + monotonicMs;
    },
  };
}

/** `performance.now` is that clock less the start of this process, and quicker to read. */
const startedAtMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

export const systemClock: Clock = createClock(() => startedAtMs + performance.now(), Date.now);
