import type { Draft } from './draft.ts';
import { putNode, putPool, record, workersOf } from './draft.ts';
import type { Adopted, Orders } from './event.ts';
import { becomeDue, noteGoodStart, resize } from './lifecycle.ts';
import { hasSuccessor } from './roll.ts';
import type { Leftover, Pool, State, Worker } from './state.ts';
import { newWorker } from './state.ts';

/** Workers that an earlier agent started are whole again once they have dialled in; until then they are as if their links
 * had just closed. */
export function adopt(draft: Draft, workers: readonly Adopted[], leftovers: readonly Leftover[]): void {
  putNode(draft, { leftovers: new Map(leftovers.map((leftover) => [leftover.workerId, leftover])) });
  for (const { pool } of leftovers) noteLeftovers(draft, pool);
  for (const each of workers) {
    const pool = draft.pools.get(each.pool);
    if (pool === undefined || draft.workers.has(each.id)) continue;
    take(draft, pool, each);
  }
  for (const pool of draft.pools.values()) putPool(draft, pool, { generations: generationsOf(draft, pool) });
  for (const pool of draft.pools.values()) goOnWithRoll(draft, pool);
}

/** A worker's successor has a higher generation, also when an earlier agent started the worker and only its leftovers are seen. */
export function generationsOf({ node }: Draft, pool: Pick<Pool, 'name' | 'generations'>): Map<number, number> {
  const generations = new Map(pool.generations);
  for (const leftover of node.leftovers.values()) {
    if (leftover.pool !== pool.name) continue;
    generations.set(leftover.slot, Math.max(leftover.generation, generations.get(leftover.slot) ?? 0));
  }
  return generations;
}

/** Of the roll that an earlier agent began: what no longer lives need not be replaced, and what was being replaced still is. */
function goOnWithRoll(draft: Draft, pool: Pool): void {
  const { roll } = pool;
  if (roll === null) return;
  const workers = workersOf(draft, pool.name);
  const old = workers.filter((worker) => roll.old.has(worker.id));
  putPool(draft, pool, { roll: { ...roll, old: new Set(old.map(({ id }) => id)) } });
  for (const worker of old) {
    if (worker.phase === 'ready' && hasSuccessor(worker, workers))
      becomeDue(draft, worker, 'roll', 'its replacement had begun under an earlier agent');
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

/** The pool's view names what its empty slots wait for. */
function noteLeftovers(draft: Draft, pool: string): void {
  if (draft.pools.has(pool)) draft.changed.pools.add(pool);
}

function take(draft: Draft, pool: Pool, adopted: Adopted): void {
  const { nowMs } = draft.facts;
  const { pid, spawnedAtMs, readyAtMs, ...born } = adopted;
  const wasReady = readyAtMs !== 0;
  const worker: Worker = {
    ...newWorker({
      ...born,
      // Of its start timeout it has what the clock left it, and a moment to find its new agent.
      deadlineMs: wasReady ? 0 : Math.max(born.startedAtMs + pool.config.start.timeoutMs, nowMs + findsAgentMs),
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

/** An agent that starts takes a while until it listens, and a worker tries several times a second. */
const findsAgentMs = 5_000;

/** What an earlier agent was told holds on, as far as the config has not changed its mind since. */
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

/** What the next agent should know of what this one was told. */
export function ordersOf({ node, pools }: Pick<State, 'node' | 'pools'>): Orders {
  const ordered = [...pools.values()].filter(
    ({ phase, size, config, roll }) =>
      phase !== 'removed' && (phase === 'draining' || size !== config.size || roll !== null),
  );
  return {
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
