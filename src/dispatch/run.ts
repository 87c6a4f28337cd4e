import type { Row } from './transitions.ts';
import { createTransitions, ignored, next } from './transitions.ts';

/**
 * The run of a request: where the request is. Who waits for its answer is another matter (delivery.ts). This file has all states
 * and all legal moves.
 */

/** In the order in which a request passes them. `isInWorker` and `isRunOver` rely on that order. */
export const runStates = [
  /** In no queue and in no worker yet. The request leaves this state before dispatch returns from the call that made it. */
  'arrived',
  /** A worker of an earlier agent may have the request, which waits until all of these workers have dialled in. */
  'awaitingEarlierWorkers',
  /** In a queue of its pool. */
  'queued',
  /** In a worker, which may not have begun it yet. */
  'sent',
  /** In a worker, which has sent a chunk or a report of progress. */
  'begun',
  /** In a worker that was told to cancel it. If it has not ended after `kill_after`, dispatch reports that to the domain. */
  'cancelled',
  /** Like `cancelled`, but no timer runs: `kill_after` is 0, or the domain knows that the request is overdue. */
  'cancelledWithoutTimer',
  /** The worker has answered, and keeps the answer until the agent acknowledges it. */
  'kept',
  /** Over, and no worker has a part of the request. */
  'ended',
] as const;

type RunName = (typeof runStates)[number];

const nobodyWaits = ignored('nobody waits for this run');

/** Where each event leads from each state. */
export const runRows = Object.freeze({
  /** Only workers of an earlier agent know whether one of them has the request. */
  heldBack: { arrived: 'awaitingEarlierWorkers' },
  /** The request may go to any worker, and none has room for it now. */
  enqueued: { arrived: 'queued', awaitingEarlierWorkers: 'queued' },
  /** The request is sent to a worker. */
  placed: { arrived: 'sent', queued: 'sent' },
  /** A worker of an earlier agent reports that it has the request: running, cancelled, or answered. */
  foundRunning: { arrived: 'sent', awaitingEarlierWorkers: 'sent' },
  foundCancelled: { arrived: 'cancelled' },
  foundAnswered: { arrived: 'kept', awaitingEarlierWorkers: 'kept' },
  /** A chunk or a report of progress arrived. */
  begun: {
    sent: 'begun',
    begun: ignored('the first chunk or report did this'),
    cancelled: nobodyWaits,
    cancelledWithoutTimer: nobodyWaits,
    kept: ignored('the chunk is a replay, and the run is over'),
  },
  /** The worker has answered, and keeps nothing. */
  answered: { sent: 'ended', begun: 'ended', cancelled: 'ended', cancelledWithoutTimer: 'ended' },
  /** The worker has answered, and keeps the answer. */
  answeredAndKept: { sent: 'kept', begun: 'kept' },
  /** The request will run again: its worker returned it or lost it. A worker that returns a request it had begun is believed. */
  requeued: { sent: 'queued', begun: 'queued' },
  /** The worker returned the request, and nobody waits for the run. */
  returned: { cancelled: 'ended', cancelledWithoutTimer: 'ended' },
  /** Nobody waits for the run any more: the caller cancelled, the deadline passed, or nobody repeated the request in time. */
  cancelled: {
    awaitingEarlierWorkers: 'ended',
    queued: 'ended',
    sent: 'cancelled',
    begun: 'cancelled',
    kept: ignored('the run is over, and the worker keeps the answer until it is acknowledged'),
  },
  /** The request has not ended in time, and the domain learns that. */
  overdue: { cancelled: 'cancelledWithoutTimer' },
  /** The pool does not bound how long a cancelled request may go on. */
  unbounded: { cancelled: 'cancelledWithoutTimer' },
  /** The request was refused while it waited, or its worker will never answer. */
  failed: { arrived: 'ended', awaitingEarlierWorkers: 'ended', queued: 'ended', sent: 'ended', begun: 'ended' },
  /** The worker that had the request or its answer is gone, and nobody waits for the run. */
  workerLost: { cancelled: 'ended', cancelledWithoutTimer: 'ended', kept: 'ended' },
  /** The worker may drop the answer, because nobody will ask for it again. */
  acknowledged: { kept: 'ended' },
} as const satisfies Readonly<Record<string, Row<RunName>>>);

type RunEvent = keyof typeof runRows;

const transitions = createTransitions<RunName, RunEvent>(runStates, runRows);
export const run = transitions.states;
export const runEvents = transitions.events;

interface Runs {
  run: number;
}

/** An illegal event throws. */
export function moveRun(request: Runs, event: (typeof runEvents)[RunEvent]): void {
  request.run = next("a request's run", runStates, request.run, event);
}

/** The run is over for the caller: nothing but a replay can follow. */
export function isRunOver(request: Runs): boolean {
  return request.run >= run.cancelled;
}

/** A worker has the request, and its answer is wanted. */
export function isRunning(request: Runs): boolean {
  return request.run === run.sent || request.run === run.begun;
}

/** A worker has the request, whether its answer is wanted or not. */
export function isInWorker(request: Runs): boolean {
  return request.run >= run.sent && request.run <= run.cancelledWithoutTimer;
}

/** A worker has the request, and was told to cancel it. */
export function isGivenUp(request: Runs): boolean {
  return request.run === run.cancelled || request.run === run.cancelledWithoutTimer;
}

/** The request waits for a worker. */
export function isWaiting(request: Runs): boolean {
  return request.run === run.queued || request.run === run.awaitingEarlierWorkers;
}
