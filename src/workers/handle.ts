import { dirname, join } from 'node:path';
import type { WorkerCounters } from '../dispatch/counters.ts';
import { newCounters } from '../dispatch/counters.ts';
import type { Resumed } from '../dispatch/worker.ts';
import type { PoolConfig } from '../domain/config.ts';
import type { Account } from '../domain/evidence.ts';
import type { OfferedCommand } from '../domain/state.ts';
import type { ProvenLink, WorkerHello } from '../grpc/worker-link/source.ts';
import type { WorkerCgroup } from '../os/cgroup/cgroup.ts';
import type { BegunMark } from '../os/process/begun-mark.ts';
import type { ProcessIdentity } from '../os/process/identity.ts';
import type { SpawnedWorker } from '../os/process/spawn-worker.ts';
import type { ThreadTimes } from '../os/process/thread-times.ts';
import type { LedgerEntry } from '../os/storage/ledger.ts';
import type { InspectedWorker } from './evidence.ts';
import type { WorkerParts } from './parts.ts';

/** The process of a worker: a child of this agent, or an adopted process. */
export type WorkerProcess = Pick<SpawnedWorker, 'endedAtTicks' | 'lastLines' | 'close'> & {
  /** Call this when the link has closed: checks at once whether the process has ended. */
  look(): void;
};

/** Everything about one worker that is not a decision: its process, its link, its files. */
export interface WorkerHandle extends InspectedWorker {
  readonly workerId: string;
  /** The pool as it is configured now. */
  pool: PoolConfig;
  readonly counters: WorkerCounters;
  readonly begun: BegunMark;
  readonly cgroup: WorkerCgroup | undefined;
  /** The worker's entry in the ledger. Its verifier may be newer here: the ledger gets it with the next write. */
  entry: LedgerEntry;
  /** An earlier agent started the worker. */
  readonly adopted: boolean;
  process: WorkerProcess | null;
  identity: ProcessIdentity | null;
  link: ProvenLink | null;
  hello: WorkerHello | null;
  /** The commands of the hello, as reported to the domain. */
  offered: readonly OfferedCommand[];
  /** The ledger has the worker's identity. Before that, nothing about the worker is reported. */
  recorded: boolean;
  /** Settles when the ledger has the worker as ready, or cannot be written. Until then the worker gets no requests. */
  readyNoted: Promise<void>;
  /** Whether the domain wants the worker paused. Dispatch may not know the worker yet. */
  paused: boolean;
  released: boolean;
  /** What the worker had when it said its last hello, updated until dispatch is given the worker; null: the worker was new. */
  resumed: Resumed | null;
  /** When the last hello came. */
  helloAtMs: number;
  /** Dispatch has the worker with its present link. */
  admitted: boolean;
  /** Its warm-up is running. */
  warming: boolean;
  /** It said that it takes no more requests. */
  leaving: boolean;
  /** `tasks` of link.proto, as last sent. */
  tasksSent: number;
  /** Resource usage of the cgroup when the process had ended. */
  account: Account | null;
  /** Processes of its tree at the last sample: start times by pid. */
  known: ReadonlyMap<number, string>;
  /** Run times of its threads at the last sample, and when they were read; null: they were not. */
  threads: { readonly atMs: number; readonly times: ThreadTimes } | null;
}

export type WorkerHandles = ReadonlyMap<string, WorkerHandle>;

export function newHandle(
  parts: Pick<WorkerParts, 'linkPath'>,
  given: Pick<WorkerHandle, 'entry' | 'pool' | 'begun' | 'cgroup' | 'adopted'>,
): WorkerHandle {
  const workerId = given.entry.worker_id;
  return {
    ...given,
    workerId,
    counters: newCounters(),
    process: null,
    identity: null,
    link: null,
    hello: null,
    offered: [],
    recorded: given.adopted,
    readyNoted: Promise.resolve(),
    paused: false,
    released: false,
    resumed: null,
    helloAtMs: 0,
    admitted: false,
    warming: false,
    leaving: false,
    stacksPath: stacksPath(parts, workerId),
    tasksSent: 0,
    evidence: null,
    inspection: null,
    account: null,
    known: new Map(),
    threads: null,
  };
}

/** The last link id that the worker marked as begun. Null if it does not mark: then any request may have begun. */
export function lastBegunLinkId(handle: WorkerHandle | undefined): number | null {
  return handle?.hello?.marks_begun === true ? handle.begun.read() : null;
}

export function begunPath({ linkPath }: Pick<WorkerParts, 'linkPath'>, workerId: string): string {
  return join(dirname(linkPath), `${workerId}.begun`);
}

export function stacksPath({ linkPath }: Pick<WorkerParts, 'linkPath'>, workerId: string): string {
  return join(dirname(linkPath), `${workerId}.stacks`);
}
