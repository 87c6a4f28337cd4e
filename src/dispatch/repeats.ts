import type { Core, Pool, WorkerResult } from './core.ts';
import { arm, isAfter, newRequest, nothing } from './core.ts';
import { delivery, deliveryEvents, hasEnded, moveDelivery } from './delivery.ts';
import {
  awaitCaller,
  awaitEnd,
  dropPayload,
  end,
  endByWorker,
  endGivenUp,
  fail,
  forget,
  giveUp,
  keepIn,
  stop,
} from './ends.ts';
import { displace, place, refuseStream, release, requeue, serveQueue, setPaused } from './placing.ts';
import type { Answers, Ask, Request, RequestError } from './request.ts';
import { code, mayHaveBegun, refusal } from './request.ts';
import { isGivenUp, isRunning, isRunOver, isWaiting, moveRun, run, runEvents } from './run.ts';
import { claim, countUnclaimed, unclaimedBytesOf } from './unclaimed.ts';
import type { DispatchWorker, HeldRequest, NewWorker, Resumed } from './worker.ts';

/**
 * Requests that their callers named: they may be asked for again when a connection broke, a line did, or an agent died. A
 * worker keeps what it said of them until it is acknowledged; docs/delivery.md is the contract.
 */

/** Its caller said so: nobody will ask for it again. */
export function cancel(core: Core, request: Request, answers: Answers): void {
  if (request.currentSink !== answers) return;
  giveUp(core, request, refusal(code.cancelled, 'the caller cancelled the request'));
  if (request.named) forget(core, request, deliveryEvents.cancelled);
}

/**
 * The caller's call is over. One that has its answer will not ask again. One whose connection broke may: a request that it
 * named goes on for a while, or its answer is kept.
 */
export function settle(core: Core, request: Request, answers: Answers, delivered: boolean): void {
  if (request.currentSink !== answers) return;
  if (!request.named) return giveUp(core, request, refusal(code.cancelled, 'the connection of the caller closed'));
  if (!hasEnded(request)) abandon(core, request);
  else if (delivered) forget(core, request, deliveryEvents.receiptProven);
  // One that was given up at its deadline is of no use to anybody.
  else if (request.run === run.cancelled) forget(core, request, deliveryEvents.evicted);
  else abandon(core, request);
}

/** Nobody is there for it: it goes on for a while, or its answer is kept. */
function abandon(core: Core, request: Request): void {
  moveDelivery(request, deliveryEvents.sinkLost);
  request.currentSink = null;
  // Where memory has no room for one that waits, it is new to a caller that asks again, whose connection then holds it.
  if (isWaiting(request) && !core.options.unclaimed.fits(unclaimedBytesOf(request))) {
    return callerGraceExpired(core, request);
  }
  if (hasEnded(request)) dropPayload(core, request);
  // What it did not read of a stream is wanted by nobody now.
  setPaused(core, request, false);
  core.deadlines.remove(request);
  countUnclaimed(core, request);
  awaitCaller(core, request);
  boundKept(core, request);
}

/** Where callers lose many connections, the oldest of what is kept for them goes. */
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

/** A named request's worker has answered it, and keeps the answer. */
export function answeredAndKept(core: Core, worker: DispatchWorker, request: Request, result: WorkerResult): void {
  moveRun(request, runEvents.answeredAndKept);
  keepIn(worker, request);
  // Who waits for a replay is handed that.
  if (request.delivery === delivery.replaying && request.pendingReplays > 0) return;
  endByWorker(core, request, result, false);
}

/** The time in which its caller could have come back is over, or it is not kept for so long. */
export function callerGraceExpired(core: Core, request: Request): void {
  const isOver = isRunOver(request);
  forget(core, request, deliveryEvents.graceOver);
  if (!isOver)
    stop(core, request, refusal(code.cancelled, 'the caller did not repeat the request in time (request.keep.for)'));
}

/** A request that is known by its name: its answer goes to who asks now. */
export function repeat(core: Core, pool: Pool, request: Request, ask: Ask, answers: Answers): Request | undefined {
  const wrong = isSame(core, request, ask)
    ? refuseStream(streams(pool, request.command), ask)
    : refusal(code.invalidArgument, notTheSame(ask.requestId));
  if (wrong !== undefined) {
    // The call that has it keeps it.
    answers.error(wrong);
    return undefined;
  }
  const before = request.currentSink;
  const isAnswered = hasEnded(request);
  moveDelivery(request, deliveryEvents.sinkBack);
  request.currentSink = answers;
  claim(core, request);
  // One that was handed the answer has had its end.
  if (before !== null && !isAnswered) {
    const message = 'another call sent the request again with its request_id, and gets the answer';
    before.error(refusal(code.aborted, message, { mayHaveBegun: mayHaveBegun(request) }));
  }
  request.streams = ask.streams;
  request.idempotent = ask.idempotent;
  request.chunksDelivered = 0;
  request.chunksToSkip = 0;
  const worker = core.workers.get(request.workerId);
  if (isRunOver(request) && request.run !== run.kept) {
    // One that its worker still runs, against its deadline, stays under watch.
    if (request.run !== run.cancelled) core.deadlines.remove(request);
    moveDelivery(request, deliveryEvents.ended);
    answers.error(request.endError ?? lostAnswer(request));
    return request;
  }
  core.deadlines.remove(request);
  supply(request, ask);
  request.deadlineMs = Number.isFinite(ask.deadlineMs)
    ? ask.deadlineMs
    : core.options.nowMs() + pool.limits.requestTimeoutMs;
  core.deadlines.add(request, request.deadlineMs);
  arm(core);
  if (worker !== undefined) askAgain(worker, request);
  if (isRunning(request) && request.progress !== null) answers.progress?.(request.progress);
  return request;
}

/** By any worker that offers it. */
function streams(pool: Pool, command: string): boolean {
  for (const worker of pool.workers) {
    const offered = worker.commands.get(command);
    if (offered !== undefined) return offered.streams;
  }
  return false;
}

function isSame(core: Core, request: Request, ask: Ask): boolean {
  if (request.command !== ask.command || request.payloadBytes !== ask.payload.length) return false;
  const { droppedPayloadCrc32 } = request;
  return droppedPayloadCrc32 === null
    ? request.payload.equals(ask.payload)
    : droppedPayloadCrc32 === core.options.checksum(ask.payload);
}

/** What a worker held is known by its checksum alone until its caller brings the payload again. */
function supply(request: Request, ask: Ask): void {
  if (request.droppedPayloadCrc32 === null || isRunOver(request)) return;
  request.payload = ask.payload;
  request.contentType = ask.contentType;
  request.droppedPayloadCrc32 = null;
}

/** Has the worker say again what its caller has not got. */
function askAgain(worker: DispatchWorker, request: Request): void {
  if (request.run !== run.kept && !(isRunning(request) && request.mayHaveEmitted)) return;
  moveDelivery(request, deliveryEvents.replayAsked);
  request.pendingReplays += 1;
  worker.link.replay(request.linkId);
}

export function onReplayed(core: Core, workerId: string, linkIds: readonly number[]): void {
  const worker = core.workers.get(workerId);
  for (const linkId of linkIds) {
    const request = worker?.running.get(linkId) ?? worker?.kept.get(linkId);
    if (request === undefined || request.pendingReplays === 0) continue;
    request.pendingReplays -= 1;
    request.chunksToSkip = request.chunksDelivered;
  }
}

/** The end of an answer that was asked for again; its request was counted when it ended. */
export function onReplayEnd(core: Core, worker: DispatchWorker, linkId: number, result: WorkerResult): void {
  const request = worker.kept.get(linkId);
  if (request === undefined || request.delivery !== delivery.replaying || request.pendingReplays > 0) return;
  endByWorker(core, request, result, true);
}

function lostAnswer({ workerId }: Request): RequestError {
  return refusal(code.dataLoss, 'the answer is no longer kept', { workerId, mayHaveBegun: true });
}

/** A kept answer went with its worker. */
export function loseKept(core: Core, pool: Pool, request: Request, error: RequestError): void {
  const told = { ...error, mayHaveBegun: mayHaveBegun(request) };
  moveRun(request, runEvents.workerLost);
  if (request.delivery === delivery.replaying) return end(core, request, told, null, true);
  request.endError = error;
  if (request.delivery !== delivery.detached) return;
  pool.undeliveredFailures.add(request);
  countUnclaimed(core, request);
}

/** It may be one that a worker from before has: that is known once those have dialled in. */
export function awaitExpected(pool: Pool, request: Request): void {
  moveRun(request, runEvents.heldBack);
  pool.waiting.push(request);
}

export function noLongerExpected(core: Core, pool: Pool, workerId: string): void {
  if (!pool.expected.delete(workerId) || pool.expected.size > 0) return;
  for (let request = pool.waiting.first(); request !== null; request = pool.waiting.first()) {
    pool.waiting.remove(request);
    moveRun(request, runEvents.admitted);
    pool.queue.push(request);
  }
  serveQueue(core, pool);
}

/** What a worker brings along from an earlier agent. Nobody waits for what its caller did not name. */
export function takeOver(core: Core, pool: Pool, worker: DispatchWorker, resumed: Resumed): void {
  const { counters } = worker;
  worker.nextLinkId = resumed.last_id;
  counters.completed = resumed.completed;
  counters.failed = resumed.failed;
  for (const held of resumed.held) {
    // A worker that names a link id twice would be counted to have more than it can ever answer.
    if (!worker.running.has(held.id) && !worker.kept.has(held.id)) takeHeld(core, pool, worker, held);
  }
  if (worker.maxRequests > 0 && counters.completed + counters.failed >= worker.maxRequests) {
    core.options.onBudgetSpent(worker.workerId);
  }
}

function takeHeld(core: Core, pool: Pool, worker: DispatchWorker, held: HeldRequest): void {
  if (!held.keep && held.ended) return;
  const named = held.keep && !held.cancelled ? pool.named.get(held.request_id) : undefined;
  const isAsked = named?.run === run.awaitingEarlierWorkers;
  // Cancelled, or another of that name runs elsewhere: nobody will ask for this one.
  const isWanted = held.keep && !held.cancelled && (named === undefined || isAsked);
  if (held.ended && !isWanted) return worker.link.ack(held.id);
  const request = isAsked && isSameAsked(core, worker, named, held) ? named : heldRequest(core, pool, held);
  request.workerId = worker.workerId;
  request.linkId = held.id;
  request.sentAtMs = core.options.nowMs() - held.age_ms;
  request.attempts = Math.max(1, request.attempts);
  if (held.ended) {
    moveRun(request, runEvents.foundAnswered);
    keepIn(worker, request);
  } else {
    moveRun(request, isWanted ? runEvents.foundRunning : runEvents.foundCancelled);
    request.mayHaveEmitted = true;
    worker.running.set(held.id, request);
    worker.payloadBytes += request.payloadBytes;
    worker.counters.inFlight += 1;
    pool.inFlight += 1;
    if (!isWanted) {
      worker.link.cancel(held.id);
      awaitEnd(core, request);
      forget(core, request, deliveryEvents.evicted);
    }
  }
  if (isWanted) index(core, pool, worker, request);
}

/** It is known by its name now; who has asked for it already gets it. */
function index(core: Core, pool: Pool, worker: DispatchWorker, request: Request): void {
  pool.named.set(request.requestId, request);
  if (request.currentSink !== null) return askAgain(worker, request);
  // Its caller may have come and gone before the worker: it has a time already.
  core.deadlines.remove(request);
  countUnclaimed(core, request);
  awaitCaller(core, request);
}

/** A caller waits for it. False: what it asks is something else, and it is told so. */
function isSameAsked(core: Core, worker: DispatchWorker, waiting: Request, held: HeldRequest): boolean {
  const isSameRequest =
    waiting.command === held.command &&
    waiting.payloadBytes === held.payload_bytes &&
    core.options.checksum(waiting.payload) === held.payload_crc32;
  const wrong = isSameRequest
    ? refuseStream(worker.commands.get(held.command)?.streams === true, waiting)
    : refusal(code.invalidArgument, notTheSame(held.request_id));
  if (wrong !== undefined) {
    fail(core, waiting, wrong);
    return false;
  }
  core.pools.get(waiting.pool)?.waiting.remove(waiting);
  return true;
}

function notTheSame(requestId: string): string {
  return `request_id: expected a new one, or command and payload of the request that has it, got "${requestId}" with others`;
}

/** One that waits for its caller. */
function heldRequest(core: Core, pool: Pool, held: HeldRequest): Request {
  const nowMs = core.options.nowMs();
  const ask = {
    pool: pool.name,
    command: held.command,
    payload: nothing,
    contentType: '',
    requestId: held.request_id,
    named: held.keep,
    sessionId: '',
    idempotent: false,
    deadlineMs: held.remaining_ms > 0 ? nowMs + held.remaining_ms : Number.POSITIVE_INFINITY,
    streams: true,
  };
  const request = newRequest(ask, null, nowMs - held.age_ms, pool.limits.requestTimeoutMs + held.age_ms);
  request.payloadBytes = held.payload_bytes;
  request.droppedPayloadCrc32 = held.payload_crc32;
  return request;
}

/** It has dialled again, to this same agent: what was on its line when that broke has arrived or not. */
export function reattach(core: Core, pool: Pool, worker: DispatchWorker, next: NewWorker): void {
  const { link, resumed } = next;
  const held = new Map((resumed?.held ?? []).map((each) => [each.id, each]));
  const begunThrough = worker.begunThrough();
  const lastId = resumed?.last_id ?? 0;
  const again: Request[] = [];
  displace(pool, worker);
  worker.link = link;
  for (const request of worker.kept.values()) {
    request.pendingReplays = 0;
    if (request.delivery === delivery.replaying) askAgain(worker, request);
  }
  for (const [linkId, request] of [...worker.running]) {
    const kept = held.get(linkId);
    if (kept !== undefined && !kept.ended) goOn(core, worker, request);
    else {
      release(core, pool, worker, request);
      displace(pool, worker);
      if (isGivenUp(request)) endedMeanwhile(worker, request, kept?.keep === true);
      else if (kept?.keep && request.named) answeredMeanwhile(worker, request);
      // The worker does not have it: it never came, was given back, or has ended, which nobody may do twice.
      else if (isAfter(linkId, lastId) || isAfter(linkId, begunThrough)) again.push(request);
      else if (request.idempotent && request.attempts < pool.limits.maxAttempts) again.push(request);
      else fail(core, request, lineBroke(worker));
    }
  }
  // What it keeps and nobody here knows of was acknowledged on the line that broke.
  for (const { id, ended, keep } of held.values()) if (ended && keep && !worker.kept.has(id)) link.ack(id);
  if (resumed !== null) {
    worker.counters.completed = resumed.completed;
    worker.counters.failed = resumed.failed;
  }
  worker.paused = next.paused;
  worker.stalled = false;
  place(pool, worker);
  requeue(core, pool, again);
  serveQueue(core, pool);
}

/** It runs on in the worker. Chunks may have been lost with the line, and only those of named ones are kept. */
function goOn(core: Core, worker: DispatchWorker, request: Request): void {
  if (isGivenUp(request)) return worker.link.cancel(request.linkId);
  // Replays that were asked for on the old line will not come.
  request.pendingReplays = 0;
  const isStream = worker.commands.get(request.command)?.streams === true;
  if (isStream && !request.named) return giveUp(core, request, lineBroke(worker));
  if (isStream) request.mayHaveEmitted = true;
  const isVoid = request.delivery === delivery.replaying || (isStream && request.delivery === delivery.attached);
  if (isVoid) askAgain(worker, request);
}

/** It was given up, and has ended: nobody will ask for what its worker may keep of it. */
function endedMeanwhile(worker: DispatchWorker, request: Request, isKept: boolean): void {
  endGivenUp(request, runEvents.answered);
  if (isKept) worker.link.ack(request.linkId);
}

/** Its answer was lost with the line, and is kept by the worker. */
function answeredMeanwhile(worker: DispatchWorker, request: Request): void {
  moveRun(request, runEvents.answeredAndKept);
  request.pendingReplays = 0;
  keepIn(worker, request);
  if (request.currentSink !== null) askAgain(worker, request);
}

function lineBroke({ workerId }: DispatchWorker): RequestError {
  return refusal(code.unavailable, `the link to worker ${workerId} broke while it sent the answer`, { workerId });
}
