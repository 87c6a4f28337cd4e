import { isActive } from './roll.ts';
import type { Leftover, Pool, Worker } from './state.ts';

/** How many slots the sentence lists. */
const namedMax = 3;

/**
 * Says which slots stay empty because of what is left in them; empty if there are none. A slot takes a new worker only
 * while at most `max_surge` others are in it. `workers` are the pool's.
 */
export function waitingSlots(pool: Pool, workers: readonly Worker[], leftovers: Iterable<Leftover>): string {
  const { maxSurge } = pool.config.recycle;
  const filled = new Set<number>();
  const left = new Map<number, string[]>();
  const note = (slot: number, what: string): void => {
    const found = left.get(slot);
    if (found === undefined) left.set(slot, [what]);
    else found.push(what);
  };
  for (const worker of workers) {
    if (isActive(worker)) filled.add(worker.slot);
    else note(worker.slot, `${worker.id} (${worker.phase})`);
  }
  for (const { pool: name, slot, workerId } of leftovers) {
    if (name === pool.name) note(slot, `${workerId} (of an earlier agent)`);
  }
  const waiting = [...left]
    .filter(([slot, what]) => pool.slots.has(slot) && !filled.has(slot) && what.length > maxSurge)
    .sort(([a], [b]) => a - b)
    .map(([slot, what]) => `slot ${slot} waits until nothing is left of ${what.join(', ')}`);
  if (waiting.length === 0) return '';
  const more = waiting.length > namedMax ? `; so do ${waiting.length - namedMax} more slots` : '';
  return `${waiting.slice(0, namedMax).join('; ')}${more} (recycle.max_surge: ${maxSurge})`;
}
