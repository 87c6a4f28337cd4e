/**
 * Runs at most `most` tasks at once; the others wait in order. Once `waitingMax` tasks wait, further ones are rejected
 * with `refusal`.
 */
export function limitConcurrency(
  most: number,
  { waitingMax = Number.POSITIVE_INFINITY, refusal = '' } = {},
): <T>(work: () => Promise<T>) => Promise<T> {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (work) => {
    if (waiting.length >= waitingMax) throw new Error(refusal);
    if (running >= most) await new Promise<void>((resolve) => waiting.push(resolve));
    else running += 1;
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      // The next task takes over this slot.
      if (next === undefined) running -= 1;
      else next();
    }
  };
}
