import { status } from '@grpc/grpc-js';
import { managingIntent } from '../../domain/intent.ts';
import type { Plan } from '../../domain/plan.ts';
import type { Intent, PoolIntent } from '../../domain/state.ts';
import { refuseWhenMoved } from './changes.ts';
import type { Caller } from './control-answers.ts';
import { isController, nameOf } from './managed.ts';
import { planView } from './plan-view.ts';
import { Refusal, refuseWhenStopping, text } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { nodeView } from './view.ts';

/** Takes up intents of a control plane, and ends its management. Neither method rejects. */
export interface DesiredSource {
  /** `isTrial`: stores and changes nothing. */
  set(intent: Intent, isTrial: boolean): Promise<SetOutcome>;
  /** `refusalOf`: why the management by this intent must not end; undefined: it may. */
  release(refusalOf: (intent: Intent | null) => ReleaseRefusal | undefined, by: string): Promise<ReleaseOutcome>;
}

export type SetOutcome =
  | { readonly kind: 'changed' | 'unchanged'; readonly plan: Plan }
  | { readonly kind: 'outdated' | 'unknown-pools' | 'unstored'; readonly message: string };

export interface ReleaseRefusal {
  readonly kind: 'outdated' | 'managed';
  readonly message: string;
}

export type ReleaseOutcome =
  | { readonly kind: 'released' }
  | { readonly kind: 'outdated' | 'managed' | 'unstored'; readonly message: string };

const refusals = {
  outdated: [status.FAILED_PRECONDITION, 'INTENT_OUTDATED'],
  managed: [status.FAILED_PRECONDITION, 'NODE_MANAGED'],
  'unknown-pools': [status.NOT_FOUND, 'POOL_NOT_FOUND'],
  unstored: [status.UNAVAILABLE, 'INTENT_NOT_STORED'],
} as const;

/**
 * A repeated call is known by its generation, which outlives the agent. So its answer is not kept by request_id: an answer that the
 * disk failed would else be repeated.
 */
export async function setDesired(source: ControlSource, request: ControlRequest, caller: Caller): Promise<object> {
  refuseWhenStopping(source);
  refuseWhenMoved(source, request);
  const isTrial = request['dry_run'] === true;
  const outcome = await source.desired.set(intentOf(request, nameOf(caller)), isTrial);
  if ('message' in outcome) throw refusalFrom(outcome);
  // The orders name the intent that they belong to.
  await source.ordersKept();
  const { revision, node } = source.state();
  const applied = managingIntent(node);
  return {
    cluster_uid: applied?.clusterUid ?? '',
    epoch: applied?.epoch ?? 0,
    generation: applied?.generation ?? 0,
    changed: outcome.kind === 'changed',
    plan: planView(outcome.plan),
    revision,
  };
}

export async function releaseNode(source: ControlSource, request: ControlRequest, caller: Caller): Promise<object> {
  refuseWhenStopping(source);
  const by = nameOf(caller);
  const outcome = await source.desired.release((intent) => releaseRefusal(intent, request, caller), by);
  if ('message' in outcome) throw refusalFrom(outcome);
  return nodeView(source.state(), source.node());
}

function refusalFrom({ kind, message }: { readonly kind: keyof typeof refusals; readonly message: string }): Refusal {
  const [code, reason] = refusals[kind];
  if (kind !== 'unstored') return new Refusal(code, message, reason);
  // A write that has started may still succeed.
  const outcome = 'the intent is not in force, and may be stored for the next agent';
  return new Refusal(code, `${outcome}: ${message}; repeat the call`, reason);
}

function releaseRefusal(intent: Intent | null, request: ControlRequest, caller: Caller): ReleaseRefusal | undefined {
  if (request['force'] === true || intent === null || intent.released) return undefined;
  const { clusterUid, epoch, controller } = intent;
  if (!isController(caller)) {
    const remedy = 'let it release the node, or repeat the call with force (pitwarden release --force)';
    return { kind: 'managed', message: `the node is managed by ${controller}: ${remedy}` };
  }
  const wanted = text(request, 'cluster_uid');
  const got = request['epoch'];
  const problem =
    wanted !== clusterUid
      ? `cluster_uid: expected ${clusterUid}, which manages this node, got "${wanted}"`
      : typeof got !== 'number' || got < epoch
        ? `epoch: expected at least ${epoch}, got ${String(got)}`
        : undefined;
  return problem === undefined ? undefined : { kind: 'outdated', message: problem };
}

const uidPattern = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/;
const sizeMax = 1_000;
const nameMaxLength = 1_000;

function intentOf(request: ControlRequest, controller: string): Intent {
  const clusterUid = text(request, 'cluster_uid');
  if (!uidPattern.test(clusterUid)) {
    const expected = '1 to 128 letters, digits and . _ : -, beginning with a letter or digit';
    throw new Refusal(status.INVALID_ARGUMENT, `cluster_uid: expected ${expected}, got ${JSON.stringify(clusterUid)}`);
  }
  const listed = Array.isArray(request['pools']) ? (request['pools'] as ControlRequest[]) : [];
  const pools = listed.map(poolIntentOf).sort((a, b) => (a.pool < b.pool ? -1 : 1));
  const twice = pools.find(({ pool }, index) => pools[index + 1]?.pool === pool);
  if (twice !== undefined)
    throw new Refusal(status.INVALID_ARGUMENT, `pools: expected each pool once, got "${twice.pool}" more often`);
  return {
    clusterUid,
    epoch: positive(request, 'epoch'),
    generation: positive(request, 'generation'),
    controller: controller.slice(0, nameMaxLength).toWellFormed(),
    released: false,
    drained: request['drained'] === true,
    pools,
  };
}

function positive(request: ControlRequest, key: string): number {
  const value = request[key];
  if (typeof value === 'number' && Number.isSafeInteger(value) && value > 0) return value;
  throw new Refusal(status.INVALID_ARGUMENT, `${key}: expected 1 to ${Number.MAX_SAFE_INTEGER}, got ${String(value)}`);
}

function poolIntentOf(request: ControlRequest): PoolIntent {
  const pool = text(request, 'pool');
  const { size, admission } = request;
  // Size 0 stops all workers, so it must be said.
  if (typeof size !== 'number' || size > sizeMax)
    throw new Refusal(status.INVALID_ARGUMENT, `pools: ${pool}: size: expected 0 to ${sizeMax}, got ${size ?? 'none'}`);
  if (admission !== 'POOL_ADMISSION_OPEN' && admission !== 'POOL_ADMISSION_DRAINED') {
    const expected = 'POOL_ADMISSION_OPEN or POOL_ADMISSION_DRAINED';
    throw new Refusal(
      status.INVALID_ARGUMENT,
      `pools: ${pool}: admission: expected ${expected}, got ${String(admission)}`,
    );
  }
  return { pool, size, drained: admission === 'POOL_ADMISSION_DRAINED' };
}
