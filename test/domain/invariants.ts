import type { Action } from '../../src/domain/action.ts';
import type { Newborn, State } from '../../src/domain/state.ts';

/** What must hold after any step, whatever came before. */
export interface StepInvariants {
  /** Throws an Error that says what does not hold. */
  check(before: State, after: State, actions: readonly Action[], wasSpawned: (workerId: string) => boolean): void;
}

export function createStepInvariants(): StepInvariants {
  /** Newest generation of each slot, by pool and slot. */
  const generations = new Map<string, number>();
  const gone = new Set<string>();
  return {
    check: (before, after, actions, wasSpawned) => {
      checkReasons(before, after);
      checkGenerations(after);
      for (const action of actions) {
        if (action.type === 'forget') gone.add(action.workerId);
        if (action.type === 'remove-pool') {
          for (const slot of generations.keys()) if (slot.startsWith(`${action.pool} `)) generations.delete(slot);
        }
        if (action.type === 'spawn') checkSpawn(after, action, generations);
        if (action.type === 'terminate' || action.type === 'kill') {
          hold(wasSpawned(action.workerId), `${action.type} of ${action.workerId}, which was never spawned`);
          hold(!gone.has(action.workerId) || before.workers.has(action.workerId), `${action.type} of one that is gone`);
        }
        if (action.type === 'finish') hold(after.workers.size === 0, 'the agent finishes with workers left');
      }
      const visible = actions.some((action) => action.type === 'publish');
      const revision = before.revision + (visible ? 1 : 0);
      hold(after.revision === revision, `revision: expected ${revision}, got ${after.revision}`);
    },
  };
}

export function hold(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** The first reason wins. */
function checkReasons(before: State, after: State): void {
  for (const [id, worker] of after.workers) {
    const old = before.workers.get(id);
    if (old?.ending && worker.ending !== old.ending) throw new Error(`${id}: ${old.ending} became ${worker.ending}`);
    // So does what it is due for, save that a roll which ended, or a config that was given up, takes its wish back.
    const withdrawn = worker.due === null && (old?.due?.reason === 'roll' || old?.due?.reason === 'config');
    if (old?.due && worker.due?.reason !== old.due.reason && !withdrawn) {
      throw new Error(`${id}: its due reason changed from ${old.due.reason} to ${worker.due?.reason}`);
    }
  }
}

function checkGenerations(after: State): void {
  const seen = new Set<string>();
  for (const { pool, slot, generation } of after.workers.values()) {
    const key = `${pool} ${slot} ${generation}`;
    if (seen.has(key)) throw new Error(`two live workers are generation ${generation} of slot ${slot}`);
    seen.add(key);
  }
}

function checkSpawn(after: State, action: Action & { type: 'spawn' }, generations: Map<string, number>): void {
  const pool = after.pools.get(action.pool.name);
  let live = 0;
  for (const worker of after.workers.values()) if (worker.pool === action.pool.name) live += 1;
  const most = (pool?.size ?? 0) + (pool?.config.recycle.maxSurge ?? 0);
  hold(live <= most, `live workers at a spawn: expected at most ${most}, got ${live}`);
  checkSlot(after, action.worker, pool?.config.recycle.maxSurge ?? 0);
  const slot = `${action.pool.name} ${action.worker.slot}`;
  const next = (generations.get(slot) ?? 0) + 1;
  const generation = after.workers.get(action.worker.id)?.generation;
  hold(generation === next, `slot ${slot}: expected its next filling to be generation ${next}, got ${generation}`);
  generations.set(slot, next);
}

/** What `{slot}` names is shared by a worker and its replacements only, and with `max_surge: 0` by nobody. */
function checkSlot(after: State, { pool, slot }: Newborn, maxSurge: number): void {
  const isHere = (each: { readonly pool: string; readonly slot: number }): boolean =>
    each.pool === pool && each.slot === slot;
  const workers = [...after.workers.values()].filter(isHere).length;
  const leftovers = [...after.node.leftovers.values()].filter(isHere).length;
  const most = 1 + maxSurge;
  const live = workers + leftovers;
  hold(live <= most, `workers in slot ${slot} of pool ${pool} at a spawn: expected at most ${most}, got ${live}`);
}
