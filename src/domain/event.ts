import type { NodeConfig } from './config.ts';
import type { Exit, Hello, Leftover, PongTold, Roll, WorkerSpec } from './state.ts';

/** Every fact and every wish that the loop can be told. Facts may come in any order, late, or twice. */
export type Event =
  /** `restartNeeded`: keys that changed too, and take effect with the agent's next start. */
  | { readonly type: 'config'; readonly config: NodeConfig; readonly restartNeeded?: readonly string[] }
  | { readonly type: 'config-refused'; readonly message: string }
  /** Live workers that an earlier agent started, of pools that the config has, and what is left of others. */
  | { readonly type: 'adopt'; readonly workers: readonly Adopted[]; readonly leftovers: readonly Leftover[] }
  /** Nothing is left of this worker of an earlier agent, or nothing more can be done about it. */
  | { readonly type: 'leftover-swept'; readonly workerId: string }
  /** What an earlier agent was told, and the config does not say. */
  | { readonly type: 'recall-orders'; readonly orders: Orders }
  /** It was not started: it could not be entered in the ledger, or the host has no room for a process now. */
  | { readonly type: 'start-blocked'; readonly workerId: string; readonly message: string }
  | { readonly type: 'spawned'; readonly workerId: string; readonly pid: number }
  | { readonly type: 'spawn-failed'; readonly workerId: string; readonly message: string }
  | { readonly type: 'attached'; readonly workerId: string; readonly hello: Hello }
  /** What it was told to run before it is ready has ended; empty: well. */
  | { readonly type: 'warmed'; readonly workerId: string; readonly error: string }
  | { readonly type: 'link-closed'; readonly workerId: string }
  /** It takes no requests any more and goes by itself. `asked`: in the words of its application, why; empty: a SIGTERM. */
  | { readonly type: 'leaving'; readonly workerId: string; readonly asked: string }
  | {
      readonly type: 'pong';
      readonly workerId: string;
      readonly sequence: number;
      readonly atMs: number;
      readonly told: PongTold;
    }
  | { readonly type: 'sampled'; readonly workerId: string; readonly sample: Sample }
  | { readonly type: 'host-sampled'; readonly availableBytes: number }
  | { readonly type: 'idle'; readonly workerId: string }
  | { readonly type: 'budget-spent'; readonly workerId: string }
  /** It was told to end a request whose deadline had passed, and did not in time. */
  | { readonly type: 'overdue'; readonly workerId: string; readonly message: string }
  | { readonly type: 'poisoned'; readonly pool: string; readonly message: string }
  /** Somebody dialled in and was refused; without a worker: as none that this agent knows. */
  | {
      readonly type: 'link-refused';
      readonly worker: { readonly id: string; readonly pool: string } | null;
      readonly message: string;
    }
  | {
      readonly type: 'exited';
      readonly workerId: string;
      readonly exit: Exit;
      readonly lastLines: readonly string[];
      /** Where in its application's code it hung or crashed; empty or absent: unknown. */
      readonly place?: string;
    }
  | { readonly type: 'gone'; readonly workerId: string; readonly survivors: readonly number[] }
  | Command;

/** A worker as the ledger has it; times are monotonic ones of this agent, and may be negative. */
export interface Adopted extends WorkerSpec {
  readonly pid: number;
  readonly spawnedAtMs: number;
  /** 0: it never was. */
  readonly readyAtMs: number;
}

/** Orders of operators and the control plane that outlive the agent. */
export interface Orders {
  readonly nodeDraining: boolean;
  readonly pools: readonly PoolOrders[];
}

export interface PoolOrders {
  readonly pool: string;
  readonly draining: boolean;
  /** The size it was scaled to. */
  readonly size: number;
  /** The config's size at that time: once it asks for another one, the order is void. */
  readonly configSize: number;
  /** The pool's last roll, which may be open; null: there was none. */
  readonly roll: RollOrder | null;
}

/** A roll as the next agent learns of it. */
export interface RollOrder extends Omit<Roll, 'old'> {
  readonly old: readonly string[];
}

/** What an operator or the control plane asks for. */
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
  | { readonly type: 'shutdown'; readonly how: 'drain' | 'now' };

export interface Sample {
  readonly rssBytes: number;
  /** 0: the system does not tell, or it was not asked. */
  readonly pssBytes: number;
  /** The kernel's account of its cgroup; 0: there is none. */
  readonly cgroupBytes: number;
  readonly cpuMs: number;
  /** State letter of the worker's main process as in proc_pid_stat(5); empty: unknown. */
  readonly state: string;
}

/** What the domain reads but does not own. */
export interface Facts {
  /** Monotonic. */
  readonly nowMs: number;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  readonly counters: (workerId: string) => Counters | undefined;
  /** Requests waiting for a worker of this pool. */
  readonly queued: (pool: string) => number;
}

export interface Counters {
  readonly inFlight: number;
  /** Answers that it keeps for callers who lost their connection. */
  readonly kept: number;
  readonly completed: number;
  readonly failed: number;
  readonly lastEvidenceAtMs: number;
}
