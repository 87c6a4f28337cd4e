import type { Draft } from './draft.ts';
import { putWorker, workersOf } from './draft.ts';
import { becomeDue } from './lifecycle.ts';
import { headroom } from './memory-floor.ts';
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
 * Planned replacements. A worker that should be replaced becomes due and keeps serving. This file decides, for all
 * reasons alike, whose turn it is and how many may be replaced at once.
 * Up to `max_surge` extra workers may exist beside those that they replace, which serve until the new ones are ready.
 * Beyond that up to `max_unavailable` slots may be without a ready worker: their old worker goes first.
 */

/** Requested now: these reasons do not wait for min_lifetime. */
const urgent: ReadonlySet<Reason> = new Set(['operator', 'config', 'roll']);

/** Starts a worker in a slot; false if that is not possible now. */
export type Start = (slot: number) => boolean;
/** Drains a worker before its replacement exists. */
export type DrainWorker = (worker: Worker) => void;

/** Marks a ready worker as due for the first reason to replace it, and records later ones that are more pressing. */
export function markDue(draft: Draft, worker: Worker, pool: Pool, wake: Wake): void {
  const { nowMs } = draft.facts;
  const counters = draft.facts.counters(worker.id) ?? noCounters;
  const matureAtMs = worker.readyAtMs + pool.config.recycle.minLifetimeMs;
  for (const policy of recyclePolicies) {
    // The config that the worker is outdated by has been abandoned.
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

/** Begins as many replacements as the limits allow, most pressing first. */
export function replace(draft: Draft, poolName: string, start: Start, drainWorker: DrainWorker, wake: Wake): void {
  let roomBytes = headroom(draft);
  for (const candidate of candidates(draft, poolName)) {
    const pool = draft.pools.get(poolName);
    if (pool === undefined) return;
    const surges = pool.config.recycle.maxSurge > 0 && roomBytes >= memoryBytes(candidate.usage);
    if (surges && start(candidate.slot)) {
      noteTurn(draft, candidate);
      roomBytes = headroom(draft);
    } else if (mayDrainFirst(draft, pool, candidate, surges, wake)) {
      noteTurn(draft, candidate);
      drainWorker(draft.workers.get(candidate.id) ?? candidate);
    }
  }
}

/**
 * Whether a due worker need not be replaced after all: its roll has ended or is paused, or the config was abandoned.
 */
function isWithdrawn({ due, fingerprint }: Worker, pool: Pool): boolean {
  if (due === null || due.mostPressing !== due.reason) return false;
  if (due.reason === 'roll') return pool.roll?.phase !== 'running';
  return due.reason === 'config' && isUpToDate(fingerprint, pool);
}

function isUpToDate(fingerprint: string, pool: Pool): boolean {
  return fingerprint === (pool.quarantine === '' ? pool : pool.lastGoodConfig)?.fingerprint;
}

/** In a roll a worker becomes due only when its turn comes: until then the roll may be paused or aborted. */
function noteTurn(draft: Draft, candidate: Worker): void {
  if (candidate.due === null) becomeDue(draft, candidate, 'roll', 'its turn in the roll');
}

/**
 * Whether a worker may drain before its replacement exists. If surges are configured but not possible now, one slot at
 * a time may be empty.
 */
function mayDrainFirst(draft: Draft, pool: Pool, worker: Worker, surges: boolean, wake: Wake): boolean {
  const { maxSurge, maxUnavailable } = pool.config.recycle;
  // A slot that backs off would stay empty.
  const nextStartAtMs = pool.slots.get(worker.slot)?.nextStartAtMs ?? 0;
  if (draft.facts.nowMs < nextStartAtMs) {
    wake.at(nextStartAtMs);
    return false;
  }
  if (surges && workersOf(draft, pool.name).length < pool.size + maxSurge) return false;
  const spare = maxSurge > 0 && !surges ? Math.max(1, maxUnavailable) : maxUnavailable;
  return unavailable(draft, pool) < spare;
}

/** Ready workers that need a replacement which has not been started. */
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
    const waits = worker.due === null || worker.due.mostPressing === 'roll' ? rolls?.has(worker.id) === true : true;
    if (waits && pool.slots.has(worker.slot)) found.push(worker);
  }
  const of = (worker: Worker): number => rank(worker.due?.mostPressing ?? 'roll');
  return found.sort((a, b) => of(a) - of(b) || (a.due?.atMs ?? 0) - (b.due?.atMs ?? 0));
}

/** The newest generation that is starting or ready, by slot. */
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

/** The workers of a slot that a newer ready worker has replaced. */
export function replaced(workers: readonly Worker[]): Worker[] {
  const newestReady = Math.max(...workers.map((worker) => (worker.phase === 'ready' ? worker.generation : 0)));
  return workers.filter((worker) => worker.phase === 'ready' && worker.generation < newestReady);
}
