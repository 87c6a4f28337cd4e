import type { PoolConfig } from './config.ts';
import type { Orders } from './event.ts';
import type { Reason } from './reason.ts';
import type { Exit, StartTimes, WorkerSpec } from './state.ts';

/** Everything that the loop can ask of the rest of the agent. The outcome comes back as an event. */
export type Action =
  | { readonly type: 'spawn'; readonly pool: PoolConfig; readonly worker: WorkerSpec }
  /** The worker is ready: record that in the ledger. */
  | { readonly type: 'note-ready'; readonly workerId: string; readonly readyAtMs: number }
  /** The orders have changed: record them for the next agent. */
  | { readonly type: 'note-orders'; readonly orders: Orders }
  /** Run a command on the worker before it is admitted; the payload is JSON. The result comes back as `warmed`. */
  | { readonly type: 'warm-up'; readonly workerId: string; readonly command: string; readonly payload: string }
  /** Read how much memory the host has available. */
  | { readonly type: 'sample-host' }
  /** Let dispatch send the worker requests, up to `maxRequests` (0: no limit) before it reports budget-spent. */
  | {
      readonly type: 'admit';
      readonly workerId: string;
      readonly pool: string;
      readonly maxRequests: number;
      /** True if the worker is draining: it gets no requests yet. */
      readonly paused: boolean;
    }
  | { readonly type: 'pause'; readonly workerId: string }
  | { readonly type: 'resume'; readonly workerId: string }
  | { readonly type: 'ping'; readonly workerId: string; readonly sequence: number }
  /**
   * Measure the worker's process tree. PSS is expensive and only read if RSS is at least `pssAboveBytes` or below
   * `pssBelowBytes`. `watched`: measure its threads too, because a ping is overdue.
   */
  | {
      readonly type: 'sample';
      readonly workerId: string;
      readonly pssAboveBytes: number;
      readonly pssBelowBytes: number;
      readonly watched: boolean;
    }
  | { readonly type: 'send-drain'; readonly workerId: string }
  | { readonly type: 'send-stop'; readonly workerId: string; readonly graceMs: number }
  /** Send SIGTERM to the worker's process group. */
  | { readonly type: 'terminate'; readonly workerId: string }
  /** Record what the worker is doing: it will be killed if it does not exit very soon. */
  | { readonly type: 'inspect'; readonly workerId: string; readonly because: string }
  /** Send SIGKILL to the group and to every process of its tree that left the group. */
  | {
      readonly type: 'kill';
      readonly workerId: string;
      /**
       * Why the worker seems stuck: record what it is doing before the kill. Empty: kill without an inspection, which
       * is not needed or was done already.
       */
      readonly inspectBecause: string;
    }
  /** The process has exited: kill the rest of its tree, then report `gone`. */
  | { readonly type: 'sweep'; readonly workerId: string }
  /** The process has exited: end its requests or move them to other workers. */
  | {
      readonly type: 'release';
      readonly workerId: string;
      readonly reason: Reason;
      readonly message: string;
      /** True if the end was not planned. */
      readonly crashed: boolean;
    }
  /** Keep the record of how a worker ended. */
  | { readonly type: 'keep-exit'; readonly exit: ExitRecord }
  | { readonly type: 'forget'; readonly workerId: string }
  | { readonly type: 'set-pool'; readonly pool: PoolConfig }
  /** Accept new requests for a pool or refuse them; with `refuseQueued` also refuse those in its queue. */
  | {
      readonly type: 'set-admission';
      readonly pool: string;
      readonly open: boolean;
      readonly why: string;
      readonly refuseQueued: boolean;
    }
  | { readonly type: 'remove-pool'; readonly pool: string }
  | { readonly type: 'missed-pings'; readonly pool: string; readonly count: number }
  | { readonly type: 'round-trip'; readonly pool: string; readonly ms: number }
  | { readonly type: 'record'; readonly record: NodeRecord }
  | { readonly type: 'publish'; readonly changes: Changes }
  /** All workers are gone after a shutdown: the agent may exit. */
  | { readonly type: 'finish' };

export const recordKinds = [
  'worker_started',
  'worker_ready',
  'worker_adopted',
  'worker_attached',
  'worker_due',
  'worker_draining',
  'worker_stopping',
  'worker_killed',
  'worker_exited',
  'worker_gone',
  'worker_health',
  'slot_backing_off',
  'request_poisoned',
  'link_refused',
  'pool_added',
  'pool_changed',
  'pool_removed',
  'pool_scaled',
  'pool_draining',
  'pool_resumed',
  'pool_quarantined',
  'roll_started',
  'roll_paused',
  'roll_resumed',
  'roll_ended',
  'host_memory_low',
  'node_draining',
  'node_resumed',
  'node_stopping',
  'intent_applied',
  'intent_released',
  'intent_forced',
  'intent_lost',
  'config_refused',
  'restart_needed',
  'starts_blocked',
  'starts_resumed',
  'tls_reloaded',
  'tls_refused',
  'tls_expiring',
  'events_dropped',
] as const;

export type RecordKind = (typeof recordKinds)[number];

/** Something that happened: a log line, an event of Watch, and what metrics count. */
export interface NodeRecord {
  readonly kind: RecordKind;
  readonly atMs: number;
  readonly pool?: string;
  readonly workerId?: string;
  readonly reason?: Reason;
  readonly message: string;
  readonly exit?: Exit;
  /** True if nobody planned or requested it. */
  readonly unplanned?: boolean;
}

/** How a worker ended, and its state at that time. */
export interface ExitRecord {
  readonly workerId: string;
  readonly pool: string;
  readonly slot: number;
  readonly generation: number;
  /** 0 if it was never spawned. */
  readonly pid: number;
  readonly reason: Reason;
  readonly exit: Exit;
  /** How it ended; after an unplanned end also the last lines of its output. */
  readonly message: string;
  readonly unplanned: boolean;
  readonly startedAtMs: number;
  /** 0 if it never happened; the same holds for `readyAtMs`. */
  readonly spawnedAtMs: number;
  readonly readyAtMs: number;
  readonly exitedAtMs: number;
  /** Requests in flight when it ended, and those that had ended before. */
  readonly inFlight: number;
  readonly completed: number;
  readonly failed: number;
  /** Memory of its process tree at the last sample; 0 if there was none. */
  readonly memoryBytes: number;
  readonly cpuMs: number;
  /** Null if it never said hello. */
  readonly start: StartTimes | null;
}

/** The changes of a step that watchers can see. */
export interface Changes {
  readonly revision: number;
  readonly workers: readonly string[];
  readonly workersGone: readonly { readonly id: string; readonly pool: string }[];
  readonly pools: readonly string[];
  readonly poolsGone: readonly string[];
  readonly node: boolean;
}
