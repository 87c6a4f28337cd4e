import { isDeepStrictEqual } from 'node:util';
import type { Action, Changes } from '../../src/domain/action.ts';
import type { State } from '../../src/domain/state.ts';
import type { NodeFacts, PoolNumbers } from '../../src/grpc/control/view.ts';
import { nodeView, poolView, workerView } from '../../src/grpc/control/view.ts';

/** What a follower of Watch knows: the views that came with the changes. */
export interface Follower {
  /** Applies the changes of a step, and throws if a list would now show something else. */
  follow(after: State, actions: readonly Action[]): void;
}

type View = Readonly<Record<string, unknown>>;

/** Measured and counted values change without a message. */
const measured: ReadonlySet<string> = new Set([
  'memory_available_bytes',
  'revision',
  'last_pong_at_ms',
  'ping_round_trip_ms',
  'missed_pings',
  'rss_bytes',
  'pss_bytes',
  'memory_bytes',
  'memory_source',
  'memory_slope_bytes_per_s',
  'memory_limit_in_ms',
  'cpu',
]);

/** Steps that publish nothing must not change a view. Only some of them are checked, because views are expensive. */
const looksEvery = 10;

const facts: NodeFacts = {
  ...{ nodeId: 'n', agentId: 'a', version: '1', pid: 1, startedAtMs: 1, configPath: 'c' },
  ...{ httpAddress: '', listenAddress: '', warnings: [] },
};
const numbers: PoolNumbers = { queued: 0, queuedBytes: 0, inFlight: 0, completed: 0, failed: 0 };

export function createFollower(): Follower {
  const believed = new Map<string, View>();
  let unseen = 0;
  return {
    follow: (after, actions) => {
      const published = actions.find((action) => action.type === 'publish');
      unseen = published === undefined ? unseen + 1 : 0;
      if (unseen % looksEvery !== 0) return;
      const views = viewsOf(after);
      if (published !== undefined) take(believed, views, published.changes);
      for (const [name, view] of views) {
        if (!isDeepStrictEqual(believed.get(name), view)) throw new Error(difference(name, believed.get(name), view));
      }
      for (const name of believed.keys()) {
        if (name !== 'node' && !views.has(name)) throw new Error(`Watch: expected to be told that ${name} is gone`);
      }
    },
  };
}

function take(believed: Map<string, View>, views: ReadonlyMap<string, View>, changes: Changes): void {
  const names = [
    ...changes.workers.map((id) => `worker ${id}`),
    ...changes.pools.map((name) => `pool ${name}`),
    ...(changes.node ? ['node'] : []),
  ];
  for (const name of names) {
    const view = views.get(name);
    if (view !== undefined) believed.set(name, view);
  }
  for (const { id } of changes.workersGone) believed.delete(`worker ${id}`);
  for (const name of changes.poolsGone) believed.delete(`pool ${name}`);
}

function viewsOf(state: State): Map<string, View> {
  const same = (ms: number): number => ms;
  const views = new Map<string, View>();
  if (state.revision > 0) views.set('node', seen(nodeView(state, facts)));
  for (const pool of state.pools.values()) {
    views.set(`pool ${pool.name}`, seen(poolView(pool, state, numbers, same)));
  }
  for (const worker of state.workers.values()) {
    const config = state.pools.get(worker.pool)?.config;
    views.set(`worker ${worker.id}`, seen(workerView(worker, config, undefined, same)));
  }
  return views;
}

function seen(view: object): View {
  return Object.fromEntries(Object.entries(view).filter(([name]) => !measured.has(name)));
}

function difference(name: string, believed: View | undefined, view: View): string {
  const fields = Object.keys(view).filter((field) => !isDeepStrictEqual(believed?.[field], view[field]));
  const differences = fields.map(
    (field) => `${field} ${JSON.stringify(believed?.[field])} for ${JSON.stringify(view[field])}`,
  );
  return `Watch: ${name}: expected what a list shows, got ${differences.join(', ')}`;
}
