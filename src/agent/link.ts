import type { MemoryBudget } from '../grpc/memory-budget.ts';
import type { ApiServer } from '../grpc/server.ts';
import { addWorkerLink } from '../grpc/worker-link/service.ts';
import { reportRefusals } from '../telemetry/link-refusals.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { Workers } from '../workers/workers.ts';
import type { FrameParts } from './worker-frames.ts';
import { receive } from './worker-frames.ts';

export interface LinkParts extends FrameParts {
  readonly workers: Workers;
  readonly metrics: Pick<Metrics, 'linkRefusal'>;
  readonly budget: MemoryBudget;
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
