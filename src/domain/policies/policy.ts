import type { PoolConfig } from '../config.ts';
import type { Counters } from '../event.ts';
import type { Reason } from '../reason.ts';
import type { Worker } from '../state.ts';

/** A policy's answer: now, for this reason; at that time; or never. */
export type Verdict = { readonly now: Reason; readonly detail: string } | { readonly atMs: number } | typeof never;

export const never = Object.freeze({ never: true as const });

export type Policy = (worker: Worker, pool: PoolConfig, counters: Counters, nowMs: number) => Verdict;

export const noCounters: Counters = Object.freeze({
  inFlight: 0,
  kept: 0,
  completed: 0,
  failed: 0,
  lastEvidenceAtMs: 0,
});
