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
  /** How often an idempotent request may be sent to a worker. */
  readonly maxAttempts: number;
  /** How long a worker may go on with a request after its deadline; 0: without limit. */
  readonly killAfterMs: number;
  readonly poison: PoisonLimits;
  /** Whether requests of one session go to one worker: if it has a free place (`hint`), or as long as it lives (`strict`). */
  readonly affinity: 'off' | 'hint' | 'strict';
  /** How long a request with a caller's id goes on without a caller, and how long its answer is kept. */
  readonly keepMs: number;
  /** How many answers one worker keeps for callers who have left, and how many undelivered failures its pool keeps. */
  readonly keepMax: number;
}

export interface DispatchPool {
  readonly name: string;
  limits: PoolLimits;
  open: boolean;
  closedBecause: string;
  /** The pool is closed, and requests that wait are refused too. */
  refusesQueued: boolean;
  /** The load of all queues together. */
  readonly load: QueueLoad;
  /** Requests that any worker may take, and requests that were not examined yet. */
  readonly queue: Queue<Request>;
  /** Requests that wait, while other workers are free, for one worker (strict affinity) or one that offers their command. */
  readonly parked: Map<DispatchWorker | string, Queue<Request>>;
  /** Requests whose callers gave them an id, from their arrival until they are acknowledged or forgotten. */
  readonly byCallerId: Map<string, Request>;
  /** Requests that ended with an error which no worker keeps and no caller has received; oldest first. */
  readonly undeliveredFailures: Set<Request>;
  /** Requests that one of the `expected` workers may hold. */
  readonly waiting: Queue<Request>;
  /** Workers of an earlier agent that have not dialled in yet. */
  readonly expected: Set<string>;
  /** Workers that can begin another request at once. */
  readonly free: FreeWorkers;
  /** Workers that run as many requests as they may, and can be sent short requests ahead. */
  readonly prefetchable: FreeWorkers;
  readonly workers: Set<DispatchWorker>;
  /** Statistics of each command that a worker of the pool offers. */
  readonly commands: Map<string, CommandStats>;
  capacity: number;
  inFlight: number;
  completed: number;
  failed: number;
  /** The last proof of progress of workers that have ended; 0: none. */
  lastEvidenceAtMs: number;
  /** 0: no request has run yet. */
  averageRunMs: number;
  readonly rate: ServiceRate;
  readonly poison: Poison;
  readonly affinity: Affinity;
}

export function newPool(name: string, limits: PoolLimits): DispatchPool {
  const load: QueueLoad = { requests: 0, bytes: 0 };
  const pool: DispatchPool = {
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
    lastEvidenceAtMs: 0,
    averageRunMs: 0,
    rate: createServiceRate(),
    poison: createPoison(() => pool.limits.poison),
    affinity: createAffinity(),
  };
  return pool;
}

export function queuesOf(pool: DispatchPool): Queue<Request>[] {
  return [pool.queue, pool.waiting, ...pool.parked.values()];
}
