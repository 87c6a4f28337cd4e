import type { Row } from './transitions.ts';
import { createTransitions, ignored, next } from './transitions.ts';

/**
 * The run of a request: where the request is, whoever waits for its answer (delivery.ts). This file has all states and all
 * legal moves.
 */

/** In the order of a request's way, which `isInWorker` and `isRunOver` go by. */
export const runStates = [
  /** In no queue and in no worker, for the length of a call. */
  'arrived',
  /** A worker of an earlier agent may have it: it waits until all of them have dialled in. */
  'awaitingEarlierWorkers',
  /** In a queue of its pool. */
  'queued',
  /** In a worker, which may not have begun it. */
  'sent',
  /** In a worker, which has said something of it. */
  'begun',
  /** In a worker that was told to end it. `kill_after` later the domain is told if it has not ended. */
  'cancelled',
  /** As `cancelled`, but nobody watches for its end: `kill_after` is 0, or the domain has been told. */
  'unwatched',
  /** Its worker has answered it, and keeps the answer until that is acknowledged. */
  'kept',
  /** Over, and no worker has anything of it. */
  'ended',
] as const;

type RunName = (typeof runStates)[number];

const nobodyWaits = ignored('nobody waits for this run');

/** Where each event leads from each state. */
export const runRows = Object.freeze({
  /** Only workers of an earlier agent know whether they have it. */
  heldBack: { arrived: 'awaitingEarlierWorkers' },
  /** It may go to any worker. */
  admitted: { arrived: 'queued', awaitingEarlierWorkers: 'queued' },
  /** It is sent to a worker. */
  placed: { arrived: 'sent', queued: 'sent' },
  /** A worker has brought it along from an earlier agent: running, cancelled, or answered. */
  foundRunning: { arrived: 'sent', awaitingEarlierWorkers: 'sent' },
  foundCancelled: { arrived: 'cancelled' },
  foundAnswered: { arrived: 'kept', awaitingEarlierWorkers: 'kept' },
  /** A chunk or a report of progress came. */
  begun: {
    sent: 'begun',
    begun: ignored('the first word has said so'),
    cancelled: nobodyWaits,
    unwatched: nobodyWaits,
    kept: ignored('the chunk is a replay, and the run is over'),
  },
  /** Its worker has answered it, and keeps nothing. */
  answered: { sent: 'ended', begun: 'ended', cancelled: 'ended', unwatched: 'ended' },
  /** Its worker has answered it, and keeps the answer. */
  answeredAndKept: { sent: 'kept', begun: 'kept' },
  /** It is to run again, or its worker gave it back. A worker that gives back what it has begun is taken at its word. */
  returned: { sent: 'queued', begun: 'queued', cancelled: 'ended', unwatched: 'ended' },
  /** Nobody waits for its run any more: its caller cancelled it, its deadline passed, or nobody came back for it. */
  cancelled: {
    awaitingEarlierWorkers: 'ended',
    queued: 'ended',
    sent: 'cancelled',
    begun: 'cancelled',
    kept: ignored('the run is over, and its worker keeps the answer until that is acknowledged'),
  },
  /** The domain was told that it has not ended. */
  overdue: { cancelled: 'unwatched' },
  /** Its pool sets no bound to how long it may go on. */
  unbounded: { cancelled: 'unwatched' },
  /** It was refused while it waited, or its worker will not answer it any more. */
  failed: { arrived: 'ended', awaitingEarlierWorkers: 'ended', queued: 'ended', sent: 'ended', begun: 'ended' },
  /** The worker that had it, or its answer, is gone, and nobody waits for that. */
  workerLost: { cancelled: 'ended', unwatched: 'ended', kept: 'ended' },
  /** Its worker was told that nobody will ask for the answer again. */
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

/** Nothing more comes of it but a replay. */
export function isRunOver(request: Runs): boolean {
  return request.run >= run.cancelled;
}

/** A worker has it, and its answer is waited for. */
export function isRunning(request: Runs): boolean {
  return request.run === run.sent || request.run === run.begun;
}

/** A worker has it, whoever waits for it. */
export function isInWorker(request: Runs): boolean {
  return request.run >= run.sent && request.run <= run.unwatched;
}

/** A worker has it, and was told to end it. */
export function isGivenUp(request: Runs): boolean {
  return request.run === run.cancelled || request.run === run.unwatched;
}

/** It waits for a worker. */
export function isWaiting(request: Runs): boolean {
  return request.run === run.queued || request.run === run.awaitingEarlierWorkers;
}
