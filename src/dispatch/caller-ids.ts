import { awaitCaller, cancelRun, dropPayload, forget, giveUp } from './completion.ts';
import type { Core } from './core.ts';
import { arm } from './core.ts';
import { delivery, deliveryEvents, hasEnded, moveDelivery } from './delivery.ts';
import type { DispatchPool } from './pool.ts';
import type { Request, RequestError, RequestSpec, ResponseSink } from './request.ts';
import { code, mayHaveBegun, refusal } from './request.ts';
import { isRunning, isRunOver, isWaiting, run } from './run.ts';
import { refuseStream } from './scheduling.ts';
import { setStreamPaused } from './stream-pause.ts';
import { claim, countUnclaimed, unclaimedBytesOf } from './unclaimed.ts';
import type { DispatchWorker } from './worker.ts';

/**
 * Requests whose callers gave them an id. A caller may repeat such a request after a connection or link broke, or an agent died.
 * The worker keeps its answer until the agent acknowledges it. docs/delivery.md is the contract.
 */

/** The caller cancelled the request, so nobody will repeat it. */
export function cancel(core: Core, request: Request, sink: ResponseSink): void {
  if (request.currentSink !== sink) return;
  giveUp(core, request, refusal(code.cancelled, 'the caller cancelled the request'));
  if (request.hasCallerId) forget(core, request, deliveryEvents.cancelled);
}

/**
 * The caller's call is over. A caller that has read the answer will not repeat the request. A caller whose connection broke may:
 * if it gave the request an id, the request goes on for `keepMs`, or its answer is kept.
 */
export function settle(core: Core, request: Request, sink: ResponseSink, delivered: boolean): void {
  if (request.currentSink !== sink) return;
  if (!request.hasCallerId)
    return giveUp(core, request, refusal(code.cancelled, 'the connection of the caller closed'));
  if (!hasEnded(request)) abandon(core, request);
  else if (delivered) forget(core, request, deliveryEvents.receiptProven);
  // A request that was given up at its deadline is not kept.
  else if (request.run === run.cancelled) forget(core, request, deliveryEvents.evicted);
  else abandon(core, request);
}

/** The request goes on without a caller for `keepMs`, or its end is kept for that long. */
function abandon(core: Core, request: Request): void {
  moveDelivery(request, deliveryEvents.sinkLost);
  request.currentSink = null;
  // Without room in memory a waiting request is dropped. A repetition is then a new request, held by its caller's connection.
  if (isWaiting(request) && !core.options.unclaimed.fits(unclaimedBytesOf(request))) {
    return callerGraceExpired(core, request);
  }
  if (hasEnded(request)) dropPayload(core, request);
  // Nobody reads the stream now, so nothing need hold it back.
  setStreamPaused(core, request, false);
  core.deadlines.remove(request);
  countUnclaimed(core, request);
  awaitCaller(core, request);
  boundKept(core, request);
}

/** Evicts the oldest kept ends beyond `keepMax`, so that callers who lose many connections do not fill the memory. */
function boundKept(core: Core, request: Request): void {
  const pool = core.pools.get(request.pool);
  const worker = core.workers.get(request.workerId);
  if (pool === undefined || !hasEnded(request)) return;
  const isKept = request.run === run.kept;
  if (!isKept) pool.undeliveredFailures.add(request);
  const kept = isKept ? (worker?.kept.values() ?? []) : pool.undeliveredFailures;
  let spare = (isKept ? (worker?.kept.size ?? 0) : pool.undeliveredFailures.size) - pool.limits.keepMax;
  for (const oldest of kept) {
    if (spare <= 0) return;
    if (oldest.delivery !== delivery.detached) continue;
    spare -= 1;
    core.deadlines.remove(oldest);
    forget(core, oldest, deliveryEvents.evicted);
  }
}

/** Nobody repeated the request in time, or there is no room to wait for that. */
export function callerGraceExpired(core: Core, request: Request): void {
  const isOver = isRunOver(request);
  forget(core, request, deliveryEvents.graceOver);
  if (!isOver)
    cancelRun(
      core,
      request,
      refusal(code.cancelled, 'the caller did not repeat the request in time (request.keep.for)'),
    );
}

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
    : refusal(code.invalidArgument, notTheSame(spec.requestId));
  if (wrong !== undefined) {
    // The earlier call keeps the request.
    sink.error(wrong);
    return undefined;
  }
  const before = request.currentSink;
  const isAnswered = hasEnded(request);
  // Only the earlier call knows when its own caller keeps up again. The new sink has nothing unread yet.
  setStreamPaused(core, request, false);
  moveDelivery(request, deliveryEvents.sinkBack);
  request.currentSink = sink;
  claim(core, request);
  // A sink that has received the end gets no second one.
  if (before !== null && !isAnswered) {
    const message = 'another call sent the request again with its request_id, and gets the answer';
    before.error(refusal(code.aborted, message, { mayHaveBegun: mayHaveBegun(request) }));
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
  return refusal(code.dataLoss, 'the answer is no longer kept', { workerId, mayHaveBegun: true });
}
