import type { Changes, NodeRecord } from '../../domain/action.ts';
import type { Command, Counters } from '../../domain/event.ts';
import type { KeptExit, ReportedProgress, RequestNote } from '../../domain/evidence.ts';
import type { State } from '../../domain/state.ts';
import type { NodeFacts, PoolNumbers, Recorded } from './view.ts';

/** What Control needs of the agent. */
export interface ControlSource {
  state(): State;
  node(): NodeFacts;
  counters(workerId: string): Counters | undefined;
  /** Undefined: the ledger does not have it. */
  recorded(workerId: string): Recorded | undefined;
  poolNumbers(pool: string): PoolNumbers;
  /** How workers ended, newest first; of all pools where none is named. */
  exits(pool: string): readonly KeptExit[];
  requestsOf(workerId: string): readonly RequestNote[];
  progressOf(workerId: string): ReportedProgress | null;
  nowMs(): number;
  toUnixMs(monotonicMs: number): number;
  /** Decides on the command before it returns; what follows from it happens afterwards. */
  command(command: Command): void;
  /** Settles when what was ordered outlives this agent, or when that cannot be waited for. Never rejects. */
  ordersKept(): Promise<void>;
  /** Calls `listener` after every step that changed something, until the returned function is called. */
  subscribe(listener: Listener): () => void;
  /** How this agent was started: program and arguments. */
  readonly commandLine: readonly string[];
  /** Aborted when long calls are to end, because the agent goes. */
  readonly leaving: AbortSignal;
  /** Starts the handover. Returns how long requests that run may take, in ms. */
  handOver(): number;
  /** Reads the configuration as the next agent will. Resolves to its problems; empty: there are none. Never rejects. */
  checkConfig(): Promise<string>;
}

export type Listener = (changes: Changes, records: readonly NodeRecord[]) => void;

export type Request = Readonly<Record<string, unknown>>;
