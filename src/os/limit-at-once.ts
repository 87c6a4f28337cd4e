/** Runs as much at once, and the rest in the order in which it came. With `waitingMax` waiting, more of it is refused. */
export function limitAtOnce(
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
      // The next one takes this place.
      if (next === undefined) running -= 1;
      else next();
    }
  };
}
