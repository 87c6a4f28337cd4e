import type { ExitRecord } from './action.ts';

/** What a process that hangs is seen to do before it is killed, or what it did when it crashed. */
export interface ProcessEvidence {
  /** Of its main process, as in proc_pid_stat(5); empty: unknown, as after a crash. */
  readonly state: string;
  /** Each of its threads, as `TID NAME STATE WCHAN`: the kernel function it sleeps in, 0 for none or unknown. */
  readonly threads: readonly string[];
  /** Python stacks of threads by faulthandler (os/process/stacks.ts); empty: why there are none is in `stacksMissing`. */
  readonly stacks: string;
  readonly stacksMissing: string;
}

/** One request that a worker has. */
export interface RequestNote {
  readonly command: string;
  readonly requestId: string;
  /** Since it was sent. */
  readonly ageMs: number;
  /** Its caller has left, or its deadline passed: its worker was told. */
  readonly cancelled: boolean;
  /** What its command last reported; null: nothing. */
  readonly progress: ReportedProgress | null;
}

export interface ReportedProgress {
  /** 0 to 1; negative: unknown. */
  readonly fraction: number;
  readonly message: string;
}

export interface Evidence extends ProcessEvidence {
  /** Monotonic. */
  readonly takenAtMs: number;
  /** Why it was killed, or that it crashed. */
  readonly because: string;
  /** What it had, oldest first. */
  readonly requests: readonly RequestNote[];
  readonly lastLines: readonly string[];
}

/** What all processes of a worker's cgroup, dead ones too, have used. */
export interface Account {
  /** cpu.stat, which needs no controller. */
  readonly userMs: number;
  readonly systemMs: number;
  /** Processes that the kernel killed for want of memory, and the most held at once; 0 without a memory controller. */
  readonly oomKills: number;
  readonly peakBytes: number;
}

/** How a worker ended, with what it was doing if it hung or crashed. */
export interface KeptExit extends ExitRecord {
  /** Of its cgroup, where it had one: of the whole tree, to the end. */
  readonly account: Account | null;
  readonly evidence: Evidence | null;
}
