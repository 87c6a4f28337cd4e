import type { Action } from '../domain/action.ts';
import type { Event, Facts } from '../domain/event.ts';
import type { State } from '../domain/state.ts';
import { initialState } from '../domain/state.ts';
import type { Step } from '../domain/step.ts';
import { step } from '../domain/step.ts';
import { setWakeUp } from '../os/timer.ts';

/**
 * The only loop, which owns the state. It queues events, decides on all events of one turn of Node's event loop at
 * once, and then has the effects carried out. Before `start`, events are only queued.
 */
export interface Loop {
  state(): State;
  /** Queues an event; the loop decides on it in this turn of Node's event loop. */
  enqueue(event: Event): void;
  /** Queues a low-priority event, such as a pong that came in time: it is handled with the next step, or within 50 ms. */
  enqueueDeferred(event: Event): void;
  /**
   * Decides at once on an event and everything queued, for callers that need the outcome. If the step throws, so does
   * this; then this event is dropped, and the queued events are decided on in this turn of Node's event loop.
   */
  applyNow(event: Event): void;
  /** How long a step has been overdue; 0 if none is. Grows for as long as the loop makes no progress. */
  lateMs(): number;
  start(facts: () => Facts, carryOut: (actions: readonly Action[], state: State) => void): void;
  /** Stops the loop. */
  close(): void;
}

/**
 * How long a deferred event waits for a step. A step checks every worker: one step per pong of 200 workers was half of
 * an idle agent's load.
 */
const deferredMs = 50;
/**
 * A loop that is later than this makes no progress: systemd's watchdog gets no more notifications, and `/healthz`
 * reports it.
 */
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
  /** When the next step is due; infinite if nothing needs one. */
  let dueAtMs = Number.POSITIVE_INFINITY;

  /** `requested`: the event of the `applyNow` call that this turn is for, if any. */
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
      // Events that were queued meanwhile have waited since `now` at most.
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

  /** The step threw. The events that did not come from the caller have still happened, so they are queued again. */
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

/** Whether the loop is on time, for health probes. */
export function loopHealth(lateMs: number): { readonly ok: boolean; readonly text: string } {
  if (lateMs <= lateMaxMs) return { ok: true, text: 'ok' };
  return { ok: false, text: `the loop is ${Math.round(lateMs)} ms late: the agent makes no progress` };
}
