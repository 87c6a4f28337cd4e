import type { WorkerHandle } from '../../src/workers/handle.ts';
import type { Checks } from './checks.ts';
import type { Disk } from './disk.ts';
import type { Random } from './random.ts';
import type { Trace } from './trace.ts';
import type { SimulatedWorker } from './worker.ts';

/** A host as everything on it sees it. */
export interface SharedHost {
  readonly random: Random;
  readonly trace: Trace;
  readonly processes: ReadonlyMap<string, SimulatedWorker>;
  nowMs(): number;
  later(ms: number, work: () => void): void;
}

/** A host as its agent sees it. */
export interface AgentHost extends SharedHost {
  readonly disk: Disk;
  readonly checks: Checks;
  availableBytes(): number;
  /** Starts a process, or says what is to be reported instead. */
  start(workerId: string, pool: WorkerHandle['pool']): SimulatedWorker | 'start-blocked' | 'spawn-failed';
  /** All processes of it are gone. */
  gone(workerId: string): void;
  poolRemoved(pool: string): void;
  /** Somebody waits for a promise that is settled. */
  settling(): void;
  /** Something went wrong where nobody waits for it. */
  failed(error: unknown): void;
  finished(): void;
}
