import type { ProcessLimits } from '../../domain/config.ts';

/**
 * PITWARDEN_LIMITS, by which the SDK sets resource limits before any code of the application runs (_resource_limits.py); empty: none.
 * `heldByCgroup` need none. `tasksOfAll`: processes and threads of all workers together, whom the kernel counts as one user; 0: no limit.
 */
export function resourceLimits(
  { pids, memoryBytes, openFiles }: ProcessLimits,
  heldByCgroup: { readonly pids: boolean; readonly memory: boolean },
  tasksOfAll: number,
): string {
  const words: string[] = [];
  if (openFiles > 0) words.push(`open_files=${openFiles}`);
  if (memoryBytes > 0 && !heldByCgroup.memory) words.push(`data_bytes=${memoryBytes}`);
  if (pids > 0 && !heldByCgroup.pids && tasksOfAll > 0) words.push(`tasks=${tasksOfAll}`);
  return words.join(' ');
}

interface LimitedPool {
  readonly size: number;
  readonly config: { readonly limits: Pick<ProcessLimits, 'pids'>; readonly recycle: { readonly maxSurge: number } };
}

/**
 * What all workers of these pools may have of processes and threads; 0: any number. A limit that counts a user's tasks would
 * hit workers that keep to theirs, if another pool's workers have none.
 */
export function tasksOfAll(pools: Iterable<LimitedPool>): number {
  let sum = 0;
  for (const { size, config } of pools) {
    if (config.limits.pids === 0 && size > 0) return 0;
    sum += config.limits.pids * (size + config.recycle.maxSurge);
  }
  return sum;
}

/** Why `limits.pids` of a pool does not hold, in words; undefined: it does, if only for all workers together. */
export function whyNotLimited(
  { pids }: Pick<ProcessLimits, 'pids'>,
  heldByCgroup: { readonly pids: boolean },
  tasks: number,
  uid: number,
): string | undefined {
  if (pids === 0 || heldByCgroup.pids || (tasks > 0 && uid !== 0)) return undefined;
  const counted = 'no cgroup has a pids controller, and the kernel counts the processes of a user as a whole';
  return uid === 0 ? `${counted}, but not those of root` : `${counted}: it holds if each pool has a limits.pids`;
}
