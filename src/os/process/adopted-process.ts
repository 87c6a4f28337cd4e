import type { ProcessIdentity } from './identity.ts';
import { isAlive, isGone, ticksSinceBoot } from './identity.ts';

/**
 * A process that is not a child of this agent. The kernel reports an exit only to the parent, so this process is
 * polled.
 */
export interface AdoptedProcess {
  /** Resolves once the process is seen to have ended. Only its parent can learn the exit status. */
  readonly exited: Promise<void>;
  /**
   * Once the process has ended: when it was last seen alive, in clock ticks after boot. Undefined while it lives, if it
   * was never seen alive, or without /proc. The end is noticed up to a second late, when another process may already
   * have the pid.
   */
  endedAtTicks(): number | undefined;
  /**
   * Call this when something suggests that the process has ended, such as a closed link: polls at once, and often for a
   * while.
   */
  look(): void;
  close(): void;
}

/**
 * One poll costs 10 µs. Without a hint the process is polled once a second; after a hint, first after 5 ms and then
 * less and less often.
 */
const idleLookMs = 1_000;
const firstLookMs = 5;

export function watchProcess(identity: ProcessIdentity): AdoptedProcess {
  let livedAtTicks: number | undefined;
  let timer: NodeJS.Timeout | undefined;
  let resolve = (): void => undefined;
  const exited = new Promise<void>((done) => {
    resolve = done;
  });
  let over = false;
  let hasEnded = false;
  const look = (nextMs: number): void => {
    clearTimeout(timer);
    if (over) return;
    const atTicks = ticksSinceBoot();
    if (isGone(identity)) {
      over = true;
      hasEnded = true;
      return resolve();
    }
    if (isAlive(identity)) livedAtTicks = atTicks;
    timer = setTimeout(() => look(Math.min(idleLookMs, nextMs * 2)), nextMs);
    timer.unref();
  };
  look(idleLookMs);
  return {
    exited,
    endedAtTicks: () => (hasEnded ? livedAtTicks : undefined),
    look: () => look(firstLookMs),
    close: () => {
      over = true;
      clearTimeout(timer);
    },
  };
}
