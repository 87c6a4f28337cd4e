import type { Event } from '../../src/domain/event.ts';
import { unplannedReasons } from '../../src/domain/reason.ts';
import type { Pool, State, Worker } from '../../src/domain/state.ts';
import { hold } from '../domain/invariants.ts';

export interface Capacity {
  check(before: State, after: State, events: readonly Event[]): void;
}

/**
 * ready ≥ size - max_unavailable, except after unplanned ends. When a planned end takes a slot's last ready worker away, at most
 * max_unavailable slots may be without a ready worker.
 */
export function createCapacity(): Capacity {
  const stopped = new Set<string>();
  return {
    check: (before, after, events) => {
      for (const event of events) if (event.type === 'stop-worker') stopped.add(event.workerId);
      if (after.node.phase === 'stopping' || after.node.phase === 'stopped') return;
      for (const pool of after.pools.values()) {
        const old = before.pools.get(pool.name);
        if (old !== undefined && pool.phase !== 'removed') checkPool(before, after, old, pool, stopped);
      }
    },
  };
}

function checkPool(before: State, after: State, old: Pool, pool: Pool, stopped: ReadonlySet<string>): void {
  const had = readyBySlot(before, pool.name);
  const has = readyBySlot(after, pool.name);
  const missing = [...pool.slots.keys()].filter((slot) => !has.has(slot));
  for (const slot of missing) {
    const last = had.get(slot);
    // Slots that are new start empty; so do those that come back.
    if (last === undefined || !old.slots.has(slot) || stopped.has(last.id)) continue;
    const now = after.workers.get(last.id);
    // Only a failure, a worker that leaves by itself, or an order to stop at once explains a slot without a ready worker.
    if (now?.ending != null && (unplannedReasons.has(now.ending) || now.ending === 'retired')) continue;
    // With no room for a second worker beside it, one at a time is replaced in its place.
    const spare =
      Math.max(before.node.host.floorBytes, after.node.host.floorBytes) > 0 && pool.config.recycle.maxSurge > 0 ? 1 : 0;
    const maxUnavailable = Math.max(spare, pool.config.recycle.maxUnavailable);
    const detail = `slot ${slot} lost ${last.id} (${now?.ending}), and ${missing.length} of ${pool.size} are missing`;
    hold(missing.length <= maxUnavailable, `pool ${pool.name}: ${detail}, with max_unavailable ${maxUnavailable}`);
  }
}

function readyBySlot(state: State, pool: string): Map<number, Worker> {
  const ready = new Map<number, Worker>();
  for (const worker of state.workers.values()) {
    const newest = ready.get(worker.slot)?.generation ?? 0;
    if (worker.pool === pool && worker.phase === 'ready' && worker.generation > newest) ready.set(worker.slot, worker);
  }
  return ready;
}
