import { withoutLastLines } from '../domain/why-nothing-starts.ts';
import { poisonous } from './admission.ts';
import { newCommandStats } from './command-stats.ts';
import { end, endGivenUp, fail } from './completion.ts';
import type { Core } from './core.ts';
import { isAfter } from './core.ts';
import { delivery } from './delivery.ts';
import type { DispatchPool } from './pool.ts';
import { reattach } from './reattach.ts';
import type { Request, RequestError } from './request.ts';
import { code, mayHaveBegun, requestError } from './request.ts';
import { mayRunAgain, runAgain } from './retry.ts';
import { isGivenUp, moveRun, run, runEvents } from './run.ts';
import { addToAvailable, removeFromAvailable, serveQueue } from './scheduling.ts';
import { noLongerExpected, takeOver } from './takeover.ts';
import { countUnclaimed } from './unclaimed.ts';
import type { DispatchWorker, NewWorker, WorkerEnd } from './worker.ts';

/** Adds, pauses, resumes and removes workers, and decides what happens to the requests of a worker that ended. */

export function addWorker(core: Core, next: NewWorker): void {
  const { resumed, paused, ...options } = next;
  const pool = core.pools.get(options.pool);
  if (pool === undefined) return;
  const known = core.workers.get(options.workerId);
  if (known !== undefined) return reattach(core, pool, known, next);
  const worker: DispatchWorker = {
    ...options,
    running: new Map(),
    kept: new Map(),
    paused,
    leaving: false,
    nextLinkId: 0,
    payloadBytes: 0,
    expectedMs: 0,
    lastAnswerAtMs: 0,
    stalled: false,
    freeAt: -1,
    nextFree: null,
    previousFree: null,
  };
  core.workers.set(worker.workerId, worker);
  pool.workers.add(worker);
  pool.capacity += worker.concurrency;
  for (const command of worker.commands.keys()) {
    const stats = pool.commands.get(command) ?? newCommandStats();
    stats.workers += 1;
    pool.commands.set(command, stats);
  }
  if (resumed !== null) takeOver(core, pool, worker, resumed);
  addToAvailable(pool, worker);
  noLongerExpected(core, pool, worker.workerId);
  serveQueue(core, pool);
}

export function pauseWorker(core: Core, workerId: string): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined || worker.paused) return;
  removeFromAvailable(pool, worker);
  worker.paused = true;
  if (worker.counters.inFlight === 0) core.options.onIdle(workerId);
  // Requests of its sessions may go to other workers now.
  serveQueue(core, pool);
}

export function resumeWorker(core: Core, workerId: string): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined || !worker.paused) return;
  worker.paused = false;
  addToAvailable(pool, worker);
  serveQueue(core, pool);
}

export function onLeaving(core: Core, workerId: string): void {
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined) return;
  removeFromAvailable(pool, worker);
  worker.leaving = true;
  serveQueue(core, pool);
}

export function removeWorker(core: Core, workerId: string, ending: WorkerEnd): void {
  for (const pool of core.pools.values()) noLongerExpected(core, pool, workerId);
  const worker = core.workers.get(workerId);
  const pool = worker === undefined ? undefined : core.pools.get(worker.pool);
  if (worker === undefined || pool === undefined) return;
  core.workers.delete(workerId);
  core.prefetched.delete(worker);
  pool.workers.delete(worker);
  removeFromAvailable(pool, worker);
  pool.capacity -= worker.concurrency;
  pool.inFlight -= worker.counters.inFlight;
  worker.counters.inFlight = 0;
  pool.lastEvidenceAtMs = Math.max(pool.lastEvidenceAtMs, worker.counters.lastEvidenceAtMs);
  for (const command of worker.commands.keys()) {
    const stats = pool.commands.get(command);
    if (stats === undefined) continue;
    stats.workers -= 1;
    if (stats.workers === 0) pool.commands.delete(command);
  }
  const unwritten = worker.link.unwritten();
  const again: Request[] = [];
  for (const [linkId, request] of worker.running) {
    if (request.run === run.cancelled) core.deadlines.remove(request);
    if (isGivenUp(request)) {
      endGivenUp(request, runEvents.workerLost);
      continue;
    }
    const neverBegan = unwritten.has(linkId) || isAfter(linkId, ending.lastBegunLinkId);
    if (neverBegan) request.attempts -= 1;
    const crashes = neverBegan || !ending.crashed ? 0 : suspect(core, pool, request);
    if (crashes > 0) fail(core, request, poisonous(request.command, crashes));
    else if (mayRunAgain(request, pool, neverBegan)) again.push(request);
    else fail(core, request, workerEnded(worker.workerId, ending));
  }
  worker.running.clear();
  for (const request of worker.kept.values()) loseKept(core, pool, request, workerEnded(workerId, ending));
  worker.kept.clear();
  worker.counters.kept = 0;
  runAgain(core, pool, again);
  serveQueue(core, pool);
}

/** The request was running when its worker crashed. Returns how often that happened, if it was too often; else 0. */
function suspect(core: Core, pool: DispatchPool, request: Request): number {
  const fingerprint = core.options.fingerprint(request);
  const nowMs = core.options.nowMs();
  if (!pool.poison.crashed(fingerprint, nowMs)) return 0;
  const crashes = pool.poison.crashesOf(fingerprint, nowMs);
  const which = `request ${request.requestId} (${request.command}, ${request.payloadBytes} bytes)`;
  core.options.onPoisoned(pool.name, `${which} was running in ${crashes} workers that crashed: refused from now on`);
  return crashes;
}

/** The worker ended, and an answer that it kept is lost. */
function loseKept(core: Core, pool: DispatchPool, request: Request, error: RequestError): void {
  const withBegun = { ...error, mayHaveBegun: mayHaveBegun(request) };
  moveRun(request, runEvents.workerLost);
  if (request.delivery === delivery.replaying) return end(core, request, withBegun, null, true);
  request.endError = error;
  if (request.delivery !== delivery.detached) return;
  pool.undeliveredFailures.add(request);
  countUnclaimed(core, request);
}

function workerEnded(workerId: string, ending: WorkerEnd): RequestError {
  const how = withoutLastLines(ending.message);
  return requestError(
    code.unavailable,
    `worker ${workerId} ended (${ending.reason}) while it had the request: ${how}`,
    {
      reason: 'WORKER_ENDED',
      workerId,
      exitReason: ending.reason,
      mayHaveBegun: true,
    },
  );
}
