import type { Affinity } from './affinity.ts';
import { createAffinity } from './affinity.ts';
import type { CommandStats } from './command-stats.ts';
import type { FreeWorkers } from './free-workers.ts';
import { createFreeWorkers } from './free-workers.ts';
import type { Poison, PoisonLimits } from './poison.ts';
import { createPoison } from './poison.ts';
import type { Queue, QueueLoad } from './queue.ts';
import { createQueue } from './queue.ts';
import type { ServiceRate } from './rate.ts';
import { createServiceRate } from './rate.ts';
import type { Request } from './request.ts';
import type { DispatchWorker } from './worker.ts';

/** One pool: its limits, its queues, and its workers by what they can take. */

export interface PoolLimits {
  readonly maxQueuedRequests: number;
  readonly maxQueuedBytes: number;
  readonly requestTimeoutMs: number;
  /** How often an idempotent request may be sent. */
  readonly maxAttempts: number;
  /** How long a worker may go on with a request whose deadline passed; 0: for ever. */
  readonly killAfterMs: number;
  readonly poison: PoisonLimits;
  /** Whether requests of one session go to one worker: where it has a place (`hint`), or as long as it lives (`strict`). */
  readonly affinity: 'off' | 'hint' | 'strict';
  /** How long a named request goes on without its caller, and its answer is kept. */
  readonly keepMs: number;
  /** How many such answers one worker keeps. */
  readonly keepMax: number;
}

export interface Pool {
  readonly name: string;
  limits: PoolLimits;
  open: boolean;
  closedBecause: string;
  /** Closed, and nobody will serve what waits. */
  refusesQueued: boolean;
  /** Of all queues together. */
  readonly load: QueueLoad;
  /** Those that any worker may take, and those not looked at yet. */
  readonly queue: Queue;
  /** Those that wait for one worker (strict affinity), or for any of those that offer their command, while others are free. */
  readonly parked: Map<DispatchWorker | string, Queue>;
  /** Named requests by id, from their arrival until their callers have the answers or nobody asks any more. */
  readonly byCallerId: Map<string, Request>;
  /** Ended without an answer that a worker keeps, and not told to anybody yet; oldest first. */
  readonly undeliveredFailures: Set<Request>;
  /** Named requests that one of `expected` may hold. */
  readonly waiting: Queue;
  /** Workers from before that have not dialled in. */
  readonly expected: Set<string>;
  /** Those with a place for a request that begins at once. */
  readonly free: FreeWorkers;
  /** Those without, that may be sent short requests ahead. */
  readonly prefetchable: FreeWorkers;
  readonly workers: Set<DispatchWorker>;
  /** Of each command that one of its workers offers. */
  readonly commands: Map<string, CommandStats>;
  capacity: number;
  inFlight: number;
  completed: number;
  failed: number;
  /** 0: nothing ran yet. */
  averageRunMs: number;
  readonly rate: ServiceRate;
  readonly poison: Poison;
  readonly affinity: Affinity;
}

export function newPool(name: string, limits: PoolLimits): Pool {
  const load: QueueLoad = { requests: 0, bytes: 0 };
  const pool: Pool = {
    name,
    limits,
    open: true,
    closedBecause: '',
    refusesQueued: false,
    load,
    queue: createQueue(load),
    parked: new Map(),
    byCallerId: new Map(),
    undeliveredFailures: new Set(),
    waiting: createQueue(load),
    expected: new Set(),
    free: createFreeWorkers(),
    prefetchable: createFreeWorkers(),
    workers: new Set(),
    commands: new Map(),
    capacity: 0,
    inFlight: 0,
    completed: 0,
    failed: 0,
    averageRunMs: 0,
    rate: createServiceRate(),
    poison: createPoison(() => pool.limits.poison),
    affinity: createAffinity(),
  };
  return pool;
}

export function queuesOf(pool: Pool): Queue[] {
  return [pool.queue, pool.waiting, ...pool.parked.values()];
}
