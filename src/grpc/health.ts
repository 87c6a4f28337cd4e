import type { ServerWritableStream, UntypedServiceImplementation } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { reasonOfCode } from '../domain/error-reason.ts';
import { reading } from './control/control-answers.ts';
import { Refusal, refusalStatus, text } from './control/refusals.ts';
import type { ControlRequest } from './control/source.ts';
import { failedStatus } from './error-details.ts';

export type ServingStatus = 'SERVING' | 'NOT_SERVING';

/** Serves grpc.health.v1: the status of named services. A name that was never set, or was removed, is unknown. */
export interface Health {
  readonly service: UntypedServiceImplementation;
  set(name: string, status: ServingStatus): void;
  remove(name: string): void;
  /** The agent leaves: reports NOT_SERVING for all services, and ends every Watch. A Watch would keep its connection open. */
  leave(): void;
}

/** No service has a longer name. The memory of a call has room for this much. */
const watchedNameMaxLength = 256;
/** How many watchers are sent a new status in one turn of the event loop. One takes some 10 µs, and there may be 50,000. */
const sendsPerTurn = 200;

/** A call of Watch. At most one message is unsent at a time, so a caller that reads nothing makes the agent hold one. */
interface Watcher {
  readonly name: string;
  readonly call: ServerWritableStream<ControlRequest, object>;
  /** The last status that was sent; empty: none yet. */
  sent: string;
  isSending: boolean;
  isOver: boolean;
}

/**
 * Replaces HealthImplementation of grpc-health-check, which never forgets a name that was set or watched, and queues every status
 * for watchers that do not read. The number of watchers is bounded by `message.budget`: each call counts (incoming/reader.ts).
 */
export function createHealth(): Health {
  const statuses = new Map<string, ServingStatus>();
  const watchers = new Map<string, Set<Watcher>>();
  const outdated = new Set<Watcher>();
  let isScheduled = false;
  let isLeaving = false;

  const send = (watcher: Watcher): void => {
    if (watcher.isSending || watcher.isOver) return;
    const current = statuses.get(watcher.name) ?? 'SERVICE_UNKNOWN';
    if (current === watcher.sent) return;
    watcher.sent = current;
    watcher.isSending = true;
    watcher.call.write({ status: current }, () => {
      watcher.isSending = false;
      send(watcher);
    });
  };

  const sendSome = (): void => {
    let left = sendsPerTurn;
    for (const watcher of outdated) {
      if (left === 0) break;
      left -= 1;
      outdated.delete(watcher);
      send(watcher);
    }
    if (outdated.size === 0 || isScheduled) return;
    isScheduled = true;
    setImmediate(() => {
      isScheduled = false;
      sendSome();
    });
  };

  const changed = (name: string): void => {
    for (const watcher of watchers.get(name) ?? []) outdated.add(watcher);
    sendSome();
  };

  const set = (name: string, to: ServingStatus): void => {
    if (isLeaving || statuses.get(name) === to) return;
    statuses.set(name, to);
    changed(name);
  };

  const check = (request: ControlRequest): object => {
    const name = text(request, 'service');
    const found = statuses.get(name);
    if (found !== undefined) return { status: found };
    const names = [...statuses.keys()].map((known) => `"${known}"`).join(', ');
    throw new Refusal(status.NOT_FOUND, `service: expected one of ${names}, got "${name}"`, 'SERVICE_NOT_FOUND');
  };

  const list = (): object => ({
    statuses: [...statuses].map(([key, current]) => ({ key, value: { status: current } })),
  });

  const watch = (call: ServerWritableStream<ControlRequest, object>): void => {
    const name = text(call.request, 'service');
    if (isLeaving) return refuse(call, status.UNAVAILABLE, leavingDetails);
    if (name.length > watchedNameMaxLength) {
      const details = `service: expected at most ${watchedNameMaxLength} characters, got ${name.length}`;
      return refuse(call, status.INVALID_ARGUMENT, details);
    }
    const watcher: Watcher = { name, call, sent: '', isSending: false, isOver: false };
    const end = (): void => {
      watcher.isOver = true;
      outdated.delete(watcher);
      const others = watchers.get(name);
      if (others?.delete(watcher) && others.size === 0) watchers.delete(name);
    };
    // grpc-js emits `cancelled` at the end of every call.
    call.on('cancelled', end);
    if (call.cancelled) return;
    const others = watchers.get(name) ?? new Set();
    watchers.set(name, others.add(watcher));
    send(watcher);
  };

  return {
    service: { Check: reading(check, refusalStatus), List: reading(list, refusalStatus), Watch: watch },
    set,
    remove: (name) => {
      if (!isLeaving && statuses.delete(name)) changed(name);
    },
    leave: () => {
      if (isLeaving) return;
      for (const name of statuses.keys()) statuses.set(name, 'NOT_SERVING');
      isLeaving = true;
      for (const watcher of [...watchers.values()].flatMap((those) => [...those])) {
        send(watcher);
        watcher.isOver = true;
        refuse(watcher.call, status.UNAVAILABLE, leavingDetails);
      }
    },
  };
}

const leavingDetails = 'the agent is shutting down; retry with its successor';

function refuse(call: ServerWritableStream<ControlRequest, object>, code: status, details: string): void {
  call.emit('error', failedStatus(code, details, code === status.UNAVAILABLE ? 'AGENT_STOPPING' : reasonOfCode(code)));
}
