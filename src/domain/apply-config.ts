import { generationsOf } from './adopt.ts';
import type { NodeConfig, PoolConfig } from './config.ts';
import { launchFingerprint, workerFingerprint } from './config.ts';
import type { Draft } from './draft.ts';
import { putNode, putPool, record } from './draft.ts';
import { managingIntent, wantedOf } from './intent.ts';
import { resize } from './lifecycle.ts';
import { setHost } from './memory-floor.ts';
import { endRoll } from './roll.ts';
import type { Pool } from './state.ts';

/** Adds, removes and changes pools; the reconciler does the rest. The config has been validated already. */
export function applyConfig(draft: Draft, config: NodeConfig, restartNeeded: readonly string[]): void {
  if (draft.node.phase === 'stopping' || draft.node.phase === 'stopped') return;
  if (draft.node.configError !== '') putNode(draft, { configError: '' });
  noteRestartNeeded(draft, restartNeeded);
  setHost(draft, { floorBytes: config.memoryFloorBytes });
  for (const pool of draft.pools.values()) if (!config.pools.has(pool.name)) remove(draft, pool);
  for (const wanted of config.pools.values()) {
    const pool = draft.pools.get(wanted.name);
    if (pool === undefined) add(draft, wanted);
    else change(draft, pool, wanted);
  }
}

/** Keys that take effect with the agent's next start are reported once, and stay in the node's view. */
function noteRestartNeeded(draft: Draft, keys: readonly string[]): void {
  if (keys.join() === draft.node.restartNeeded.join()) return;
  putNode(draft, { restartNeeded: keys });
  if (keys.length === 0) return;
  record(draft, {
    kind: 'restart_needed',
    message: `these keys take effect when the agent is restarted: ${keys.join(', ')}`,
  });
}

function add(draft: Draft, config: PoolConfig): void {
  const wanted = wantedOf(managingIntent(draft.node), { name: config.name, configSize: config.size });
  const fingerprint = workerFingerprint(config);
  const pool: Pool = {
    name: config.name,
    config,
    fingerprint,
    launch: launchFingerprint(config),
    lastGoodConfig: null,
    startFailures: 0,
    quarantine: '',
    roll: null,
    phase: wanted.drained ? 'draining' : 'running',
    size: 0,
    slots: new Map(),
    generations: generationsOf(draft, { name: config.name, generations: new Map() }),
    failedStarts: 0,
    open: true,
    closedBecause: '',
    closingSinceMs: 0,
    lastFailure: null,
  };
  draft.actions.push({ type: 'set-pool', pool: config });
  resize(draft, pool, wanted.size);
  draft.changed.pools.add(config.name);
  record(draft, { kind: 'pool_added', pool: config.name, message: `${wanted.size} workers of ${config.app}` });
}

function remove(draft: Draft, pool: Pool): void {
  if (pool.phase === 'removed') return;
  const rest = endRoll(draft, pool, 'aborted', 'its pool was removed from the config');
  putPool(draft, rest, { phase: 'removed', closingSinceMs: draft.facts.nowMs, size: 0, slots: new Map() });
  record(draft, { kind: 'pool_changed', pool: pool.name, reason: 'config', message: 'removed from the config' });
}

function change(draft: Draft, pool: Pool, config: PoolConfig): void {
  const returns = pool.phase === 'removed';
  if (!returns && JSON.stringify(config) === JSON.stringify(pool.config)) return;
  const wanted = wantedOf(managingIntent(draft.node), { name: config.name, configSize: config.size });
  // An operator's size stays until the config asks for another size than before, and a control plane's until its next intent.
  const size = returns || (config.size !== pool.config.size && !wanted.isNamed) ? wanted.size : pool.size;
  const phase = returns ? (wanted.drained ? 'draining' : 'running') : pool.phase;
  const fingerprint = workerFingerprint(config);
  // A different launch config has not failed yet.
  const launch = launchFingerprint(config);
  const reset = launch === pool.launch ? {} : { startFailures: 0, quarantine: '', failedStarts: 0 };
  const next = putPool(draft, pool, { config, fingerprint, launch, phase, closingSinceMs: 0, ...reset });
  draft.actions.push({ type: 'set-pool', pool: config });
  resize(draft, next, size);
  record(draft, {
    kind: 'pool_changed',
    pool: pool.name,
    reason: 'config',
    message: `${size} workers of ${config.app}`,
  });
}
