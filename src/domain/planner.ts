import type { Draft } from './draft.ts';
import { putWorker, workersOf } from './draft.ts';
import { mayStartBeside } from './host.ts';
import { becomeDue } from './lifecycle.ts';
import { recyclePolicies } from './policies/list.ts';
import { outdated } from './policies/outdated.ts';
import { noCounters } from './policies/policy.ts';
import type { Reason } from './reason.ts';
import { isBeingReplaced } from './roll.ts';
import type { Pool, Worker } from './state.ts';
import type { Wake } from './wake.ts';

/**
 * Planned replacements. A worker for which there is a reason becomes due and goes on serving; whose turn it is, and how
 * many may be replaced at once, is decided here for all reasons alike.
 *
 * Tokens: `max_surge` workers may be there beside those they replace, which serve until the new ones are ready; beyond
 * that `max_unavailable` slots may be without a ready worker, and are filled after the old one has gone.
 */

/** Reasons that do not wait for min_lifetime. */
const urgent: ReadonlySet<Reason> = new Set(['operator', 'memory', 'config', 'roll']);
/** Most pressing first. */
const priority: readonly Reason[] = ['memory', 'operator', 'config', 'roll', 'request_budget', 'ttl', 'idle'];

/** Starts a worker in a slot; false: it may not be started now. */
export type Start = (slot: number) => boolean;
/** Lets a worker go before its replacement is there. */
export type Retire = (worker: Worker) => void;

/** Notes the first reason for which a ready worker should be replaced, and later ones that are more pressing. */
export function mark(draft: Draft, worker: Worker, pool: Pool, wake: Wake): void {
  const { nowMs } = draft.facts;
  const { due } = worker;
  const counters = draft.facts.counters(worker.id) ?? noCounters;
  const matureAtMs = worker.readyAtMs + pool.config.recycle.minLifetimeMs;
  for (const policy of recyclePolicies) {
    // What it is out of date with has failed.
    if (policy === outdated && pool.quarantine !== '' && isUpToDate(worker, pool)) continue;
    const verdict = policy(worker, pool.config, counters, nowMs);
    if (!('now' in verdict)) {
      if (due === null) wake.verdict(verdict);
      continue;
    }
    if (nowMs < matureAtMs && !urgent.has(verdict.now)) {
      wake.at(matureAtMs);
      continue;
    }
    if (due === null) return becomeDue(draft, worker, verdict.now, verdict.detail);
    if (rank(verdict.now) < rank(due.pressing)) putWorker(draft, worker, { due: { ...due, pressing: verdict.now } });
    return;
  }
}

/** Begins as many replacements as there are tokens for, most pressing first. */
export function replace(draft: Draft, poolName: string, start: Start, retire: Retire, wake: Wake): void {
  withdraw(draft, poolName);
  for (const candidate of candidates(draft, poolName)) {
    const pool = draft.pools.get(poolName);
    if (pool === undefined) return;
    const surges = pool.config.recycle.maxSurge > 0 && mayStartBeside(draft, candidate);
    if (surges && start(candidate.slot)) {
      note(draft, candidate);
    } else if (mayRetire(draft, pool, candidate, surges, wake)) {
      note(draft, candidate);
      retire(draft.workers.get(candidate.id) ?? candidate);
    }
  }
}

/** Takes the wish of a roll that ended or is paused, or of a config that was given up, back from workers it has not come to yet. */
function withdraw(draft: Draft, poolName: string): void {
  const pool = draft.pools.get(poolName);
  if (pool === undefined) return;
  const workers = workersOf(draft, poolName);
  for (const worker of workers) {
    if (worker.phase !== 'ready' || worker.due === null || worker.due.pressing !== worker.due.reason) continue;
    const over =
      (worker.due.reason === 'roll' && pool.roll?.phase !== 'running') ||
      (worker.due.reason === 'config' && isUpToDate(worker, pool));
    if (over && !isBeingReplaced(worker, workers)) putWorker(draft, worker, { due: null });
  }
}

function isUpToDate(worker: Worker, pool: Pool): boolean {
  return worker.fingerprint === (pool.quarantine === '' ? pool : pool.good)?.fingerprint;
}

/** A worker whose turn it is in a roll becomes due only now: until then the roll may be paused or aborted. */
function note(draft: Draft, candidate: Worker): void {
  if (candidate.due === null) becomeDue(draft, candidate, 'roll', 'its turn in the roll');
}

/** Whether it may go before its replacement is there: with nothing to spare, one at a time must do. */
function mayRetire(draft: Draft, pool: Pool, worker: Worker, surges: boolean, wake: Wake): boolean {
  const { maxSurge, maxUnavailable } = pool.config.recycle;
  // A slot whose last starts failed would stay empty.
  const nextStartAtMs = pool.slots.get(worker.slot)?.nextStartAtMs ?? 0;
  if (draft.facts.nowMs < nextStartAtMs) {
    wake.at(nextStartAtMs);
    return false;
  }
  if (surges && workersOf(draft, pool.name).length < pool.size + maxSurge) return false;
  const spare = maxSurge > 0 && !surges ? Math.max(1, maxUnavailable) : maxUnavailable;
  return unavailable(draft, pool) < spare;
}

/** Ready workers that wait for a replacement which is not on its way yet. */
function candidates(draft: Draft, poolName: string): Worker[] {
  const pool = draft.pools.get(poolName);
  if (pool === undefined) return [];
  const rolls = pool.roll?.phase === 'running' ? pool.roll.old : undefined;
  const workers = workersOf(draft, poolName);
  const wanted = workers.filter((worker) => {
    if (worker.phase !== 'ready' || !pool.slots.has(worker.slot)) return false;
    if (worker.due === null || worker.due.pressing === 'roll') return rolls?.has(worker.id) === true;
    return true;
  });
  if (wanted.length === 0) return wanted;
  const of = (worker: Worker): number => rank(worker.due?.pressing ?? 'roll');
  return wanted
    .filter((worker) => !isBeingReplaced(worker, workers))
    .sort((a, b) => of(a) - of(b) || (a.due?.atMs ?? 0) - (b.due?.atMs ?? 0));
}

export function rank(reason: Reason): number {
  return priority.indexOf(reason);
}

function unavailable(draft: Draft, pool: Pool): number {
  const ready = new Set<number>();
  for (const worker of workersOf(draft, pool.name)) if (worker.phase === 'ready') ready.add(worker.slot);
  return [...pool.slots.keys()].filter((index) => !ready.has(index)).length;
}

/** Once a newer worker of the slot is ready, the older ones may go. */
export function replaced(workers: readonly Worker[]): Worker[] {
  const newestReady = Math.max(...workers.map((worker) => (worker.phase === 'ready' ? worker.generation : 0)));
  return workers.filter((worker) => worker.phase === 'ready' && worker.generation < newestReady);
}
