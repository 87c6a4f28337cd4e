import type { PoolConfig } from './config.ts';
import type { Reason } from './reason.ts';
import type { Exit } from './state.ts';

/** Everything the loop can ask of the rest of the agent. What comes of it comes back as an event. */
export type Action =
  | { readonly type: 'spawn'; readonly workerId: string; readonly pool: PoolConfig; readonly slot: number }
  /** Let dispatch send it requests, from now on, up to `maxRequests` (0: no limit) before it says budget-spent. */
  | { readonly type: 'admit'; readonly workerId: string; readonly pool: string; readonly maxRequests: number }
  | { readonly type: 'pause'; readonly workerId: string }
  | { readonly type: 'resume'; readonly workerId: string }
  | { readonly type: 'ping'; readonly workerId: string; readonly sequence: number }
  /** Measure its tree; PSS, which is dear, only when RSS is at least `pssAboveBytes`. */
  | { readonly type: 'sample'; readonly workerId: string; readonly pssAboveBytes: number }
  | { readonly type: 'send-drain'; readonly workerId: string }
  | { readonly type: 'send-stop'; readonly workerId: string; readonly graceMs: number }
  /** SIGTERM to the worker's process group. */
  | { readonly type: 'terminate'; readonly workerId: string }
  /** SIGKILL to the group, and to whatever of its tree left the group. */
  | { readonly type: 'kill'; readonly workerId: string }
  /** The process has exited: kill what is left of its tree, and say gone. */
  | { readonly type: 'sweep'; readonly workerId: string }
  /** The process has exited: end or move its requests. */
  | {
      readonly type: 'release';
      readonly workerId: string;
      readonly reason: Reason;
      readonly message: string;
      /** Nobody planned it. */
      readonly crashed: boolean;
    }
  | { readonly type: 'forget'; readonly workerId: string }
  | { readonly type: 'set-pool'; readonly pool: PoolConfig }
  /** Takes new requests or refuses them, and with `refuseQueued` those that wait too. */
  | {
      readonly type: 'gate';
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
  /** Every worker is gone after a shutdown: the agent may end. */
  | { readonly type: 'finish' };

export const recordKinds = [
  'worker_started',
  'worker_ready',
  'worker_due',
  'worker_draining',
  'worker_stopping',
  'worker_killed',
  'worker_exited',
  'worker_gone',
  'worker_health',
  'slot_backing_off',
  'request_poisoned',
  'pool_added',
  'pool_changed',
  'pool_removed',
  'pool_scaled',
  'pool_draining',
  'pool_resumed',
  'node_draining',
  'node_resumed',
  'node_stopping',
  'config_refused',
] as const;

export type RecordKind = (typeof recordKinds)[number];

/** One thing that happened: a log line, an event of Watch, and what metrics count. */
export interface NodeRecord {
  readonly kind: RecordKind;
  readonly atMs: number;
  readonly pool?: string;
  readonly workerId?: string;
  readonly reason?: Reason;
  readonly message: string;
  readonly exit?: Exit;
  /** Something that nobody planned or asked for. */
  readonly unplanned?: boolean;
}

/** What one step changed that a watcher can see. */
export interface Changes {
  readonly revision: number;
  readonly workers: readonly string[];
  readonly workersGone: readonly { readonly id: string; readonly pool: string }[];
  readonly pools: readonly string[];
  readonly poolsGone: readonly string[];
  readonly node: boolean;
}
