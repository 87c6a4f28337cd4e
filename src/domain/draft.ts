import type { Action, NodeRecord } from './action.ts';
import { DomainError } from './error.ts';
import type { Facts } from './event.ts';
import { slotsBackingOff } from './policies/restart.ts';
import type { NodeStatus, Phase, Pool, State, Worker } from './state.ts';
import { transitions } from './state.ts';

/** The next state while a step builds it: the maps are copies, and their values are never changed in place. */
export interface Draft {
  node: NodeStatus;
  readonly pools: Map<string, Pool>;
  readonly workers: Map<string, Worker>;
  readonly actions: Action[];
  readonly facts: Facts;
  readonly changed: {
    readonly workers: Set<string>;
    readonly workersGone: Map<string, string>;
    readonly pools: Set<string>;
    readonly poolsGone: Set<string>;
  };
}

export function draftOf(state: State, facts: Facts): Draft {
  return {
    node: state.node,
    pools: new Map(state.pools),
    workers: new Map(state.workers),
    actions: [],
    facts,
    changed: {
      workers: new Set(),
      workersGone: new Map(),
      pools: new Set(),
      poolsGone: new Set(),
    },
  };
}

/** Replaces a worker, and records whether watchers can see the change. */
export function putWorker(draft: Draft, worker: Worker, patch: Partial<Worker>): Worker {
  const next = { ...worker, ...patch };
  if (next.phase !== worker.phase) refuseIllegal(worker, next.phase);
  draft.workers.set(next.id, next);
  if (
    next.phase !== worker.phase ||
    next.health !== worker.health ||
    next.due !== worker.due ||
    next.ending !== worker.ending ||
    next.pid !== worker.pid ||
    next.attached !== worker.attached ||
    next.hello !== worker.hello
  ) {
    draft.changed.workers.add(next.id);
    draft.changed.pools.add(next.pool);
  }
  return next;
}

function refuseIllegal(worker: Worker, to: Phase): void {
  if (transitions[worker.phase].includes(to)) return;
  throw new DomainError(
    `worker ${worker.id}: expected one of ${transitions[worker.phase].join(', ')} after ${worker.phase}, got ${to}`,
  );
}

export function putPool(draft: Draft, pool: Pool, patch: Partial<Pool>): Pool {
  const next = { ...pool, ...patch };
  draft.pools.set(next.name, next);
  if (
    next.size !== pool.size ||
    next.phase !== pool.phase ||
    next.lastFailure !== pool.lastFailure ||
    next.quarantine !== pool.quarantine ||
    next.roll !== pool.roll ||
    (next.slots !== pool.slots && slotsBackingOff(next) !== slotsBackingOff(pool)) ||
    next.config !== pool.config
  ) {
    draft.changed.pools.add(next.name);
  }
  return next;
}

/** Whether watchers can see the change is decided at the end of the step. */
export function putNode(draft: Draft, patch: Partial<NodeStatus>): void {
  draft.node = { ...draft.node, ...patch };
}

export function record(draft: Draft, entry: Omit<NodeRecord, 'atMs'>): void {
  draft.actions.push({ type: 'record', record: { atMs: draft.facts.nowMs, ...entry } });
}

export function workersOf({ workers }: Pick<State, 'workers'>, pool: string): Worker[] {
  const found: Worker[] = [];
  for (const worker of workers.values()) if (worker.pool === pool) found.push(worker);
  return found;
}
