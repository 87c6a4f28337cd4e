import { isRunOver } from './run.ts';
import type { Row } from './transitions.ts';
import { createTransitions, ignored, next } from './transitions.ts';

/**
 * The delivery of a request's answer: who waits for it, and who has it. It goes on beside the run (run.ts). Unary calls, streams
 * and Submit differ in their sinks alone. This file has all states and all legal moves.
 */

export const deliveryStates = [
  /** `currentSink` gets what comes. */
  'attached',
  /** `currentSink` gets what comes from the answer's beginning, for which the worker was asked. */
  'replaying',
  /** Nobody is there. In its grace it goes on, or its end is kept, for a caller that asks again. */
  'detached',
  /** `currentSink` has the end, and is not known to have read it. */
  'delivered',
  /** Nobody will ask for it again, and the worker that still has something of it is to know that. */
  'acknowledged',
  /** Nobody can ask for it, and nobody need be told. */
  'forgotten',
] as const;

type DeliveryName = (typeof deliveryStates)[number];

const unwanted = ignored('nobody will ask for it');
const nothingAsked = ignored('no replay was asked for');

/** Where each event leads from each state. */
export const deliveryRows = Object.freeze({
  /** Its sink is handed the end, a result or an error. Its caller may ask again by its id. */
  ended: {
    attached: 'delivered',
    replaying: 'delivered',
    detached: ignored('the end is kept for a caller that asks again'),
    acknowledged: unwanted,
    forgotten: unwanted,
  },
  /** Its sink is handed the end, and its caller has no id to ask again by. */
  endedForGood: { attached: 'forgotten' },
  /** The caller's call is over, and its answer may not have been read. */
  sinkLost: { attached: 'detached', replaying: 'detached', delivered: 'detached' },
  /** Its id was sent again: another sink takes the place of the one before. */
  sinkBack: { attached: 'attached', replaying: 'attached', detached: 'attached', delivered: 'attached' },
  /** Its worker was asked for the answer from its beginning. */
  replayAsked: { attached: 'replaying', replaying: 'replaying' },
  /** It is to run again, and what an earlier run has said is void. */
  returned: { attached: nothingAsked, replaying: 'attached', detached: nothingAsked },
  /** Its caller is known to have read the end. */
  receiptProven: { delivered: 'acknowledged' },
  /** Its caller has said that it wants no answer. */
  cancelled: { delivered: 'acknowledged' },
  /** The time in which its caller could have come back is over. */
  graceOver: { detached: 'acknowledged' },
  /** It is not kept any longer: others need the room, its payload is nowhere, or its end is of no use. */
  evicted: { detached: 'acknowledged', delivered: 'acknowledged' },
  /** No worker has anything of it. */
  workerDone: {
    detached: ignored('the end is kept here'),
    delivered: ignored('the end is kept here until it is known to be read'),
    acknowledged: 'forgotten',
    forgotten: ignored('it has no id, and its worker kept nothing'),
  },
} as const satisfies Readonly<Record<string, Row<DeliveryName>>>);

type DeliveryEvent = keyof typeof deliveryRows;

const transitions = createTransitions<DeliveryName, DeliveryEvent>(deliveryStates, deliveryRows);
export const delivery = transitions.states;
export const deliveryEvents = transitions.events;

/** An illegal event throws. */
export function moveDelivery(request: { delivery: number }, event: (typeof deliveryEvents)[DeliveryEvent]): void {
  request.delivery = next("a request's delivery", deliveryStates, request.delivery, event);
}

/** Its sink has been handed the end, or would have been if it were there. */
export function hasEnded(request: { readonly delivery: number; readonly run: number }): boolean {
  return request.delivery > delivery.detached || (request.delivery === delivery.detached && isRunOver(request));
}
