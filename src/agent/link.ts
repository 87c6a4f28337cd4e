import type { Dispatch } from '../dispatch/dispatch.ts';
import type { MemoryBudget } from '../grpc/memory-budget.ts';
import type { ApiServer } from '../grpc/server.ts';
import { addWorkerLink } from '../grpc/worker-link/service.ts';
import type { WorkerFrame } from '../grpc/worker-link/source.ts';
import { reportRefusals } from '../telemetry/link-refusals.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { warmUpLinkId } from '../workers/warm-up.ts';
import type { Workers } from '../workers/workers.ts';
import type { Loop } from './loop.ts';

export interface LinkParts {
  readonly workers: Workers;
  readonly dispatch: Dispatch;
  readonly loop: Loop;
  readonly metrics: Pick<Metrics, 'linkRefusal'>;
  readonly budget: MemoryBudget;
  nowMs(): number;
}

/** Serves the workers: passes what arrives on their links to workers, dispatch and the loop. */
export function serveWorkers(link: ApiServer, parts: LinkParts): void {
  const { workers, dispatch, loop, metrics, budget, nowMs } = parts;
  addWorkerLink(
    link,
    {
      authenticate: workers.authenticate,
      check: workers.check,
      attached: workers.attach,
      closed: workers.linkClosed,
      refused: reportRefusals({ nowMs, count: metrics.linkRefusal, report: loop.enqueueDeferred }),
      frame: (workerId, frame, from) => {
        if (workers.isCurrent(workerId, from)) receive(parts, workerId, frame);
      },
      unsent: (workerId, linkIds, from) => {
        if (workers.isCurrent(workerId, from)) dispatch.onReturned(workerId, linkIds);
      },
    },
    budget,
  );
}

function receive({ workers, dispatch, loop, nowMs }: LinkParts, workerId: string, frame: WorkerFrame): void {
  if (frame.pong !== null) {
    const { sequence, in_flight: running, oldest_request_ms: oldestMs, loop_lag_ms: loopLagMs } = frame.pong;
    const reported = { running, oldestMs, loopLagMs };
    loop.enqueueDeferred({ type: 'pong', workerId, sequence, atMs: nowMs(), reported });
  }
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
}
