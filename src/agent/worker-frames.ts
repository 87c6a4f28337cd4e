import type { Dispatch } from '../dispatch/dispatch.ts';
import type { WorkerFrame } from '../grpc/worker-link/source.ts';
import type { AppMetrics } from '../telemetry/app-metrics.ts';
import { warmUpLinkId } from '../workers/warm-up.ts';
import type { Workers } from '../workers/workers.ts';
import type { Loop } from './loop.ts';

export interface FrameParts {
  readonly workers: Pick<Workers, 'handles' | 'leaving' | 'noteEarly' | 'warmedUp'>;
  readonly apps: Pick<AppMetrics, 'receive'>;
  readonly dispatch: Dispatch;
  readonly loop: Pick<Loop, 'enqueue' | 'enqueueDeferred'>;
  nowMs(): number;
}

/** Passes each part of a worker's frame on to whom it concerns. */
export function receive(
  { workers, dispatch, loop, apps, nowMs }: FrameParts,
  workerId: string,
  frame: WorkerFrame,
): void {
  if (frame.pong !== null) {
    const { sequence, in_flight: running, oldest_request_ms: oldestMs, loop_lag_ms: loopLagMs } = frame.pong;
    const reported = { running, oldestMs, loopLagMs };
    loop.enqueueDeferred({ type: 'pong', workerId, sequence, atMs: nowMs(), reported });
  }
  workers.noteEarly(workerId, frame);
  if (frame.leaving) {
    workers.leaving(workerId);
    loop.enqueue({ type: 'leaving', workerId, leavingReason: frame.leaving_reason });
  }
  if (frame.replayed.length > 0) dispatch.onReplayed(workerId, frame.replayed);
  // A stream's chunks precede its result in a frame.
  for (const chunk of frame.chunks) dispatch.onChunk(workerId, chunk.id, chunk.payload, chunk.content_type);
  for (const result of frame.results) {
    if (result.id === warmUpLinkId && workers.warmedUp(workerId, result)) continue;
    dispatch.onResult(workerId, result.id, result);
  }
  if (frame.returned.length > 0) dispatch.onReturned(workerId, frame.returned);
  if (frame.progress.length > 0) dispatch.onProgress(workerId, frame.progress);
  // Last: nobody waits for it.
  const handle = frame.telemetry.length === 0 ? undefined : workers.handles.get(workerId);
  if (handle !== undefined) {
    apps.receive({ workerId, pool: handle.pool.name, slot: handle.entry.slot }, frame.telemetry);
  }
}
