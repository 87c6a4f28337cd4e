import type { Core } from './core.ts';
import { arm } from './core.ts';
import { deliveryEvents, isAnswered, moveDelivery } from './delivery.ts';
import type { DispatchPool } from './pool.ts';
import type { Request, RequestError, RequestSpec, ResponseSink } from './request.ts';
import { code, mayHaveBegun, requestError } from './request.ts';
import { isRunning, isRunOver, run } from './run.ts';
import { refuseStream } from './scheduling.ts';
import { setStreamPaused } from './stream-pause.ts';
import { claim } from './unclaimed.ts';
import type { DispatchWorker } from './worker.ts';

/**
 * Requests whose callers gave them an id. A caller may repeat such a request after a connection or link broke, or an agent died.
 * The worker keeps its answer until the agent acknowledges it (caller-left.ts). docs/delivery.md is the contract.
 */

/** A request was repeated by its id: its answer goes to the new sink. */
export function repeat(
  core: Core,
  pool: DispatchPool,
  request: Request,
  spec: RequestSpec,
  sink: ResponseSink,
): Request | undefined {
  const wrong = isSame(core, request, spec)
    ? refuseStream(offersStream(pool, request.command), spec)
    : requestError(code.invalidArgument, notTheSame(spec.requestId));
  if (wrong !== undefined) {
    // The earlier call keeps the request.
    sink.error(wrong);
    return undefined;
  }
  const before = request.currentSink;
  const wasAnswered = isAnswered(request);
  // Only the earlier call knows when its own caller keeps up again. The new sink has nothing unread yet.
  setStreamPaused(core, request, false);
  moveDelivery(request, deliveryEvents.sinkBack);
  request.currentSink = sink;
  claim(core, request);
  // A sink that has received the end gets no second one.
  if (before !== null && !wasAnswered) {
    const message = 'another call sent the request again with its request_id, and gets the answer';
    before.error(requestError(code.aborted, message, { reason: 'REPEATED', mayHaveBegun: mayHaveBegun(request) }));
  }
  request.streams = spec.streams;
  request.idempotent = spec.idempotent;
  request.chunksDelivered = 0;
  request.chunksToSkip = 0;
  const worker = core.workers.get(request.workerId);
  if (isRunOver(request) && request.run !== run.kept) {
    // Still running past its deadline: keep the timer that reports that.
    if (request.run !== run.cancelled) core.deadlines.remove(request);
    moveDelivery(request, deliveryEvents.ended);
    sink.error(request.endError ?? lostAnswer(request));
    return request;
  }
  core.deadlines.remove(request);
  supply(request, spec);
  request.deadlineMs = Number.isFinite(spec.deadlineMs)
    ? spec.deadlineMs
    : core.options.nowMs() + pool.limits.requestTimeoutMs;
  core.deadlines.add(request, request.deadlineMs);
  arm(core);
  if (worker !== undefined) askAgain(worker, request);
  if (isRunning(request) && request.progress !== null) sink.progress?.(request.progress);
  return request;
}

/** Whether the command streams, as the first worker that offers it says. */
function offersStream(pool: DispatchPool, command: string): boolean {
  for (const worker of pool.workers) {
    const offered = worker.commands.get(command);
    if (offered !== undefined) return offered.streams;
  }
  return false;
}

function isSame(core: Core, request: Request, spec: RequestSpec): boolean {
  if (request.command !== spec.command || request.payloadBytes !== spec.payload.length) return false;
  const { droppedPayloadCrc32 } = request;
  return droppedPayloadCrc32 === null
    ? request.payload.equals(spec.payload)
    : droppedPayloadCrc32 === core.options.checksum(spec.payload);
}

export function notTheSame(requestId: string): string {
  return `request_id: expected a new one, or command and payload of the request that has it, got "${requestId}" with others`;
}

/** Takes the payload from a repetition, if the agent has only its checksum. */
function supply(request: Request, spec: RequestSpec): void {
  if (request.droppedPayloadCrc32 === null || isRunOver(request)) return;
  request.payload = spec.payload;
  request.contentType = spec.contentType;
  request.droppedPayloadCrc32 = null;
}

/** Asks the worker for the answer from its beginning, if the new sink has missed a part of it. */
export function askAgain(worker: DispatchWorker, request: Request): void {
  if (request.run !== run.kept && !(isRunning(request) && request.mayHaveEmitted)) return;
  moveDelivery(request, deliveryEvents.replayAsked);
  request.pendingReplays += 1;
  worker.link.replay(request.linkId);
  // A new link knows of no pauses.
  if (request.paused) worker.link.pause(request.linkId);
}

function lostAnswer({ workerId }: Request): RequestError {
  return requestError(code.dataLoss, 'the answer is no longer kept', { workerId, mayHaveBegun: true });
}
