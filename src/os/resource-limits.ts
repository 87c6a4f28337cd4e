import type { ProcessLimits } from '../domain/config.ts';

/**
 * PITWARDEN_LIMITS, by which the SDK sets resource limits before any code of the application runs (_limits.py); empty: none.
 * `heldByCgroup` need none. `workersMax`: how many workers this node may have, all of this user, whose tasks the kernel counts
 * together.
 */
export function resourceLimits(
  { pids, memoryBytes, openFiles }: ProcessLimits,
  heldByCgroup: { readonly pids: boolean; readonly memory: boolean },
  workersMax: number,
): string {
  const words: string[] = [];
  if (openFiles > 0) words.push(`open_files=${openFiles}`);
  if (memoryBytes > 0 && !heldByCgroup.memory) words.push(`data_bytes=${memoryBytes}`);
  if (pids > 0 && !heldByCgroup.pids) words.push(`tasks=${pids * Math.max(1, workersMax)}`);
  return words.join(' ');
}
