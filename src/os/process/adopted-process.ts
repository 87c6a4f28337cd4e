import type { ProcessIdentity } from './identity.ts';
import { isAlive, isGone, ticksSinceBoot } from './identity.ts';

/** A process that is no child of this agent: the kernel tells nobody but its parent of its end, so it is looked at. */
export interface AdoptedProcess {
  /** When it is seen to have ended; with what status only its parent knows. */
  readonly exited: Promise<void>;
  /**
   * Clock ticks after boot when it was last seen to live, once it has ended; undefined: it lives, was never seen to, or there is no
   * /proc. When its end is seen, a second later at worst, its number may be a stranger's already.
   */
  endedAtTicks(): number | undefined;
  /** Something speaks for its end, such as its link: look at once, and often for a while. */
  look(): void;
  close(): void;
}

/** A look costs 10 µs. Without a reason it is taken this often, and with one at first so much more. */
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
