import type { PoolConfig } from './config.ts';
import type { Orders } from './event.ts';
import type { Reason } from './reason.ts';
import type { Exit, StartTimes, WorkerSpec } from './state.ts';

/** Everything the loop can ask of the rest of the agent. What comes of it comes back as an event. */
export type Action =
  | { readonly type: 'spawn'; readonly pool: PoolConfig; readonly worker: WorkerSpec }
  /** It is ready: the ledger should know. */
  | { readonly type: 'note-ready'; readonly workerId: string; readonly readyAtMs: number }
  /** Orders have changed that the next agent should know. */
  | { readonly type: 'note-orders'; readonly orders: Orders }
  /** Run this on it before it is admitted; JSON arguments. Comes back as `warmed`. */
  | { readonly type: 'warm-up'; readonly workerId: string; readonly command: string; readonly payload: string }
  /** Look how much memory the host has available. */
  | { readonly type: 'sample-host' }
  /** Let dispatch send it requests, from now on, up to `maxRequests` (0: no limit) before it says budget-spent. */
  | {
      readonly type: 'admit';
      readonly workerId: string;
      readonly pool: string;
      readonly maxRequests: number;
      /** Not now: it drains. */
      readonly paused: boolean;
    }
  | { readonly type: 'pause'; readonly workerId: string }
  | { readonly type: 'resume'; readonly workerId: string }
  | { readonly type: 'ping'; readonly workerId: string; readonly sequence: number }
  /** Measure its tree; PSS, which is dear, only when RSS is at least `pssAboveBytes`, or less than `pssBelowBytes`. */
  | {
      readonly type: 'sample';
      readonly workerId: string;
      readonly pssAboveBytes: number;
      readonly pssBelowBytes: number;
    }
  | { readonly type: 'send-drain'; readonly workerId: string }
  | { readonly type: 'send-stop'; readonly workerId: string; readonly graceMs: number }
  /** SIGTERM to the worker's process group. */
  | { readonly type: 'terminate'; readonly workerId: string }
  /** Note what it is doing: it will be killed if it does not go in the next moment. */
  | { readonly type: 'inspect'; readonly workerId: string; readonly because: string }
  /** SIGKILL to the group, and to whatever of its tree left the group. */
  | {
      readonly type: 'kill';
      readonly workerId: string;
      /** Why it is thought to be stuck: note what it is doing before it is killed. Empty: no need, or that is done. */
      readonly stuck: string;
    }
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
  /** How a worker ended, to be kept. */
  | { readonly type: 'keep-exit'; readonly exit: ExitRecord }
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
  'config_refused',
  'restart_needed',
  'starts_blocked',
  'starts_resumed',
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

/** How one worker ended, and what it was when it did. */
export interface ExitRecord {
  readonly workerId: string;
  readonly pool: string;
  readonly slot: number;
  readonly generation: number;
  /** 0: it was never spawned. */
  readonly pid: number;
  readonly reason: Reason;
  readonly exit: Exit;
  /** How it ended, and where nobody planned that the last lines that it wrote. */
  readonly message: string;
  readonly unplanned: boolean;
  readonly startedAtMs: number;
  /** 0: it never was; so too the next one. */
  readonly spawnedAtMs: number;
  readonly readyAtMs: number;
  readonly exitedAtMs: number;
  /** Requests that it had when it ended, and those it had ended before. */
  readonly inFlight: number;
  readonly completed: number;
  readonly failed: number;
  /** Of its process tree, when it was last measured; 0: never. */
  readonly memoryBytes: number;
  readonly cpuMs: number;
  /** Null: it never said hello. */
  readonly start: StartTimes | null;
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
