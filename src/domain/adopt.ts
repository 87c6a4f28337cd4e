import type { Draft } from './draft.ts';
import { putNode, putPool, record, workersOf } from './draft.ts';
import type { Adopted, Orders } from './event.ts';
import { managingIntent, stampOf } from './intent.ts';
import { becomeDue, noteGoodStart, resize } from './lifecycle.ts';
import { hasSuccessor } from './roll.ts';
import type { Leftover, Pool, State, Worker } from './state.ts';
import { newWorker } from './state.ts';

/**
 * Adopts workers that an earlier agent started. Until they dial in, they are treated as if their links had just closed.
 */
export function adopt(draft: Draft, workers: readonly Adopted[], leftovers: readonly Leftover[]): void {
  putNode(draft, { leftovers: new Map(leftovers.map((leftover) => [leftover.workerId, leftover])) });
  for (const { pool } of leftovers) noteLeftovers(draft, pool);
  for (const each of workers) {
    const pool = draft.pools.get(each.pool);
    if (pool === undefined || draft.workers.has(each.id)) continue;
    adoptWorker(draft, pool, each);
  }
  for (const pool of draft.pools.values()) putPool(draft, pool, { generations: generationsOf(draft, pool) });
  for (const pool of draft.pools.values()) resumeAdoptedRoll(draft, pool);
}

/**
 * The newest generation of each slot. A successor's generation must also exceed that of an earlier agent's worker of
 * which only leftovers remain.
 */
export function generationsOf({ node }: Draft, pool: Pick<Pool, 'name' | 'generations'>): Map<number, number> {
  const generations = new Map(pool.generations);
  for (const leftover of node.leftovers.values()) {
    if (leftover.pool !== pool.name) continue;
    generations.set(leftover.slot, Math.max(leftover.generation, generations.get(leftover.slot) ?? 0));
  }
  return generations;
}

/**
 * Continues a roll that an earlier agent began: workers that have exited need no replacement, and replacements that had
 * begun continue.
 */
function resumeAdoptedRoll(draft: Draft, pool: Pool): void {
  const { roll } = pool;
  if (roll === null) return;
  const workers = workersOf(draft, pool.name);
  const old = workers.filter((worker) => roll.old.has(worker.id));
  putPool(draft, pool, { roll: { ...roll, old: new Set(old.map(({ id }) => id)) } });
  for (const worker of old) {
    if (worker.phase === 'ready' && hasSuccessor(worker, workers))
      becomeDue(draft, worker, 'roll', 'an earlier agent had begun to replace it');
  }
}

export function leftoverSwept(draft: Draft, workerId: string): void {
  const leftover = draft.node.leftovers.get(workerId);
  if (leftover === undefined) return;
  const leftovers = new Map(draft.node.leftovers);
  leftovers.delete(workerId);
  putNode(draft, { leftovers });
  noteLeftovers(draft, leftover.pool);
}

/** The pool's view lists what its empty slots wait for, so it changes too. */
function noteLeftovers(draft: Draft, pool: string): void {
  if (draft.pools.has(pool)) draft.changed.pools.add(pool);
}

function adoptWorker(draft: Draft, pool: Pool, adopted: Adopted): void {
  const { nowMs } = draft.facts;
  const { pid, spawnedAtMs, readyAtMs, ...spec } = adopted;
  const wasReady = readyAtMs !== 0;
  const worker: Worker = {
    ...newWorker({
      ...spec,
      // The rest of its start timeout, but at least long enough to find its new agent.
      deadlineMs: wasReady ? 0 : Math.max(spec.startedAtMs + pool.config.start.timeoutMs, nowMs + findsAgentMs),
      warmUp: pool.config.start.warmUp,
    }),
    pid,
    spawnedAtMs,
    readyAtMs,
    phase: wasReady ? 'ready' : 'starting',
    linkLostAtMs: wasReady ? nowMs : 0,
  };
  draft.workers.set(worker.id, worker);
  draft.changed.workers.add(worker.id);
  draft.changed.pools.add(pool.name);
  const generation = Math.max(worker.generation, pool.generations.get(worker.slot) ?? 0);
  putPool(draft, pool, { generations: new Map(pool.generations).set(worker.slot, generation) });
  if (wasReady) noteGoodStart(draft, worker);
  record(draft, {
    kind: 'worker_adopted',
    pool: pool.name,
    workerId: worker.id,
    message: `slot ${worker.slot}, generation ${worker.generation}, pid ${pid}`,
  });
}

/** A starting agent takes a while until it listens; a worker dials several times a second. */
const findsAgentMs = 5_000;

/** Restores the orders of an earlier agent, except a size if the config asks for another one by now. */
export function recallOrders(draft: Draft, orders: Orders): void {
  for (const order of orders.pools) {
    const pool = draft.pools.get(order.pool);
    if (pool === undefined || pool.phase !== 'running') continue;
    const sized =
      pool.config.size === order.configSize && order.size !== pool.size ? resize(draft, pool, order.size) : pool;
    const roll = order.roll === null ? null : { ...order.roll, old: new Set(order.roll.old) };
    putPool(draft, sized, { roll: sized.roll ?? roll, phase: order.draining ? 'draining' : sized.phase });
  }
  if (orders.nodeDraining && draft.node.phase === 'running') putNode(draft, { phase: 'draining' });
}

/** The orders that the next agent should restore. */
export function ordersOf({ node, pools }: Pick<State, 'node' | 'pools'>): Orders {
  const intent = managingIntent(node);
  const ordered = [...pools.values()].filter(
    ({ phase, size, config, roll }) =>
      phase !== 'removed' && (intent !== null || phase === 'draining' || size !== config.size || roll !== null),
  );
  return {
    ...(intent === null ? {} : { intent: stampOf(intent) }),
    nodeDraining: node.phase === 'draining',
    pools: ordered.map(({ name, phase, size, config, roll }) => ({
      pool: name,
      draining: phase === 'draining',
      size,
      configSize: config.size,
      roll: roll === null ? null : { ...roll, old: [...roll.old] },
    })),
  };
}
