import type { NodeConfig } from './config.ts';
import type { Exit, Hello, Intent, Leftover, PongReport, Roll, WorkerSpec } from './state.ts';

/** Every fact and every command that the loop can receive. Facts may arrive in any order, late, or twice. */
export type Event =
  /** `restartNeeded`: keys that changed as well, but take effect only at the agent's next start. */
  | { readonly type: 'config'; readonly config: NodeConfig; readonly restartNeeded?: readonly string[] }
  | { readonly type: 'config-refused'; readonly message: string }
  /** Live workers that an earlier agent started, in pools of the config, and the leftovers of other workers. */
  | { readonly type: 'adopt'; readonly workers: readonly Adopted[]; readonly leftovers: readonly Leftover[] }
  /** Nothing is left of this earlier worker, or nothing more can be done about it. */
  | { readonly type: 'leftover-swept'; readonly workerId: string }
  /** Orders given to an earlier agent that the config does not contain. */
  | { readonly type: 'recall-orders'; readonly orders: Orders }
  /** The intent that an earlier agent has stored, and its orders, which may be newer. After `recall-orders`. */
  | { readonly type: 'recall-intent'; readonly intent: Intent; readonly orders: Orders | null }
  /** The stored intent could not be read. */
  | { readonly type: 'intent-lost'; readonly message: string }
  /** The worker was not started, because it could not be entered in the ledger or the host lacks a resource. */
  | { readonly type: 'start-blocked'; readonly workerId: string; readonly message: string }
  | { readonly type: 'spawned'; readonly workerId: string; readonly pid: number }
  | { readonly type: 'spawn-failed'; readonly workerId: string; readonly message: string }
  | { readonly type: 'attached'; readonly workerId: string; readonly hello: Hello }
  /** The warm-up has ended; `error` is empty if it succeeded. */
  | { readonly type: 'warmed'; readonly workerId: string; readonly error: string }
  | { readonly type: 'link-closed'; readonly workerId: string }
  /**
   * The worker takes no more requests and will exit by itself. `leavingReason`: why its application asked for that; empty if it
   * received a SIGTERM.
   */
  | { readonly type: 'leaving'; readonly workerId: string; readonly leavingReason: string }
  | {
      readonly type: 'pong';
      readonly workerId: string;
      readonly sequence: number;
      readonly atMs: number;
      readonly reported: PongReport;
    }
  | { readonly type: 'sampled'; readonly workerId: string; readonly sample: Sample }
  | { readonly type: 'host-sampled'; readonly availableBytes: number }
  | { readonly type: 'idle'; readonly workerId: string }
  | { readonly type: 'budget-spent'; readonly workerId: string }
  /** The worker was told to end a request whose deadline had passed, and did not end it in time. */
  | { readonly type: 'overdue'; readonly workerId: string; readonly message: string }
  | { readonly type: 'poisoned'; readonly pool: string; readonly message: string }
  /** A process dialled in and was refused. `worker` is null if this agent knows no such worker. */
  | {
      readonly type: 'link-refused';
      readonly worker: { readonly id: string; readonly pool: string } | null;
      readonly message: string;
    }
  /** Something about the files of `tls`. */
  | { readonly type: 'tls'; readonly record: TlsRecord }
  | {
      readonly type: 'exited';
      readonly workerId: string;
      readonly exit: Exit;
      readonly lastLines: readonly string[];
      /** Where its application's code hung or crashed; empty or absent if unknown. */
      readonly place?: string;
    }
  | { readonly type: 'gone'; readonly workerId: string; readonly survivors: readonly number[] }
  | Command;

/** An event about the files of `tls`: what happened, in one sentence. */
export interface TlsRecord {
  readonly kind: 'tls_reloaded' | 'tls_refused' | 'tls_expiring';
  readonly message: string;
}

/** A worker as the ledger has it. Times are on this agent's monotonic clock and may be negative. */
export interface Adopted extends WorkerSpec {
  readonly pid: number;
  readonly spawnedAtMs: number;
  /** 0 if it never was ready. */
  readonly readyAtMs: number;
}

/** Orders of operators and the control plane, which outlive the agent. */
export interface Orders {
  readonly nodeDraining: boolean;
  /** The stamp of the intent that was in force, whose pools are then all listed; absent: none. */
  readonly intent?: string | undefined;
  readonly pools: readonly PoolOrders[];
}

export interface PoolOrders {
  readonly pool: string;
  readonly draining: boolean;
  /** The size that the pool was scaled to. */
  readonly size: number;
  /** The config's size at that time. Once the config asks for another size, the order is void. */
  readonly configSize: number;
  /** The pool's last roll, which may still be open; null if there was none. */
  readonly roll: RollOrder | null;
}

/** A roll as it is handed to the next agent. */
export interface RollOrder extends Omit<Roll, 'old'> {
  readonly old: readonly string[];
}

/** A command of an operator or the control plane. */
export type Command =
  | { readonly type: 'scale'; readonly pool: string; readonly size: number }
  | { readonly type: 'stop-worker'; readonly workerId: string; readonly replace: boolean }
  | { readonly type: 'drain-worker'; readonly workerId: string }
  | { readonly type: 'recycle-worker'; readonly workerId: string }
  | { readonly type: 'roll'; readonly pool: string; readonly maxFailures: number }
  | { readonly type: 'pause-roll'; readonly pool: string }
  | { readonly type: 'resume-roll'; readonly pool: string }
  | { readonly type: 'abort-roll'; readonly pool: string }
  | { readonly type: 'drain-pool'; readonly pool: string }
  | { readonly type: 'resume-pool'; readonly pool: string }
  | { readonly type: 'drain-node' }
  | { readonly type: 'resume-node' }
  /** The intent has been judged and stored. */
  | { readonly type: 'set-intent'; readonly intent: Intent }
  | { readonly type: 'release-intent'; readonly by: string }
  /** A managed node was changed by force. Empty `pool`: the node itself. */
  | { readonly type: 'note-forced'; readonly pool: string; readonly message: string }
  | { readonly type: 'shutdown'; readonly how: 'drain' | 'now' };

export interface Sample {
  readonly rssBytes: number;
  /** 0 if unknown or not requested. */
  readonly pssBytes: number;
  /** Memory of its cgroup as the kernel accounts it; 0 if there is none. */
  readonly cgroupBytes: number;
  readonly cpuMs: number;
  /**
   * Share of a core that the busiest thread of its tree used since the last watched sample, less the CPU time of its wakes; absent:
   * not known.
   */
  readonly busiestThread?: number;
  /** State letter of the worker's main process as in proc_pid_stat(5); empty if unknown. */
  readonly state: string;
}

/** Values that the domain reads but does not own. */
export interface Facts {
  /** Monotonic time. */
  readonly nowMs: number;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  readonly counters: (workerId: string) => Counters | undefined;
  /** Number of requests that wait for a worker of this pool. */
  readonly queued: (pool: string) => number;
}

export interface Counters {
  readonly inFlight: number;
  /** Answers that the worker keeps until they are acknowledged. */
  readonly kept: number;
  readonly completed: number;
  readonly failed: number;
  readonly lastEvidenceAtMs: number;
}
