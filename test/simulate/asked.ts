import type { RequestSpec } from '../../src/dispatch/request.ts';
import { hold } from '../domain/invariants.ts';

/** What a caller asks for; of an unnamed request the host makes the id. */
export type Wish = Pick<RequestSpec, 'pool' | 'command' | 'sessionId' | 'hasCallerId' | 'idempotent' | 'streams'> & {
  /** Empty: that of no other. */
  readonly payload: string;
  /** From each call on; infinite: the pool's. */
  readonly timeoutMs: number;
};

/** One request as its callers and the simulated host know it. If it is named, many calls may ask for it, one after another. */
export interface Asked {
  readonly spec: Omit<RequestSpec, 'deadlineMs'>;
  readonly model: CommandModel;
  /** How often the request became a new one: its answer was read, it was cancelled, or nobody can know of it any more. */
  epoch: number;
  /** How often a worker began it in this epoch. */
  begun: number;
  /** When it began last, and when that run ended, in whatever epoch; NaN: not yet. */
  begunAtMs: number;
  endedAtMs: number;
  /** Of each call, from then on; infinite: the pool's. */
  readonly timeoutMs: number;
  /** The deadline of the latest call, and the earliest that any had. */
  deadlineMs: number;
  firstDeadlineMs: number;
}

/** It is another request from now on, although its name stays. */
export function renew(asked: Asked): void {
  asked.epoch += 1;
  asked.begun = 0;
}

/** A worker begins it, for the call of that epoch. `mostAttempts`: how often it may if it is idempotent. */
export function begin(asked: Asked, epoch: number, nowMs: number, mostAttempts: number): void {
  asked.begunAtMs = nowMs;
  asked.endedAtMs = Number.NaN;
  if (epoch !== asked.epoch) return;
  asked.begun += 1;
  const { spec, begun } = asked;
  const most = spec.idempotent ? mostAttempts : 1;
  hold(begun <= most, `request ${spec.requestId} may run ${most} times, and runs the ${begun}. time`);
}

/** What a command does in a simulated worker. */
export interface CommandModel {
  /** Values of its stream; 0: it returns one. */
  readonly chunks: number;
  readonly isAsync: boolean;
  readonly leastMs: number;
  readonly mostMs: number;
  /** Share of runs in which it ends its process. */
  readonly crashes: number;
  /** Bytes that each run leaves behind. */
  readonly leaks: number;
  /** It goes on when it is cancelled, whatever its worker does. */
  readonly isDeaf: boolean;
}

const plain: CommandModel = {
  ...{ chunks: 0, isAsync: false, leastMs: 0.05, mostMs: 0.5, crashes: 0, leaks: 2, isDeaf: false },
};

export const commandModels: Readonly<Record<string, CommandModel>> = {
  short: plain,
  long: { ...plain, leastMs: 20, mostMs: 1_500, leaks: 10 },
  async: { ...plain, isAsync: true, leastMs: 1, mostMs: 200 },
  stream: { ...plain, chunks: 3, leastMs: 50, mostMs: 600 },
  crash: { ...plain, leastMs: 1, mostMs: 20, crashes: 0.5 },
  /** Longer than any deadline, and the time after that in which it should have ended. */
  stuck: { ...plain, leastMs: 40_000, mostMs: 90_000, isDeaf: true },
};
