import type { Plan, PlanStep, PoolPlan } from '../../domain/plan.ts';
import { takeFitting } from './paging.ts';

const stepKinds: Readonly<Record<PlanStep['kind'], string>> = {
  add: 'PLAN_STEP_KIND_ADD',
  remove: 'PLAN_STEP_KIND_REMOVE',
  scale: 'PLAN_STEP_KIND_SCALE',
  start: 'PLAN_STEP_KIND_START',
  stop: 'PLAN_STEP_KIND_STOP',
  replace: 'PLAN_STEP_KIND_REPLACE',
  roll: 'PLAN_STEP_KIND_ROLL',
  drain: 'PLAN_STEP_KIND_DRAIN',
  resume: 'PLAN_STEP_KIND_RESUME',
  configure: 'PLAN_STEP_KIND_CONFIGURE',
};

/** The fields of control.proto's Plan. */
export function planView({ pools, node }: Plan): object {
  const { views, rest } = takeFitting(pools, poolPlanView);
  return { pools: views, node: node.map(stepView), pools_left_out: rest.length };
}

function poolPlanView({ pool, sizeNow, sizePlanned, steps }: PoolPlan): object {
  return { pool, size_now: sizeNow, size_planned: sizePlanned, steps: steps.map(stepView) };
}

function stepView({ kind, workers, why }: PlanStep): object {
  return { kind: stepKinds[kind], workers, why };
}
