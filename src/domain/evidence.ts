import type { ExitRecord } from './action.ts';

/** What a hung process was doing before it was killed, or a crashed one when it crashed. */
export interface ProcessEvidence {
  /** State letter of its main process, as in proc_pid_stat(5); empty if unknown, as after a crash. */
  readonly state: string;
  /** One `TID NAME STATE WCHAN` per thread. WCHAN is the kernel function it sleeps in, 0 if none or unknown. */
  readonly threads: readonly string[];
  /** Python stacks of its threads by faulthandler (os/process/stacks.ts). If empty, `stacksMissing` says why. */
  readonly stacks: string;
  readonly stacksMissing: string;
}

/** One request that a worker had. */
export interface RequestNote {
  readonly command: string;
  readonly requestId: string;
  /** Time since it was sent. */
  readonly ageMs: number;
  /** Its worker was told to end it, because its caller left or its deadline passed. */
  readonly cancelled: boolean;
  /** The last progress that its command reported; null if none. */
  readonly progress: ReportedProgress | null;
}

export interface ReportedProgress {
  /** 0 to 1; negative if unknown. */
  readonly fraction: number;
  readonly message: string;
}

export interface Evidence extends ProcessEvidence {
  /** Monotonic time. */
  readonly takenAtMs: number;
  /** Why the worker was killed, or that it crashed. */
  readonly because: string;
  /** Its requests, oldest first. */
  readonly requests: readonly RequestNote[];
  readonly lastLines: readonly string[];
}

/** Resources that all processes of a worker's cgroup have used, including dead ones. */
export interface Account {
  /** From cpu.stat, which needs no controller. */
  readonly userMs: number;
  readonly systemMs: number;
  /** Processes that the kernel killed for lack of memory, and peak memory; 0 without a memory controller. */
  readonly oomKills: number;
  readonly peakBytes: number;
}

/** How a worker ended, and what it was doing if it hung or crashed. */
export interface KeptExit extends ExitRecord {
  /** Resource usage of its whole process tree until the end; null if it had no cgroup. */
  readonly account: Account | null;
  readonly evidence: Evidence | null;
}
