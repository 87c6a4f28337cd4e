import type { Dispatch } from '../dispatch/dispatch.ts';
import type { Event } from '../domain/event.ts';
import type { Cgroups } from '../os/cgroup/cgroup.ts';
import type { OutputDirectory } from '../os/output/output-directory.ts';
import type { Guardian } from '../os/process/guardian.ts';
import type { Ledger } from '../os/storage/ledger.ts';
import type { Log } from '../telemetry/log.ts';

/** The dependencies of the files in workers/. */
export interface WorkerParts {
  readonly agentId: string;
  readonly ledger: Ledger;
  readonly guardian: Guardian;
  readonly linkPath: string;
  /** The socket by which a Client in a worker finds this agent; empty if it has no path. */
  readonly apiSocket: string;
  readonly cgroups: Cgroups;
  readonly outputDirectory: OutputDirectory;
  /** The largest result: `message.max_bytes`. */
  readonly payloadMaxBytes: number;
  /** How many processes and threads all workers may have together; 0: no limit. */
  tasksOfAll(): number;
  readonly dispatch: Dispatch;
  readonly log: Log;
  sampleFailed(error: unknown): void;
  nowMs(): number;
  /** Reports an event to the loop. */
  enqueue(event: Event): void;
  /** Reports an event that may wait a little. */
  enqueueDeferred(event: Event): void;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
