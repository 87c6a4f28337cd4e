/**
 * For properties with many runs, as parameters of fast-check. On a machine under load they try fewer cases, and stop shrinking a
 * failure, before vitest's own time is over: that one would end the test without its counterexample.
 */
export const timeLimit = { interruptAfterTimeLimit: 15_000 } as const;
