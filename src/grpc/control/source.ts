import type { Changes, NodeRecord } from '../../domain/action.ts';
import type { AppReport } from '../../domain/app-telemetry.ts';
import type { Command, Counters } from '../../domain/event.ts';
import type { KeptExit, ReportedProgress, RequestNote } from '../../domain/evidence.ts';
import type { Plan } from '../../domain/plan.ts';
import type { State } from '../../domain/state.ts';
import type { HistoryPart, HistoryRequest, StoredEvent } from '../../domain/stored-event.ts';
import type { DesiredSource } from './desired.ts';
import type { ReportSource } from './report-view.ts';
import type { NodeFacts, PoolNumbers, Recorded } from './view.ts';

/** The parts of the agent that Control uses. */
export interface ControlSource {
  state(): State;
  node(): NodeFacts;
  counters(workerId: string): Counters | undefined;
  /** Undefined: the ledger does not have the worker. */
  recorded(workerId: string): Recorded | undefined;
  poolNumbers(pool: string): PoolNumbers;
  /** How workers of the pool ended, newest first; '': of all pools. */
  exits(pool: string): readonly KeptExit[];
  /**
   * Gives stored events to `take`, oldest first, until `take` returns false (that event is not taken), a bounded amount has been read, or
   * all were given. Null: the request's token is from no earlier part. Rejects if the disk does not answer, or too many callers read.
   */
  history(request: HistoryRequest, take: (event: StoredEvent) => boolean): Promise<HistoryPart | null>;
  requestsOf(workerId: string): readonly RequestNote[];
  progressOf(workerId: string): ReportedProgress | null;
  nowMs(): number;
  toUnixMs(monotonicMs: number): number;
  /** The state has changed when this returns. The effects follow later. */
  command(command: Command): void;
  /** Settles when earlier orders are stored for the next agent, or when the disk takes too long. Never rejects. */
  ordersKept(): Promise<void>;
  /** Calls `listener` after every step that changed something, until the returned function is called. */
  subscribe(listener: Listener): () => void;
  /** What only Report shows. */
  readonly report: ReportSource;
  /** Calls `listener` with what each report of a worker's application added to the metrics, until the returned function is called. */
  followTelemetry(listener: (report: AppReport) => void): () => void;
  /** The program and arguments with which this agent was started. */
  readonly commandLine: readonly string[];
  /** Aborted when the agent shuts down, so that long calls end. */
  readonly leaving: AbortSignal;
  /** Starts the handover. Returns how long running requests may still take, in ms. */
  handOver(): number;
  /** Reads the configuration as the next agent will. Resolves to its problems; '': there are none. Never rejects. */
  checkConfig(): Promise<string>;
  readonly reload: ConfigReload;
  readonly desired: DesiredSource;
}

/** Reads the configuration again. Neither method rejects. */
export interface ConfigReload {
  /** Applies it. The plan is that of the moment before. */
  apply(): Promise<ReloadOutcome>;
  /** Changes nothing. */
  plan(): Promise<ReloadOutcome>;
}

export type ReloadOutcome =
  | { readonly ok: false; readonly problems: readonly ConfigProblem[] }
  | {
      readonly ok: true;
      readonly plan: Plan;
      /** Keys that differ from those that the agent started with, and take effect with its next start. */
      readonly restartNeeded: readonly string[];
    };

/** Line and column count from 1, and are 0 if there is no location. */
export interface ConfigProblem {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly path: string;
  readonly message: string;
}

export type Listener = (changes: Changes, records: readonly NodeRecord[]) => void;

export type ControlRequest = Readonly<Record<string, unknown>>;
