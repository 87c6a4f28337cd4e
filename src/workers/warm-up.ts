import type { Action } from '../domain/action.ts';
import type { WorkerHandle } from './handle.ts';
import type { WorkerParts } from './parts.ts';

/**
 * Requests are numbered from 0. In serial number arithmetic this id comes before 0, so it marks no request as begun.
 */
export const warmUpLinkId = 0xffffffff;

export interface WarmUpResult {
  readonly id: number;
  readonly error: { readonly type: string; readonly message: string } | null;
}

/** Sends the warm-up request, which the worker runs before it is ready. */
export function warmUp(
  { enqueue }: Pick<WorkerParts, 'enqueue'>,
  handle: WorkerHandle | undefined,
  { workerId, command, payload }: Action & { readonly type: 'warm-up' },
): void {
  if (handle?.link === null || handle?.link === undefined) return;
  const known = handle.hello?.commands.some(({ name }) => name === command);
  if (known !== true) {
    const names = handle.hello?.commands.map(({ name }) => name).join(', ') || 'none';
    const error = `start.warm_up: expected a command of the app (${names.slice(0, 500)}), got "${command}"`;
    return enqueue({ type: 'warmed', workerId, error });
  }
  handle.warming = true;
  // The worker dialled again during its warm-up, which is still running.
  if (handle.hello?.resumed?.held.some(({ id, ended }) => id === warmUpLinkId && !ended) === true) return;
  handle.link.request({
    id: warmUpLinkId,
    command,
    payload: Buffer.from(payload),
    content_type: 'application/json',
    request_id: `warm-up-${workerId}`,
    session_id: '',
    // start.timeout limits it.
    timeout_ms: 0,
    keep: false,
  });
}

/** Handles the result of a warm-up; false if the result belongs to another request. */
export function warmedUp(
  { enqueue }: Pick<WorkerParts, 'enqueue'>,
  handle: WorkerHandle | undefined,
  { id, error }: WarmUpResult,
): boolean {
  if (id !== warmUpLinkId || handle === undefined || !handle.warming) return false;
  handle.warming = false;
  const { workerId } = handle;
  enqueue({ type: 'warmed', workerId, error: error === null ? '' : `${error.type}: ${error.message}` });
  return true;
}
