import type { Request, RequestError, RequestSpec, ResponseSink } from '../../src/dispatch/request.ts';

/** One request as its caller and the simulated host know it. */
export interface Asked {
  readonly ask: RequestSpec;
  request: Request | undefined;
  readonly answers: ResponseSink;
  /** Results and errors: one in the end, and never more. */
  ends: number;
  error: RequestError | undefined;
  /** How often a worker began it. */
  begun: number;
  /** The most attempts that any config allowed. */
  maxAttempts: number;
}

/** What a command does in a simulated worker. */
export interface CommandModel {
  readonly streams: boolean;
  readonly isAsync: boolean;
  readonly leastMs: number;
  readonly mostMs: number;
  /** Share of runs in which it ends its process. */
  readonly crashes: number;
  /** Bytes that each run leaves behind. */
  readonly leaks: number;
}

const plain: CommandModel = { streams: false, isAsync: false, leastMs: 0.05, mostMs: 0.5, crashes: 0, leaks: 2 };

export const commandModels: Readonly<Record<string, CommandModel>> = {
  short: plain,
  long: { ...plain, leastMs: 20, mostMs: 1_500, leaks: 10 },
  async: { ...plain, isAsync: true, leastMs: 1, mostMs: 200 },
  stream: { ...plain, streams: true, leastMs: 50, mostMs: 600 },
  crash: { ...plain, leastMs: 1, mostMs: 20, crashes: 0.5 },
};
