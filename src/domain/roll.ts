import type { Draft } from './draft.ts';
import { putPool, record, workersOf } from './draft.ts';
import { idSuffix } from './id.ts';
import type { Pool, Roll, Worker } from './state.ts';

/** Progress of a roll; the fields of Roll in control.proto. */
export interface RollProgress {
  readonly phase: Roll['phase'];
  /**
   * Workers to replace, and how many of them have been and are being replaced. A worker that has exited counts as
   * replaced.
   */
  readonly total: number;
  readonly replaced: number;
  readonly replacing: number;
  readonly failures: number;
  readonly message: string;
}

/** Replaces all current workers of the pool, as its limits allow. A roll that is still open starts over. */
export function startRoll(draft: Draft, pool: Pool, maxFailures: number): void {
  const old = idsOf(workersOf(draft, pool.name).filter(isActive));
  const roll: Roll = {
    id: `roll-${idSuffix(draft.facts.random)}`,
    phase: 'running',
    startedAtMs: draft.facts.nowMs,
    endedAtMs: 0,
    total: old.size,
    old,
    skipped: 0,
    failures: 0,
    maxFailures,
    message: '',
  };
  // A new roll also retries a quarantined config.
  putPool(draft, pool, { roll, quarantine: '', startFailures: 0 });
  record(draft, { kind: 'roll_started', pool: pool.name, reason: 'roll', message: `${old.size} workers to replace` });
}

export function pauseRoll(draft: Draft, pool: Pool): void {
  if (pool.roll?.phase !== 'running') return;
  putPool(draft, pool, { roll: { ...pool.roll, phase: 'paused' } });
  record(draft, { kind: 'roll_paused', pool: pool.name, message: 'no further replacements' });
}

export function resumeRoll(draft: Draft, pool: Pool): void {
  if (pool.roll?.phase !== 'paused') return;
  putPool(draft, pool, { roll: { ...pool.roll, phase: 'running' } });
  record(draft, { kind: 'roll_resumed', pool: pool.name, message: 'replacements continue' });
}

/** Ends a roll. Workers whose replacement has not begun stay; replacements that have begun continue. */
export function endRoll(draft: Draft, pool: Pool, phase: 'done' | 'aborted' | 'failed', message: string): Pool {
  const { roll } = pool;
  if (roll === null || !isOpen(roll)) return pool;
  const workers = workersOf(draft, pool.name);
  const left = workers.filter((worker) => isToBeReplaced(worker, roll));
  const old = idsOf(left.filter((worker) => !isActive(worker) || hasSuccessor(worker, workers)));
  const skipped = left.length - old.size;
  const next = putPool(draft, pool, { roll: { ...roll, phase, endedAtMs: draft.facts.nowMs, old, skipped, message } });
  const unplanned = phase === 'failed';
  record(draft, { kind: 'roll_ended', pool: pool.name, message: `${phase}: ${message}`, unplanned });
  return next;
}

/**
 * A worker that was started during the roll ended unplanned. If that happens too often, the roll fails and the
 * remaining workers stay.
 */
export function noteRollFailure(draft: Draft, worker: Worker, message: string): void {
  const pool = draft.pools.get(worker.pool);
  const roll = pool?.roll;
  if (pool === undefined || roll === undefined || roll === null || !isOpen(roll) || roll.old.has(worker.id)) return;
  const failures = roll.failures + 1;
  const next = putPool(draft, pool, { roll: { ...roll, failures } });
  if (failures < roll.maxFailures) return;
  endRoll(draft, next, 'failed', `${failures} replacements failed; the last one: ${message}`);
}

/** Ends a roll once all its old workers have exited and every slot has a ready worker. */
export function reviewRoll(draft: Draft, pool: Pool): void {
  const { roll } = pool;
  if (roll === null || !isOpen(roll)) return;
  const workers = workersOf(draft, pool.name);
  if (workers.some((worker) => isToBeReplaced(worker, roll))) return;
  const filled = new Set(workers.filter((worker) => worker.phase === 'ready').map((worker) => worker.slot));
  if (![...pool.slots.keys()].every((index) => filled.has(index))) return;
  endRoll(draft, pool, 'done', `${roll.total} workers replaced`);
}

export function rollProgress(roll: Roll, workers: Iterable<Worker>): RollProgress {
  let remaining = roll.skipped;
  let replacing = 0;
  for (const worker of workers) {
    if (!isToBeReplaced(worker, roll)) continue;
    remaining += 1;
    if (!isActive(worker) || worker.due?.reason === 'roll') replacing += 1;
  }
  const { phase, total, failures, message } = roll;
  return { phase, total, replaced: total - remaining, replacing, failures, message };
}

/** Whether the worker is one of the old ones and has not exited yet. */
function isToBeReplaced(worker: Worker, roll: Roll): boolean {
  return worker.phase !== 'exited' && roll.old.has(worker.id);
}

/** Whether a newer worker of its slot is starting or ready. */
export function hasSuccessor({ slot, generation }: Worker, workers: readonly Worker[]): boolean {
  return workers.some((worker) => worker.slot === slot && worker.generation > generation && isActive(worker));
}

function idsOf(workers: readonly Worker[]): Set<string> {
  return new Set(workers.map(({ id }) => id));
}

export function isOpen(roll: Roll): boolean {
  return roll.phase === 'running' || roll.phase === 'paused';
}

/** Whether the worker fills its slot or is about to. */
export function isActive(worker: Worker): boolean {
  return worker.phase === 'starting' || worker.phase === 'ready';
}
