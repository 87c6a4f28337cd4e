import { isRunOver } from './run.ts';
import type { Row } from './transitions.ts';
import { createTransitions, ignored, next } from './transitions.ts';

/**
 * The delivery of a request's answer: who waits for the answer, and who has it. It is independent of the run (run.ts). Unary calls,
 * streams and Submit differ only in their sinks. This file has all states and all legal moves.
 */

export const deliveryStates = [
  /** `currentSink` gets each part of the answer that arrives. */
  'attached',
  /** The worker was asked for the answer from its beginning, and `currentSink` gets the replay. */
  'replaying',
  /** No caller is there. During its grace the request goes on, or its end is kept, for a caller that repeats it. */
  'detached',
  /** `currentSink` has received the end, and its caller is not known to have read it. */
  'delivered',
  /** Nobody will ask for the request again. A worker still has a part of it. */
  'acknowledged',
  /** Nobody can ask for the request, and no worker has a part of it that must be acknowledged. */
  'forgotten',
] as const;

type DeliveryName = (typeof deliveryStates)[number];

const unwanted = ignored('nobody will ask for the request again');
const nothingAsked = ignored('no replay was asked for');

/** Where each event leads from each state. */
export const deliveryRows = Object.freeze({
  /** The sink receives the end, a result or an error. The caller may repeat the request by its id. */
  ended: {
    attached: 'delivered',
    replaying: 'delivered',
    detached: ignored('the end is kept for a caller that repeats the request'),
    acknowledged: unwanted,
    forgotten: unwanted,
  },
  /** The sink receives the end, and the caller has no id by which it could repeat the request. */
  endedForGood: { attached: 'forgotten' },
  /** The call is over, and its caller may not have read the answer. */
  sinkLost: { attached: 'detached', replaying: 'detached', delivered: 'detached' },
  /** A caller repeated the request by its id: a new sink replaces the earlier one. */
  sinkBack: { attached: 'attached', replaying: 'attached', detached: 'attached', delivered: 'attached' },
  /** The worker was asked for the answer from its beginning. */
  replayAsked: { attached: 'replaying', replaying: 'replaying' },
  /** The request will run again, so everything that its earlier run sent is void. */
  requeued: { attached: nothingAsked, replaying: 'attached', detached: nothingAsked },
  /** The caller is known to have read the end. */
  receiptProven: { delivered: 'acknowledged' },
  /** The caller cancelled, so it wants no answer. */
  cancelled: { delivered: 'acknowledged' },
  /** The caller did not repeat the request in time. */
  graceOver: { detached: 'acknowledged' },
  /** The request is no longer kept: others need the room, its payload is lost, or its end is of no use. */
  evicted: { detached: 'acknowledged', delivered: 'acknowledged' },
  /** No worker has a part of the request. */
  workerDone: {
    detached: ignored('the agent keeps the end'),
    delivered: ignored('the agent keeps the end until the caller is known to have read it'),
    acknowledged: 'forgotten',
    forgotten: ignored('the request has no id, and its worker kept nothing'),
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

/** The sink has received the end, or would have received it if a caller were there. */
export function hasEnded(request: { readonly delivery: number; readonly run: number }): boolean {
  return request.delivery > delivery.detached || (request.delivery === delivery.detached && isRunOver(request));
}
