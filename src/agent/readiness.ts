import type { State } from '../domain/state.ts';

/** The answer of `/readyz`. `problem`: why the runtime directory cannot be used; empty if it can. */
export function readiness(state: State, problem: string): { readonly ok: boolean; readonly text: string } {
  const { node, pools } = state;
  if (node.phase !== 'running') return { ok: false, text: `node is ${node.phase}` };
  if (problem !== '') return { ok: false, text: `the runtime directory cannot be used: ${problem}` };
  const ready = readyWorkers(state);
  const waiting = [...pools.values()].filter((pool) => pool.size > 0 && !ready.has(pool.name)).map((pool) => pool.name);
  if (waiting.length > 0) return { ok: false, text: `no ready worker in: ${waiting.sort().join(', ')}` };
  return { ok: true, text: 'ready' };
}

/** Whether every pool has all its workers ready. */
export function isFullyReady(state: State): boolean {
  const ready = readyWorkers(state);
  return state.pools.size > 0 && [...state.pools.values()].every((pool) => (ready.get(pool.name) ?? 0) >= pool.size);
}

/** Number of ready workers by pool; pools without any are missing. */
function readyWorkers({ workers }: State): ReadonlyMap<string, number> {
  const ready = new Map<string, number>();
  for (const { pool, phase, attached } of workers.values()) {
    if (phase === 'ready' && attached) ready.set(pool, (ready.get(pool) ?? 0) + 1);
  }
  return ready;
}
