import type { Core } from './core.ts';
import { delivery } from './delivery.ts';
import type { Request } from './request.ts';
import { isInWorker, isRunning, run } from './run.ts';

/**
 * A stream whose caller reads too slowly is paused in its worker. Its call decides when: grpc/execution/execute-stream.ts and
 * submit-item.ts, by the limits of flow-control.ts.
 */
export function setStreamPaused(core: Core, request: Request, paused: boolean): void {
  if (request.paused === paused) return;
  request.paused = paused;
  const link = core.workers.get(request.workerId)?.link;
  if (paused) {
    if (isRunning(request) || request.delivery === delivery.replaying) link?.pause(request.linkId);
  } else if (isInWorker(request) || request.run === run.kept) {
    // Even if the answer has arrived: the pause may have crossed it, and would hold back a replay.
    link?.resume(request.linkId);
  }
}
