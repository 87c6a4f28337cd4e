import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { Dispatch } from '../dispatch/dispatch.ts';
import { createDispatch } from '../dispatch/dispatch.ts';
import type { MemoryAccount } from '../grpc/memory-budget.ts';
import { setWakeUp } from '../os/timer.ts';
import { createFailedRequests } from '../telemetry/failed-requests.ts';
import type { Log } from '../telemetry/log.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { Loop } from './loop.ts';

const fingerprintedBytes = 64 * 1024;

export interface RequestParts {
  nowMs(): number;
  readonly loop: Pick<Loop, 'enqueue'>;
  readonly metrics: Pick<Metrics, 'outcome'>;
  readonly log: Log;
  /** Accounts for memory held on behalf of callers that have left. */
  readonly unclaimed: MemoryAccount;
}

/** Creates the dispatch and its timer, and passes what dispatch reports to the loop, the metrics and the log. */
export function createAgentDispatch({ nowMs, loop, metrics, log, unclaimed }: RequestParts): Dispatch {
  let timer: NodeJS.Timeout | null = null;
  const arm = (atMs: number): void => {
    if (timer !== null) clearTimeout(timer);
    timer = Number.isFinite(atMs) ? setWakeUp(() => arm(dispatch.expire()), Math.max(1, atMs - nowMs())) : null;
    timer?.unref();
  };
  const dispatch = createDispatch({
    nowMs,
    onIdle: (workerId) => loop.enqueue({ type: 'idle', workerId }),
    onBudgetSpent: (workerId) => loop.enqueue({ type: 'budget-spent', workerId }),
    onOutcome: metrics.outcome,
    onFailed: createFailedRequests(log, nowMs),
    onOverdue: (workerId, message) => loop.enqueue({ type: 'overdue', workerId, message }),
    onPoisoned: (pool, message) => loop.enqueue({ type: 'poisoned', pool, message }),
    fingerprint,
    checksum: crc32,
    onDeadline: arm,
    unclaimed,
  });
  return dispatch;
}

/** Of a large payload only the length and the first 64 KiB are hashed: hashing 64 MiB takes 40 ms. */
function fingerprint({ command, payload }: { readonly command: string; readonly payload: Buffer }): string {
  const hash = createHash('sha256').update(`${command}\0${payload.length}\0`);
  return hash.update(payload.subarray(0, fingerprintedBytes)).digest('base64');
}
