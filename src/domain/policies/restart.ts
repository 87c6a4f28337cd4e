import type { PoolConfig } from '../config.ts';

/**
 * How long a slot waits after an unplanned end. A worker that had been ready and is the first to fail is replaced at
 * once; after that the wait doubles from `backoffMinMs` to `backoffMaxMs`. Half of it is drawn at random, so that slots
 * that failed together do not start together. A life of `resetAfterMs` forgives what was before.
 */
export function nextRestart(
  failures: number,
  life: { readonly wasReady: boolean; readonly livedMs: number },
  config: PoolConfig['restart'],
  random: () => number,
): { failures: number; delayMs: number } {
  const count = life.wasReady && life.livedMs >= config.resetAfterMs ? 1 : failures + 1;
  if (life.wasReady && count === 1) return { failures: count, delayMs: 0 };
  const doublings = Math.min(count - (life.wasReady ? 2 : 1), 30);
  const delayMs = Math.min(config.backoffMaxMs, config.backoffMinMs * 2 ** doublings);
  return { failures: count, delayMs: delayMs * (0.5 + random() / 2) };
}
