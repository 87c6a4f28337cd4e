import type { Action } from '../domain/action.ts';
import type { Event, Facts } from '../domain/event.ts';
import type { State } from '../domain/state.ts';
import { initialState } from '../domain/state.ts';
import type { Step } from '../domain/step.ts';
import { step } from '../domain/step.ts';
import { setWakeUp } from '../os/timer.ts';

/**
 * The one loop that owns the state. It queues events, decides on all that came in one turn of Node's event loop at once, and
 * then has the effects carried out. Until `start`, events are only queued.
 */
export interface Loop {
  state(): State;
  /** Queues an event; the loop decides on it in this turn of Node's event loop. */
  enqueue(event: Event): void;
  /** Queues a low-priority event, such as a pong that came in time: it is handled with the next step, or within 50 ms. */
  enqueueDeferred(event: Event): void;
  /**
   * Decides on an event now, together with all that is queued. For callers that answer with the outcome. Throws where the step does:
   * then this event is dropped, and the queued ones are decided on without it, in this turn of Node's event loop.
   */
  applyNow(event: Event): void;
  /** How long a step has been due and not done; 0: none is. A loop that makes no progress is ever later. */
  lateMs(): number;
  start(facts: () => Facts, carryOut: (actions: readonly Action[], state: State) => void): void;
  /** No more steps. */
  close(): void;
}

/**
 * How long a deferred event waits for a step. A step looks at every worker: one for each pong of 200 workers cost half of what
 * the agent did when idle.
 */
const deferredMs = 50;
/** A loop that is later than this makes no progress: systemd's watchdog is no longer fed, and `/healthz` says so. */
export const lateMaxMs = 3_000;

interface Started {
  facts(): Facts;
  carryOut(actions: readonly Action[], state: State): void;
}

export function createLoop(nowMs: () => number): Loop {
  let started: Started | null = null;
  let state = initialState();
  let queue: Event[] = [];
  let scheduled: NodeJS.Immediate | null = null;
  let deferred: NodeJS.Timeout | null = null;
  let timer: NodeJS.Timeout | null = null;
  let deciding = false;
  let closed = false;
  /** When a step is due; infinite: nothing waits for one. */
  let dueAtMs = Number.POSITIVE_INFINITY;

  /** `requested`: the event that a caller of `applyNow` waits for, if this turn is for one. */
  const turn = (requested: Event | null = null): void => {
    if (scheduled !== null) clearImmediate(scheduled);
    scheduled = null;
    if (deferred !== null) clearTimeout(deferred);
    deferred = null;
    if (closed || started === null) return;
    const events = queue;
    queue = [];
    deciding = true;
    const now = started.facts();
    const next = decideOn(events, now, requested);
    state = next.state;
    try {
      started.carryOut(next.actions, state);
    } finally {
      // Events that were queued meanwhile have waited since then, at most.
      dueAtMs = queue.length > 0 ? now.nowMs : next.wakeAtMs;
      arm(next.wakeAtMs - now.nowMs);
    }
  };

  const decideOn = (events: readonly Event[], now: Facts, requested: Event | null): Step => {
    try {
      return step(state, events, now);
    } catch (error) {
      if (requested !== null) putBack(events.filter((event) => event !== requested));
      throw error;
    } finally {
      deciding = false;
    }
  };

  /** The step threw: events that nobody asked for have happened all the same. */
  const putBack = (events: readonly Event[]): void => {
    queue = [...events, ...queue];
    if (queue.length > 0) schedule();
  };

  const schedule = (): void => {
    if (scheduled === null && !closed) scheduled = setImmediate(() => turn());
  };

  const add = (event: Event): void => {
    if (queue.length === 0) dueAtMs = Math.min(dueAtMs, nowMs());
    queue.push(event);
  };

  const arm = (delayMs: number): void => {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    if (closed || delayMs === Number.POSITIVE_INFINITY) return;
    timer = setWakeUp(() => turn(), delayMs);
  };

  return {
    state: () => state,
    enqueue: (event) => {
      add(event);
      schedule();
    },
    enqueueDeferred: (event) => {
      add(event);
      if (scheduled === null && deferred === null && !closed) deferred = setTimeout(() => turn(), deferredMs);
    },
    applyNow: (event) => {
      if (deciding) throw new Error('applyNow: expected a call from outside the loop, got one from within a step');
      add(event);
      turn(event);
    },
    lateMs: () => Math.max(0, nowMs() - dueAtMs),
    start: (facts, carryOut) => {
      started = { facts, carryOut };
      if (queue.length > 0) schedule();
    },
    close: () => {
      closed = true;
      if (timer !== null) clearTimeout(timer);
      if (deferred !== null) clearTimeout(deferred);
      if (scheduled !== null) clearImmediate(scheduled);
    },
  };
}

/** Whether the loop does what is due, for probes. */
export function loopHealth(lateMs: number): { readonly ok: boolean; readonly text: string } {
  if (lateMs <= lateMaxMs) return { ok: true, text: 'ok' };
  return { ok: false, text: `the loop is ${Math.round(lateMs)} ms late: nothing is decided` };
}
