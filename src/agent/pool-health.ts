import type { State, Worker } from '../domain/state.ts';
import type { ReportedHealth } from '../grpc/api.ts';
import type { Listener } from '../grpc/control/source.ts';
import type { ServingStatus } from '../grpc/health.ts';

/**
 * The health of those of these pools that the node has. A pool serves while it takes requests and has a worker for them. A quarantined
 * pool may serve, because it runs its last good config: if it did not, one bad config would take a pool down on all nodes.
 */
export function poolHealth({ pools, workers }: State, names: Iterable<string>): ReadonlyMap<string, ServingStatus> {
  const health = new Map<string, ServingStatus>();
  for (const name of names) if (pools.has(name)) health.set(name, 'NOT_SERVING');
  if (health.size === 0) return health;
  for (const worker of workers.values()) {
    if (health.has(worker.pool) && pools.get(worker.pool)?.open && takesRequests(worker)) {
      health.set(worker.pool, 'SERVING');
    }
  }
  return health;
}

/** Dispatch sends no requests to a worker that is busy or hung, or whose link is lost. */
function takesRequests({ phase, attached, health }: Worker): boolean {
  return phase === 'ready' && attached && health !== 'busy' && health !== 'hung';
}

/** Returns the listener that reports the health of the node and its pools after each step. */
export function healthReporter(reported: ReportedHealth, state: () => State): Listener {
  let { phase } = state().node;
  return (changes) => {
    const { node, pools } = state();
    let names: Iterable<string> = changes.pools;
    // A change of the node's phase opens or closes every pool.
    if (node.phase !== phase) {
      phase = node.phase;
      names = pools.keys();
      reported.setNode(phase === 'running' ? 'SERVING' : 'NOT_SERVING');
    }
    for (const [pool, status] of poolHealth(state(), names)) reported.setPool(pool, status);
    for (const pool of changes.poolsGone) reported.removePool(pool);
  };
}
