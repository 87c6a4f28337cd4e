import { applyConfig } from './apply-config.ts';
import { changedKeys, replacingKeys } from './changed-keys.ts';
import type { NodeConfig } from './config.ts';
import type { Draft } from './draft.ts';
import { draftOf, workersOf } from './draft.ts';
import { applyIntent } from './intent.ts';
import { isActive } from './roll.ts';
import type { Intent, Pool, State, Worker } from './state.ts';

/** What a change would do, if it were made now. */
export interface Plan {
  /** The pools that would change, by name. */
  readonly pools: readonly PoolPlan[];
  /** Steps of the node as a whole. */
  readonly node: readonly PlanStep[];
}

export interface PoolPlan {
  readonly pool: string;
  /** 0 if the pool does not exist, or is removed. */
  readonly sizeNow: number;
  readonly sizePlanned: number;
  readonly steps: readonly PlanStep[];
}

export const planStepKinds = [
  'add',
  'remove',
  'scale',
  'start',
  'stop',
  'replace',
  'roll',
  'drain',
  'resume',
  'configure',
] as const;

/**
 * `replace`: workers that run with an older configuration are replaced, as planned replacements are. `configure`: other keys
 * take effect, without another worker.
 */
export interface PlanStep {
  readonly kind: (typeof planStepKinds)[number];
  /** Number of workers that are started, stopped or replaced; 0 for other steps. */
  readonly workers: number;
  readonly why: string;
}

/** What this configuration would change. */
export function planConfig(state: State, config: NodeConfig, nowMs: number): Plan {
  return planChange(state, nowMs, 'the configuration changes', (draft) => applyConfig(draft, config, []));
}

/** What this intent would change. */
export function planIntent(state: State, intent: Intent, nowMs: number): Plan {
  const because = `epoch ${intent.epoch}, generation ${intent.generation} of ${intent.clusterUid}`;
  return planChange(state, nowMs, because, (draft) => applyIntent(draft, intent));
}

/**
 * Makes the change on a copy of the state, which is thrown away, and compares: so a plan cannot differ from what the change
 * itself would do.
 */
export function planChange(state: State, nowMs: number, because: string, change: (draft: Draft) => void): Plan {
  const draft = draftOf(state, { nowMs, random: () => 0, counters: () => undefined, queued: () => 0 });
  change(draft);
  const names = new Set([...state.pools.keys(), ...draft.pools.keys()]);
  const pools = [...names].sort().flatMap((name) => {
    const before = state.pools.get(name);
    const after = draft.pools.get(name);
    const steps = poolSteps(before, after, workersOf(state, name), because);
    if (steps.length === 0) return [];
    return [{ pool: name, sizeNow: sizeOf(before), sizePlanned: sizeOf(after), steps }];
  });
  return { pools, node: nodeSteps(state, draft, because) };
}

function sizeOf(pool: Pool | undefined): number {
  return exists(pool) ? pool.size : 0;
}

function exists(pool: Pool | undefined): pool is Pool {
  return pool !== undefined && pool.phase !== 'removed';
}

function poolSteps(
  before: Pool | undefined,
  after: Pool | undefined,
  workers: readonly Worker[],
  because: string,
): PlanStep[] {
  const active = workers.filter(isActive);
  if (!exists(before)) return exists(after) ? [...added(after), ...admissionSteps('running', after, because)] : [];
  if (!exists(after)) return removed(active);
  return [
    ...scaleSteps(before, after, active, because),
    ...replaceSteps(before, after, active),
    ...rollSteps(before, after, because),
    ...admissionSteps(before.phase, after, because),
  ];
}

function added({ size, config }: Pool): PlanStep[] {
  return [
    { kind: 'add', workers: 0, why: 'new in the configuration' },
    ...counted('start', size, `${size} of ${config.app}`),
  ];
}

function removed(active: readonly Worker[]): PlanStep[] {
  return [
    { kind: 'remove', workers: 0, why: 'no longer in the configuration' },
    ...counted('stop', active.length, 'they finish their requests first (drain.timeout)'),
  ];
}

function scaleSteps(before: Pool, after: Pool, active: readonly Worker[], because: string): PlanStep[] {
  const opened = [...after.slots.keys()].filter((slot) => !before.slots.has(slot)).length;
  const closed = active.filter(({ slot }) => before.slots.has(slot) && !after.slots.has(slot)).length;
  const why = `from ${before.size} to ${after.size} workers: ${because}`;
  return [
    ...(before.size === after.size ? [] : [{ kind: 'scale', workers: 0, why } as const]),
    ...counted('start', opened, 'the pool grows'),
    ...counted('stop', closed, 'the pool shrinks; they finish their requests first (drain.timeout)'),
  ];
}

/** The workers that would run with an older configuration, and the keys that take effect without another worker. */
function replaceSteps(before: Pool, after: Pool, active: readonly Worker[]): PlanStep[] {
  const keys = changedKeys(before.config, after.config).filter((key) => key !== 'size');
  const replacing = keys.filter((key) => replacingKeys.has(key));
  const inPlace = keys.filter((key) => !replacingKeys.has(key));
  const old = active.filter(({ slot, fingerprint }) => after.slots.has(slot) && fingerprint !== after.fingerprint);
  const changes = replacing.length > 0;
  return [
    ...counted('replace', changes ? old.length : 0, `${replacing.join(', ')}: as recycle.max_surge allows`),
    ...(changes && old.length === 0 ? [{ kind: 'configure', workers: 0, why: replacing.join(', ') } as const] : []),
    ...(inPlace.length > 0 ? [{ kind: 'configure', workers: 0, why: inPlace.join(', ') } as const] : []),
  ];
}

function rollSteps(before: Pool, after: Pool, because: string): PlanStep[] {
  if (after.roll === null || after.roll.id === before.roll?.id) return [];
  return [{ kind: 'roll', workers: after.roll.total, why: `${after.roll.id}: ${because}` }];
}

function admissionSteps(before: Pool['phase'], after: Pool, because: string): PlanStep[] {
  if (before === after.phase || after.phase === 'removed') return [];
  return [admissionStep(after.phase === 'draining', because)];
}

function nodeSteps(before: Pick<State, 'node'>, { node }: Pick<State, 'node'>, because: string): PlanStep[] {
  const drains = node.phase === 'draining';
  const floorChanges = node.host.floorBytes !== before.node.host.floorBytes;
  return [
    ...(drains === (before.node.phase === 'draining') ? [] : [admissionStep(drains, because)]),
    ...(floorChanges ? [{ kind: 'configure', workers: 0, why: 'memory_floor' } as const] : []),
  ];
}

function admissionStep(drains: boolean, because: string): PlanStep {
  return drains
    ? { kind: 'drain', workers: 0, why: `no new requests: ${because}` }
    : { kind: 'resume', workers: 0, why: `takes requests again: ${because}` };
}

function counted(kind: PlanStep['kind'], workers: number, why: string): PlanStep[] {
  return workers === 0 ? [] : [{ kind, workers, why }];
}
