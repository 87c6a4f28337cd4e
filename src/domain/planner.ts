import type { Draft } from './draft.ts';
import { putWorker, workersOf } from './draft.ts';
import { headroom } from './host.ts';
import { becomeDue } from './lifecycle.ts';
import { recyclePolicies } from './policies/list.ts';
import { memoryBytes } from './policies/memory.ts';
import { outdated } from './policies/outdated.ts';
import { noCounters } from './policies/policy.ts';
import type { Reason } from './reason.ts';
import { rank } from './reason.ts';
import { isActive } from './roll.ts';
import type { Pool, Worker } from './state.ts';
import type { Wake } from './wake.ts';

/**
 * Planned replacements. A worker for which there is a reason becomes due and goes on serving; whose turn it is, and how
 * many may be replaced at once, is decided here for all reasons alike.
 *
 * Tokens: `max_surge` workers may be there beside those they replace, which serve until the new ones are ready; beyond
 * that `max_unavailable` slots may be without a ready worker, and are filled after the old one has gone.
 */

/** Somebody asks for it now: these reasons do not wait for min_lifetime. */
const urgent: ReadonlySet<Reason> = new Set(['operator', 'config', 'roll']);

/** Starts a worker in a slot; false: it may not be started now. */
export type Start = (slot: number) => boolean;
/** Lets a worker go before its replacement is there. */
export type Retire = (worker: Worker) => void;

/** Notes the first reason for which a ready worker should be replaced, and later ones that are more pressing. */
export function mark(draft: Draft, worker: Worker, pool: Pool, wake: Wake): void {
  const { nowMs } = draft.facts;
  const counters = draft.facts.counters(worker.id) ?? noCounters;
  const matureAtMs = worker.readyAtMs + pool.config.recycle.minLifetimeMs;
  for (const policy of recyclePolicies) {
    // What it is out of date with has failed.
    if (policy === outdated && pool.quarantine !== '' && isUpToDate(worker.fingerprint, pool)) continue;
    const verdict = policy(worker, pool.config, counters, nowMs);
    if (!('now' in verdict)) {
      if (worker.due === null) wake.verdict(verdict);
      continue;
    }
    if (nowMs < matureAtMs && !urgent.has(verdict.now)) {
      wake.at(matureAtMs);
      continue;
    }
    return becomeDue(draft, worker, verdict.now, verdict.detail);
  }
}

/** Begins as many replacements as there are tokens for, most pressing first. */
export function replace(draft: Draft, poolName: string, start: Start, retire: Retire, wake: Wake): void {
  let roomBytes = headroom(draft);
  for (const candidate of candidates(draft, poolName)) {
    const pool = draft.pools.get(poolName);
    if (pool === undefined) return;
    const surges = pool.config.recycle.maxSurge > 0 && roomBytes >= memoryBytes(candidate.usage);
    if (surges && start(candidate.slot)) {
      note(draft, candidate);
      roomBytes = headroom(draft);
    } else if (mayRetire(draft, pool, candidate, surges, wake)) {
      note(draft, candidate);
      retire(draft.workers.get(candidate.id) ?? candidate);
    }
  }
}

/** A roll that ended or is paused, and a config that was given up, take their wish back from workers they have not come to. */
function isWithdrawn({ due, fingerprint }: Worker, pool: Pool): boolean {
  if (due === null || due.pressing !== due.reason) return false;
  if (due.reason === 'roll') return pool.roll?.phase !== 'running';
  return due.reason === 'config' && isUpToDate(fingerprint, pool);
}

function isUpToDate(fingerprint: string, pool: Pool): boolean {
  return fingerprint === (pool.quarantine === '' ? pool : pool.lastGoodConfig)?.fingerprint;
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
  const workers = workersOf(draft, poolName);
  const newest = newestActive(workers);
  const rolls = pool.roll?.phase === 'running' ? pool.roll.old : undefined;
  const found: Worker[] = [];
  for (const each of workers) {
    if (each.phase !== 'ready' || each.generation !== newest.get(each.slot)) continue;
    const worker = isWithdrawn(each, pool) ? putWorker(draft, each, { due: null }) : each;
    const waits = worker.due === null || worker.due.pressing === 'roll' ? rolls?.has(worker.id) === true : true;
    if (waits && pool.slots.has(worker.slot)) found.push(worker);
  }
  const of = (worker: Worker): number => rank(worker.due?.pressing ?? 'roll');
  return found.sort((a, b) => of(a) - of(b) || (a.due?.atMs ?? 0) - (b.due?.atMs ?? 0));
}

/** The newest generation of each slot that fills it, or is about to. */
function newestActive(workers: readonly Worker[]): Map<number, number> {
  const newest = new Map<number, number>();
  for (const worker of workers) {
    if (isActive(worker) && worker.generation > (newest.get(worker.slot) ?? 0))
      newest.set(worker.slot, worker.generation);
  }
  return newest;
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
