import { enumLabel } from './table.ts';
import type { PlanStepView, PlanView } from './views.ts';

/** What a plan changes, a line for each step. */
export function planText(plan: PlanView | null): string {
  if (plan === null || plan.pools.length + plan.node.length + plan.pools_left_out === 0) return 'nothing changes';
  const pools = plan.pools.flatMap(({ pool, size_now, size_planned, steps }) => {
    const sizes = size_now === size_planned ? `${size_now}` : `${size_now} → ${size_planned}`;
    return [`pool ${pool} (${sizes} workers):`, ...steps.map(stepText)];
  });
  const node = plan.node.length === 0 ? [] : ['node:', ...plan.node.map(stepText)];
  const leftOut = plan.pools_left_out === 0 ? [] : [`and ${plan.pools_left_out} more pools`];
  return [...node, ...pools, ...leftOut].join('\n');
}

function stepText({ kind, workers, why }: PlanStepView): string {
  const count = workers === 0 ? '' : ` ${workers} ${workers === 1 ? 'worker' : 'workers'}`;
  return `  ${enumLabel(kind)}${count}: ${why}`;
}
