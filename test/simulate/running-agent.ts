import type { Dispatch } from '../../src/dispatch/dispatch.ts';
import type { Request, RequestSpec, ResponseSink } from '../../src/dispatch/request.ts';
import type { Event } from '../../src/domain/event.ts';
import type { State } from '../../src/domain/state.ts';
import type { Workers } from '../../src/workers/workers.ts';
import type { SimulatedLedger } from './ledger.ts';

/** Whether dispatch has a worker, and may give it requests. */
export interface Serving {
  paused: boolean;
  leaving: boolean;
  readonly sinceMs: number;
}

/** A simulated agent as its workers, its callers and the checks see it. */
export interface RunningAgent {
  /** The first agent of a host is number 1. */
  readonly number: number;
  readonly startedAtMs: number;
  readonly state: State;
  readonly dispatch: Dispatch;
  readonly workers: Workers;
  readonly ledger: SimulatedLedger;
  /** Workers that dispatch has. */
  readonly serving: ReadonlyMap<string, Serving>;
  readonly isDead: boolean;
  /** Undefined: the request was refused at once. */
  submit(spec: RequestSpec, sink: ResponseSink): Request | undefined;
  enqueue(event: Event): void;
  enqueueDeferred(event: Event): void;
  /** Does the work after that time, unless the agent is dead by then. */
  later(ms: number, work: () => void): void;
}
