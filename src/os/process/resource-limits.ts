import type { ProcessLimits } from '../../domain/config.ts';

/**
 * The value of PITWARDEN_LIMITS, from which the SDK sets resource limits before any application code runs
 * (_resource_limits.py); empty: none. Limits that the cgroup enforces (`heldByCgroup`) are left out. `tasksOfAll`: the
 * limit on processes and threads of all workers together, because the kernel counts them per user; 0: no limit.
 */
export function resourceLimits(
  { pids, memoryBytes, openFiles }: ProcessLimits,
  heldByCgroup: { readonly pids: boolean; readonly memory: boolean },
  tasksOfAll: number,
): string {
  const settings: string[] = [];
  if (openFiles > 0) settings.push(`open_files=${openFiles}`);
  if (memoryBytes > 0 && !heldByCgroup.memory) settings.push(`data_bytes=${memoryBytes}`);
  if (pids > 0 && !heldByCgroup.pids && tasksOfAll > 0) settings.push(`tasks=${tasksOfAll}`);
  return settings.join(' ');
}

interface LimitedPool {
  readonly size: number;
  readonly config: { readonly limits: Pick<ProcessLimits, 'pids'>; readonly recycle: { readonly maxSurge: number } };
}

/**
 * How many processes and threads all workers of these pools may have together; 0: no limit. If one pool has no limit, a
 * per-user limit would hit workers of other pools that stay within theirs, so there is none.
 */
export function tasksOfAll(pools: Iterable<LimitedPool>): number {
  let sum = 0;
  for (const { size, config } of pools) {
    if (config.limits.pids === 0 && size > 0) return 0;
    sum += config.limits.pids * (size + config.recycle.maxSurge);
  }
  return sum;
}

/** Why `limits.pids` of a pool is not enforced; undefined if it is, even if only for all workers together. */
export function whyNotLimited(
  { pids }: Pick<ProcessLimits, 'pids'>,
  heldByCgroup: { readonly pids: boolean },
  tasks: number,
  uid: number,
): string | undefined {
  if (pids === 0 || heldByCgroup.pids || (tasks > 0 && uid !== 0)) return undefined;
  const counted =
    "there is no pids controller for cgroups, and the kernel's own limit counts all processes of a user together";
  return uid === 0 ? `${counted} and does not apply to root` : `${counted}, so every pool needs a limits.pids`;
}
