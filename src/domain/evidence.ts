import type { ExitRecord } from './action.ts';

/** What a stuck process is seen to do before it is killed. */
export interface ProcessEvidence {
  /** Of its main process, as in proc_pid_stat(5); empty: unknown. */
  readonly state: string;
  /** Each of its threads, as `TID NAME STATE WCHAN`: the kernel function it sleeps in, 0 for none or unknown. */
  readonly threads: readonly string[];
  /** Python stacks of all threads by faulthandler; empty: why there are none is in `stacksMissing`. */
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
}

export interface Evidence extends ProcessEvidence {
  /** Monotonic. */
  readonly takenAtMs: number;
  /** The verdict. */
  readonly because: string;
  /** What it had, oldest first. */
  readonly requests: readonly RequestNote[];
  readonly lastLines: readonly string[];
}

/** How a worker ended, with what was seen of it if it was stuck. */
export interface KeptExit extends ExitRecord {
  readonly evidence: Evidence | null;
}
