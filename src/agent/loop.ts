import type { Action } from '../domain/action.ts';
import type { Event, Facts } from '../domain/event.ts';
import type { State } from '../domain/state.ts';
import { initialState } from '../domain/state.ts';
import type { Step } from '../domain/step.ts';
import { step } from '../domain/step.ts';
import { setWakeUp } from '../os/timer.ts';

/** The one loop that owns the state: events are queued, a turn's worth of them is decided at once, then acted upon. */
export interface Loop {
  state(): State;
  /** Queues a fact; it is decided in this turn of Node's event loop. */
  tell(event: Event): void;
  /** Queues a fact that nothing hangs on, such as a pong that came in time: it is decided with the next step, or soon. */
  mention(event: Event): void;
  /**
   * Decides now, together with all that is queued. For callers that answer with the outcome. Throws where the step does: then this
   * event is dropped, and what was queued is decided without it, in this turn of Node's event loop.
   */
  decide(event: Event): void;
  /** How long a step has been due and not done; 0: none is. A loop that makes no progress is ever later. */
  lateMs(): number;
  /** Stops waking up. */
  close(): void;
}

/**
 * How long a fact that was only mentioned waits for a step. A step looks at every worker: one for each pong of 200 workers
 * cost half of what the agent did when idle.
 */
const soonMs = 50;
/** A loop that is later than this makes no progress: systemd's watchdog is no longer fed, and `/healthz` says so. */
export const lateMaxMs = 3_000;

export function startLoop(facts: () => Facts, act: (actions: readonly Action[], state: State) => void): Loop {
  let state = initialState();
  let queue: Event[] = [];
  let scheduled: NodeJS.Immediate | null = null;
  let soon: NodeJS.Timeout | null = null;
  let timer: NodeJS.Timeout | null = null;
  let deciding = false;
  let closed = false;
  /** When something waits to be decided; infinite: nothing does. */
  let dueAtMs = Number.POSITIVE_INFINITY;

  /** `wish`: what a caller waits for, if this turn is for one. */
  const turn = (wish: Event | null = null): void => {
    if (scheduled !== null) clearImmediate(scheduled);
    scheduled = null;
    if (soon !== null) clearTimeout(soon);
    soon = null;
    if (closed) return;
    const events = queue;
    queue = [];
    deciding = true;
    const now = facts();
    const next = decideOn(events, now, wish);
    state = next.state;
    try {
      act(next.actions, state);
    } finally {
      // What came up while this was done has been waiting since then, at most.
      dueAtMs = queue.length > 0 ? now.nowMs : next.wakeAtMs;
      arm(next.wakeAtMs - now.nowMs);
    }
  };

  const decideOn = (events: readonly Event[], now: Facts, wish: Event | null): Step => {
    try {
      return step(state, events, now);
    } catch (error) {
      if (wish !== null) putBack(events.filter((event) => event !== wish));
      throw error;
    } finally {
      deciding = false;
    }
  };

  /** Nothing was decided: what is no wish happened all the same. */
  const putBack = (events: readonly Event[]): void => {
    queue = [...events, ...queue];
    if (queue.length > 0) schedule();
  };

  const schedule = (): void => {
    if (scheduled === null && !closed) scheduled = setImmediate(() => turn());
  };

  const enqueue = (event: Event): void => {
    if (queue.length === 0) dueAtMs = Math.min(dueAtMs, facts().nowMs);
    queue.push(event);
  };

  const arm = (delayMs: number): void => {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    if (closed || delayMs === Number.POSITIVE_INFINITY) return;
    timer = setWakeUp(() => turn(), delayMs);
  };

  const tell = (event: Event): void => {
    enqueue(event);
    schedule();
  };

  const mention = (event: Event): void => {
    enqueue(event);
    if (scheduled === null && soon === null && !closed) soon = setTimeout(() => turn(), soonMs);
  };

  return {
    state: () => state,
    tell,
    mention,
    decide: (event) => {
      if (deciding) throw new Error('decide: expected a call from outside the loop, got one from within a step');
      enqueue(event);
      turn(event);
    },
    lateMs: () => Math.max(0, facts().nowMs - dueAtMs),
    close: () => {
      closed = true;
      if (timer !== null) clearTimeout(timer);
      if (soon !== null) clearTimeout(soon);
      if (scheduled !== null) clearImmediate(scheduled);
    },
  };
}

/** Whether the loop does what is due, for probes. */
export function loopHealth(lateMs: number): { readonly ok: boolean; readonly text: string } {
  if (lateMs <= lateMaxMs) return { ok: true, text: 'ok' };
  return { ok: false, text: `the loop is ${Math.round(lateMs)} ms late: nothing is decided` };
}
