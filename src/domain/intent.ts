import type { Draft } from './draft.ts';
import { putNode, putPool, record } from './draft.ts';
import type { Orders } from './event.ts';
import { resize } from './lifecycle.ts';
import type { Intent, Pool, State } from './state.ts';
import { isStopping } from './state.ts';

/** The size and admission that a pool is to have. */
interface Wanted {
  readonly size: number;
  readonly drained: boolean;
  /** The intent says so; otherwise the config does. */
  readonly isNamed: boolean;
}

/** The intent that holds; null: the node is not managed. */
export function managingIntent({ intent }: Pick<State['node'], 'intent'>): Intent | null {
  return intent === null || intent.released ? null : intent;
}

/** Identifies the intent: `CLUSTER 3/17`, with epoch and generation. */
export function stampOf({ clusterUid, epoch, generation }: Intent): string {
  return `${clusterUid} ${epoch}/${generation}`;
}

/** What the intent, or without one the config, wants of the pool. A pool that the intent does not name is as the config says. */
export function wantedOf(intent: Intent | null, pool: { readonly name: string; readonly configSize: number }): Wanted {
  const named = intent?.pools.find((each) => each.pool === pool.name);
  if (named === undefined) return { size: pool.configSize, drained: false, isNamed: false };
  return { size: named.size, drained: named.drained, isNamed: true };
}

/** Whether the intent is to be taken up. `same`: it is in force already. */
export type Verdict =
  | { readonly kind: 'new' | 'same' }
  | { readonly kind: 'outdated' | 'unknown-pools'; readonly message: string };

/** Compares with the last intent, and with the pools that the node has. */
export function judgeIntent({ node, pools }: Pick<State, 'node' | 'pools'>, wanted: Intent): Verdict {
  const outdated = node.intent === null ? undefined : outdatedBy(node.intent, wanted);
  if (outdated !== undefined) return { kind: 'outdated', message: outdated };
  if (node.intent !== null && sameStamp(node.intent, wanted)) return { kind: 'same' };
  const unknown = wanted.pools.filter(({ pool }) => (pools.get(pool)?.phase ?? 'removed') === 'removed');
  if (unknown.length === 0) return { kind: 'new' };
  const known = [...pools.values()].filter(({ phase }) => phase !== 'removed').map(({ name }) => name);
  const [named, has] = [unknown.map(({ pool }) => `"${pool}"`), known.sort()].map(listed);
  const message = `pools: expected pools of this node (${has}), got ${named}; nothing was changed`;
  return { kind: 'unknown-pools', message };
}

const namesShown = 20;

function listed(names: readonly string[]): string {
  const more = names.length > namesShown ? ` and ${names.length - namesShown} more` : '';
  return `${names.slice(0, namesShown).join(', ') || 'none'}${more}`;
}

function outdatedBy(last: Intent, wanted: Intent): string | undefined {
  const applied = `applied is epoch ${last.epoch}, generation ${last.generation} of cluster ${last.clusterUid}, set by ${last.controller}`;
  if (wanted.clusterUid !== last.clusterUid) {
    if (last.released) return undefined;
    return `cluster_uid: expected ${last.clusterUid}, which manages this node until ReleaseNode, got ${wanted.clusterUid}; ${applied}`;
  }
  if (wanted.epoch < last.epoch) return `epoch: expected at least ${last.epoch}, got ${wanted.epoch}; ${applied}`;
  if (wanted.epoch > last.epoch) return undefined;
  if (wanted.generation < last.generation)
    return `generation: expected at least ${last.generation} in epoch ${last.epoch}, got ${wanted.generation}; ${applied}`;
  if (wanted.generation > last.generation) return undefined;
  const again = `generation: expected more than ${last.generation} in epoch ${last.epoch}`;
  if (last.released) return `${again}, because the node was released since, got ${wanted.generation}; ${applied}`;
  if (sameContent(last, wanted)) return undefined;
  return `${again} for other content, got ${wanted.generation}; ${applied}`;
}

function sameStamp(a: Intent, b: Intent): boolean {
  return stampOf(a) === stampOf(b);
}

/** Who sends it does not matter: another replica may repeat an intent. */
function sameContent(a: Intent, b: Intent): boolean {
  const content = ({ drained, pools }: Intent) =>
    JSON.stringify([drained, pools.map((p) => [p.pool, p.size, p.drained])]);
  return content(a) === content(b);
}

/** Takes up an intent: every pool gets its size and admission. The reconciler does the rest. */
export function applyIntent(draft: Draft, intent: Intent): void {
  if (isStopping(draft.node)) return;
  putNode(draft, { intent });
  for (const pool of draft.pools.values()) if (pool.phase !== 'removed') reach(draft, pool, wantedOfPool(intent, pool));
  admitNode(draft, !intent.drained);
  const { clusterUid, epoch, generation, controller } = intent;
  record(draft, {
    kind: 'intent_applied',
    message: `epoch ${epoch}, generation ${generation} of cluster ${clusterUid}, set by ${controller}`,
  });
}

function wantedOfPool(intent: Intent, { name, config }: Pool): Wanted {
  return wantedOf(intent, { name, configSize: config.size });
}

function reach(draft: Draft, pool: Pool, { size, drained }: Wanted): void {
  const sized = size === pool.size ? pool : resize(draft, pool, size);
  if (size !== pool.size)
    record(draft, {
      kind: 'pool_scaled',
      pool: pool.name,
      message: `from ${pool.size} to ${size} workers, as intended`,
    });
  const phase = drained ? 'draining' : 'running';
  if (phase === pool.phase) return;
  putPool(draft, sized, { phase });
  record(draft, {
    kind: drained ? 'pool_draining' : 'pool_resumed',
    pool: pool.name,
    message: drained ? 'no new requests, as intended' : 'takes requests again, as intended',
  });
}

function admitNode(draft: Draft, admits: boolean): void {
  const phase = admits ? 'running' : 'draining';
  if (phase === draft.node.phase) return;
  putNode(draft, { phase });
  record(draft, {
    kind: admits ? 'node_resumed' : 'node_draining',
    message: admits ? 'takes requests again, as intended' : 'no new requests, as intended',
  });
}

/**
 * Restores the intent that an earlier agent has stored. Orders that were given under it, by force, are newer and have been recalled
 * already: they stay. Older ones give way.
 */
export function recallIntent(draft: Draft, intent: Intent, orders: Orders | null): void {
  putNode(draft, { intent });
  if (intent.released) return;
  const newer = orders?.intent === stampOf(intent) ? orders : null;
  for (const pool of draft.pools.values()) {
    if (pool.phase === 'removed') continue;
    const wanted = wantedOfPool(intent, pool);
    const order = newer?.pools.find(({ pool: name }) => name === pool.name);
    if (order === undefined) reach(draft, pool, wanted);
    // A size that was ordered is void once the config asks for another one.
    else if (order.configSize !== pool.config.size) reach(draft, pool, { ...wanted, drained: order.draining });
  }
  if (newer === null) admitNode(draft, !intent.drained);
}

/** Ends management. Sizes and drains stay as they are. The fence stays too: what was refused before is refused afterwards. */
export function releaseIntent(draft: Draft, by: string): void {
  const { intent } = draft.node;
  if (intent === null || intent.released) return;
  // Without an intent there is no drift.
  for (const pool of draft.pools.values()) if (poolDrift(draft, pool) !== '') draft.changed.pools.add(pool.name);
  putNode(draft, { intent: { ...intent, released: true } });
  record(draft, {
    kind: 'intent_released',
    message: `cluster ${intent.clusterUid} no longer manages this node: ${by}`,
  });
}

/** A managed node was changed by force. */
export function noteForced(draft: Draft, name: string, message: string): void {
  const pool = draft.pools.get(name);
  const drift = (pool === undefined ? nodeDrift(draft) : poolDrift(draft, pool)) || 'as intended';
  record(draft, {
    kind: 'intent_forced',
    ...(pool === undefined ? {} : { pool: name }),
    message: `${message}: ${drift}`,
  });
}

/** How the pool differs from the intent, in one sentence; empty: it does not, or the node is not managed. */
export function poolDrift({ node }: Pick<State, 'node'>, pool: Pool): string {
  const intent = managingIntent(node);
  if (intent === null || pool.phase === 'removed') return '';
  const { size, drained } = wantedOfPool(intent, pool);
  const differs = [
    ...(size === pool.size ? [] : [`size ${pool.size} instead of ${size}`]),
    ...(drained === (pool.phase === 'draining')
      ? []
      : [drained ? 'open instead of drained' : 'drained instead of open']),
  ];
  return differs.join(', ');
}

/** How the node differs from the intent, apart from its pools; empty: it does not, or it is not managed. */
export function nodeDrift({ node, pools }: Pick<State, 'node' | 'pools'>): string {
  const intent = managingIntent(node);
  if (intent === null || isStopping(node)) return '';
  const missing = intent.pools.filter(({ pool }) => (pools.get(pool)?.phase ?? 'removed') === 'removed');
  const drains = node.phase === 'draining';
  const differs = [
    ...(intent.drained === drains ? [] : [drains ? 'drained instead of open' : 'open instead of drained']),
    ...(missing.length === 0 ? [] : [`not in the configuration: ${listed(missing.map(({ pool }) => pool))}`]),
  ];
  return differs.join('; ');
}
