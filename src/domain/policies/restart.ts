import type { PoolConfig } from '../config.ts';
import type { FailureKind, Failures, Pool } from '../state.ts';
import { noFailures } from '../state.ts';

/** Number of slots that wait before their next start. */
export function slotsBackingOff(pool: Pick<Pool, 'slots'>): number {
  let count = 0;
  for (const slot of pool.slots.values()) if (slot.nextStartAtMs > 0) count += 1;
  return count;
}

/**
 * How long a slot waits after an unplanned end. The first failure of a worker that was ready costs no wait; after that
 * the wait doubles from `backoffMinMs` to `backoffMaxMs`, separately for each kind of failure. Half of the wait is
 * random, so that slots that failed together do not start together. A worker that lived for `resetAfterMs` clears
 * earlier failures.
 */
export function nextRestart(
  before: Failures,
  kind: FailureKind,
  life: { readonly wasReady: boolean; readonly livedMs: number },
  config: PoolConfig['restart'],
  random: () => number,
): { failures: Failures; delayMs: number } {
  const forgiven = life.wasReady && life.livedMs >= config.resetAfterMs ? noFailures : before;
  const count = forgiven[kind] + 1;
  const failures = { ...forgiven, [kind]: count };
  if (life.wasReady && count === 1) return { failures, delayMs: 0 };
  const doublings = Math.min(count - (life.wasReady ? 2 : 1), 30);
  const delayMs = Math.min(config.backoffMaxMs, config.backoffMinMs * 2 ** doublings);
  return { failures, delayMs: delayMs * (0.5 + random() / 2) };
}
