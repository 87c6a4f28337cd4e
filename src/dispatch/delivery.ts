import { isRunOver } from './run.ts';
import type { Row } from './transitions.ts';
import { createTransitions, ignored, next } from './transitions.ts';

/**
 * The delivery of a request's answer: who waits for the answer, and who has it. It is independent of the run (run.ts). Unary calls,
 * streams and Submit differ only in their sinks. This file has all states and all legal moves.
 */

/** `isAnswered` relies on this order. */
export const deliveryStates = [
  /** `currentSink` gets each part of the answer that arrives. */
  'attached',
  /** The worker was asked for the answer from its beginning, and `currentSink` gets the replay. */
  'replaying',
  /** No caller is there. During its grace the request goes on, or its end is kept, for a caller that repeats it. */
  'detached',
  /** `currentSink` has received the end. It is not known yet whether its caller has read it. */
  'unproven',
  /** Nobody will ask for the request again. A worker still has a part of it. */
  'unwanted',
  /** Nobody can ask for the request, and no worker has a part of it that must be acknowledged. */
  'forgotten',
] as const;

type DeliveryName = (typeof deliveryStates)[number];

const alreadyUnwanted = ignored('nobody will ask for the request again');
const nothingAsked = ignored('no replay was asked for');

/** Where each event leads from each state. */
export const deliveryRows = Object.freeze({
  /** The sink receives the end, a result or an error. The caller may repeat the request by its id. */
  ended: {
    attached: 'unproven',
    replaying: 'unproven',
    detached: ignored('the end is kept for a caller that repeats the request'),
    unwanted: alreadyUnwanted,
    forgotten: alreadyUnwanted,
  },
  /** The sink receives the end, and the caller has no id by which it could repeat the request. */
  endedForGood: { attached: 'forgotten' },
  /** The call is over, and its caller may not have read the answer. */
  sinkLost: { attached: 'detached', replaying: 'detached', unproven: 'detached' },
  /** A caller repeated the request by its id: a new sink replaces the earlier one. */
  sinkBack: { attached: 'attached', replaying: 'attached', detached: 'attached', unproven: 'attached' },
  /** The worker was asked for the answer from its beginning. */
  replayAsked: { attached: 'replaying', replaying: 'replaying' },
  /** The request will run again, so everything that its earlier run sent is void. */
  requeued: { attached: nothingAsked, replaying: 'attached', detached: nothingAsked },
  /** The caller is known to have read the end. */
  receiptProven: { unproven: 'unwanted' },
  /** The caller cancelled, so it wants no answer. */
  cancelled: { unproven: 'unwanted' },
  /** The caller did not repeat the request in time. */
  graceOver: { detached: 'unwanted' },
  /** The request is no longer kept: others need the room, its payload is lost, or its end is of no use. */
  evicted: { detached: 'unwanted', unproven: 'unwanted' },
  /** No worker has a part of the request. */
  workerDone: {
    detached: ignored('the agent keeps the end'),
    unproven: ignored('the agent keeps the end until the caller is known to have read it'),
    unwanted: 'forgotten',
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
export function isAnswered(request: { readonly delivery: number; readonly run: number }): boolean {
  return request.delivery > delivery.detached || (request.delivery === delivery.detached && isRunOver(request));
}
