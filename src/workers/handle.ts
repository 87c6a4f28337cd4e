import { dirname, join } from 'node:path';
import type { WorkerCounters } from '../dispatch/counters.ts';
import { newCounters } from '../dispatch/counters.ts';
import type { PoolConfig } from '../domain/config.ts';
import type { Account } from '../domain/evidence.ts';
import type { OfferedCommand } from '../domain/state.ts';
import type { AttachedWorker, WorkerHello } from '../grpc/worker-link/source.ts';
import type { WorkerCgroup } from '../os/cgroup/cgroup.ts';
import type { BegunMark } from '../os/process/begun-mark.ts';
import type { ProcessIdentity } from '../os/process/identity.ts';
import type { SpawnedWorker } from '../os/process/spawn-worker.ts';
import type { LedgerEntry } from '../os/storage/ledger.ts';
import type { InspectedWorker } from './evidence.ts';
import type { WorkerParts } from './parts.ts';

/** The process of a worker: a child of this agent, or one that it adopted. */
export type WorkerProcess = Pick<SpawnedWorker, 'endedAtTicks' | 'lastLines' | 'close'> & {
  /** Its link has closed: look now whether it has ended. */
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
  /** The worker's entry in the ledger. Its verifier may be newer here: the ledger gets it with the next entry. */
  entry: LedgerEntry;
  /** An earlier agent started the worker. */
  readonly adopted: boolean;
  process: WorkerProcess | null;
  identity: ProcessIdentity | null;
  link: AttachedWorker | null;
  hello: WorkerHello | null;
  /** The commands of the hello, as they are reported. */
  offered: readonly OfferedCommand[];
  /** The ledger has the worker's identity. Before that, nothing is reported of the worker. */
  recorded: boolean;
  /** Settles when the ledger has the worker as ready, or cannot. Until then the worker is sent no requests. */
  readyNoted: Promise<void>;
  /** Whether the domain wants it paused. Dispatch may not have the worker yet. */
  paused: boolean;
  released: boolean;
  /** Its warm-up runs. */
  warming: boolean;
  /** It said that it takes no more requests. */
  leaving: boolean;
  /** `tasks` of link.proto, as last sent. */
  tasksSent: number;
  /** What the cgroup had used when the process had ended. */
  account: Account | null;
  /** Processes of its tree at the last sample: start times by pid. */
  known: ReadonlyMap<number, string>;
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
    warming: false,
    leaving: false,
    stacksPath: stacksPath(parts, workerId),
    tasksSent: 0,
    evidence: null,
    inspection: null,
    account: null,
    known: new Map(),
  };
}

/** The last link id that the worker marked as begun; null: it does not mark, so any may have begun. */
export function lastBegunLinkId(handle: WorkerHandle | undefined): number | null {
  return handle?.hello?.marks_begun === true ? handle.begun.read() : null;
}

export function begunPath({ linkPath }: Pick<WorkerParts, 'linkPath'>, workerId: string): string {
  return join(dirname(linkPath), `${workerId}.begun`);
}

export function stacksPath({ linkPath }: Pick<WorkerParts, 'linkPath'>, workerId: string): string {
  return join(dirname(linkPath), `${workerId}.stacks`);
}
