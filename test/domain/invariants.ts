import type { Action } from '../../src/domain/action.ts';
import type { PoolConfig } from '../../src/domain/config.ts';
import type { Orders } from '../../src/domain/event.ts';
import { managingIntent } from '../../src/domain/intent.ts';
import { dueReasons } from '../../src/domain/reason.ts';
import { isOpen, rollProgress } from '../../src/domain/roll.ts';
import type { Roll, State, Worker, WorkerSpec } from '../../src/domain/state.ts';

/** The invariants that must hold after every step. */
export interface StepInvariants {
  /** Throws an Error that names the violated invariant. */
  check(before: State, after: State, actions: readonly Action[], wasSpawned: (workerId: string) => boolean): void;
  /**
   * The next agent begins with these workers of the one before, and with what is left of others. `knowsOrders`: all that was ordered
   * was written, rolls too.
   */
  nextAgent(workers: readonly Place[], leftovers: readonly Place[], knowsOrders: boolean): void;
}

type Place = Pick<WorkerSpec, 'pool' | 'slot' | 'generation'>;

export function createStepInvariants(): StepInvariants {
  /** Newest generation of each slot, by pool and slot. */
  const generations = new Map<string, number>();
  /** Newest generation of each slot among an earlier agent's leftovers, which may be gone before the pool is added. */
  const left = new Map<string, number>();
  const gone = new Set<string>();
  /** The last roll of each pool after the last step. */
  const rolls = new Map<string, Roll>();
  return {
    nextAgent: (workers, leftovers, knowsOrders) => {
      if (!knowsOrders) rolls.clear();
      gone.clear();
      generations.clear();
      left.clear();
      for (const each of leftovers) raise(left, each);
      for (const each of workers) raise(generations, each);
    },
    check: (before, after, actions, wasSpawned) => {
      checkReasons(before, after);
      checkRolls(before, after, rolls);
      checkGenerations(after);
      checkPings(after);
      for (const action of actions) {
        if (action.type === 'forget') gone.add(action.workerId);
        if (action.type === 'remove-pool') {
          for (const slot of generations.keys()) if (slot.startsWith(`${action.pool} `)) generations.delete(slot);
        }
        if (action.type === 'spawn') checkSpawn(after, action, generations, left);
        if (action.type === 'terminate' || action.type === 'inspect' || action.type === 'kill') {
          hold(wasSpawned(action.workerId), `${action.type} of ${action.workerId}, which was never spawned`);
          hold(!gone.has(action.workerId) || before.workers.has(action.workerId), `${action.type} of one that is gone`);
        }
        if (action.type === 'record' && action.record.kind === 'worker_due') {
          hold(
            dueReasons.some((reason) => reason === action.record.reason),
            `worker_due of ${action.record.reason}`,
          );
        }
        if (action.type === 'finish') hold(after.workers.size === 0, 'the agent finishes with workers left');
      }
      const visible = actions.some((action) => action.type === 'publish');
      const revision = before.revision + (visible ? 1 : 0);
      hold(after.revision === revision, `revision: expected ${revision}, got ${after.revision}`);
    },
  };
}

/** What an agent begins with, as an earlier one left it. */
export interface Inherited {
  readonly pools: ReadonlyMap<string, PoolConfig>;
  readonly orders: Orders | null;
  readonly workers: readonly (Place & { readonly id: string; readonly readyAtMs: number })[];
}

/** After the first step of an agent: what was ordered holds on, and each worker is in its place, ready if it was. */
export function checkInherited(state: State, { pools, orders, workers }: Inherited): void {
  for (const { id, pool, slot, generation, readyAtMs } of workers) {
    const worker = state.workers.get(id);
    const place = worker === undefined ? 'nowhere' : `${worker.pool} ${worker.slot} ${worker.generation}`;
    hold(place === `${pool} ${slot} ${generation}`, `${id} was in ${pool} ${slot} ${generation}, and is in ${place}`);
    const wasReady = readyAtMs > 0;
    hold((worker?.readyAtMs ?? 0) > 0 === wasReady, `${id}: expected the next agent to see whether it was ready`);
  }
  if (orders === null) return;
  const managed = managingIntent(state.node);
  hold(!orders.nodeDraining || state.node.phase === 'draining', 'the node was draining, and the next agent forgot');
  for (const { pool: name, draining, size, configSize } of orders.pools) {
    const pool = state.pools.get(name);
    if (pool === undefined) continue;
    hold(!draining || pool.phase === 'draining', `pool ${name} was draining, and the next agent forgot`);
    const configured = pools.get(name)?.size;
    const wanted = managed?.pools.find((each) => each.pool === name)?.size ?? configured;
    const expected = configured === configSize ? size : wanted;
    hold(pool.size === expected, `pool ${name}: expected ${expected} workers as ordered, got ${pool.size}`);
  }
}

export function hold(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** The first reason wins. */
function checkReasons(before: State, after: State): void {
  for (const [id, worker] of after.workers) {
    const old = before.workers.get(id);
    if (old?.ending && worker.ending !== old.ending) throw new Error(`${id}: ${old.ending} became ${worker.ending}`);
    // The first reason to be due stays as well, except when a roll ended or a config was abandoned: then the worker
    // need not be replaced, and a running roll may reach it in the same step.
    const takenBack = old?.due?.reason === 'roll' || old?.due?.reason === 'config';
    const nowRolled = worker.due?.reason === 'roll' && after.pools.get(worker.pool)?.roll?.old.has(id) === true;
    const withdrawn = takenBack && (worker.due === null || nowRolled);
    if (old?.due && worker.due?.reason !== old.due.reason && !withdrawn) {
      throw new Error(`${id}: its due reason changed from ${old.due.reason} to ${worker.due?.reason}`);
    }
  }
}

/** A roll replaces exactly the workers that existed when it began, and its counts never decrease. */
function checkRolls(before: State, after: State, rolls: Map<string, Roll>): void {
  for (const name of rolls.keys()) if (!after.pools.has(name)) rolls.delete(name);
  for (const { name, roll } of after.pools.values()) {
    const last = rolls.get(name);
    hold(last === undefined || roll !== null, `pool ${name} has forgotten ${last?.id}`);
    if (roll === null) continue;
    rolls.set(name, roll);
    if (last?.id === roll.id) checkOneRoll(last, roll);
    const { total, replaced, replacing } = rollProgress(roll, after.workers.values());
    const isAccount = replaced >= 0 && replacing >= 0 && replaced + replacing <= total;
    hold(isAccount, `${roll.id}: ${replaced} replaced and ${replacing} being replaced, of ${total}`);
    const isDone = replaced === total && replacing === 0;
    hold(roll.phase !== 'done' || isDone, `${roll.id} is done with ${replaced} of ${total} replaced`);
  }
  for (const [id, worker] of after.workers) {
    const old = before.workers.get(id);
    const isRolled = (each: Worker | undefined): boolean => each?.due?.reason === 'roll' || each?.ending === 'roll';
    if (!isRolled(worker) || isRolled(old)) continue;
    const of = [before, after].map(({ pools }) => pools.get(worker.pool)?.roll?.old.has(id));
    hold(of.includes(true), `${id} is replaced for a roll that it is no old worker of`);
  }
}

function checkOneRoll(last: Roll, roll: Roll): void {
  hold(roll.total === last.total, `${roll.id}: its total became ${roll.total}, from ${last.total}`);
  hold(roll.failures >= last.failures, `${roll.id}: its failures became ${roll.failures}, from ${last.failures}`);
  hold(isOpen(last) || roll.phase === last.phase, `${roll.id}: ${last.phase} became ${roll.phase}`);
  for (const id of roll.old) hold(last.old.has(id), `${roll.id}: ${id} became an old worker`);
}

/** The agent wakes in time for each ping. */
function checkPings({ workers, wakeAtMs }: State): void {
  for (const { id, phase, attached, heartbeat } of workers.values()) {
    if (!attached || (phase !== 'ready' && phase !== 'draining')) continue;
    hold(
      wakeAtMs <= heartbeat.nextPingAtMs,
      `${id} is pinged at ${heartbeat.nextPingAtMs}, the agent wakes at ${wakeAtMs}`,
    );
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

function raise(generations: Map<string, number>, { pool, slot, generation }: Place): void {
  const key = `${pool} ${slot}`;
  generations.set(key, Math.max(generation, generations.get(key) ?? 0));
}

function checkSpawn(
  after: State,
  action: Action & { type: 'spawn' },
  generations: Map<string, number>,
  left: ReadonlyMap<string, number>,
): void {
  const pool = after.pools.get(action.pool.name);
  let live = 0;
  for (const worker of after.workers.values()) if (worker.pool === action.pool.name) live += 1;
  const most = (pool?.size ?? 0) + (pool?.config.recycle.maxSurge ?? 0);
  hold(live <= most, `live workers at a spawn: expected at most ${most}, got ${live}`);
  checkSlot(after, action.worker, pool?.config.recycle.maxSurge ?? 0);
  const slot = `${action.pool.name} ${action.worker.slot}`;
  const known = generations.get(slot) ?? 0;
  const next = known + 1;
  const { generation } = action.worker;
  const isNext = generation === next || generation === Math.max(known, left.get(slot) ?? 0) + 1;
  hold(isNext, `slot ${slot}: expected its next filling to be generation ${next}, got ${generation}`);
  generations.set(slot, generation);
}

/** `{slot}` is shared only by a worker and its replacements, and by no one with `max_surge: 0`. */
function checkSlot(after: State, { pool, slot }: WorkerSpec, maxSurge: number): void {
  const isHere = (each: { readonly pool: string; readonly slot: number }): boolean =>
    each.pool === pool && each.slot === slot;
  const workers = [...after.workers.values()].filter(isHere).length;
  const leftovers = [...after.node.leftovers.values()].filter(isHere).length;
  const most = 1 + maxSurge;
  const live = workers + leftovers;
  hold(live <= most, `workers in slot ${slot} of pool ${pool} at a spawn: expected at most ${most}, got ${live}`);
}
