import type { ExitRecord } from './action.ts';
import type { Draft } from './draft.ts';
import { putPool, putWorker, record } from './draft.ts';
import { memoryBytes } from './policies/memory.ts';
import { noCounters } from './policies/policy.ts';
import { nextRestart } from './policies/restart.ts';
import type { Reason } from './reason.ts';
import { rank, unplannedReasons } from './reason.ts';
import { endRoll, noteRollFailure } from './roll.ts';
import type { Exit, FailureKind, Pool, StopStage, Worker } from './state.ts';
import { noFailures } from './state.ts';
import { lastLinesMaxLength } from './text-bounds.ts';
import { lastLinesHeading } from './why-nothing-starts.ts';

/** How long after a SIGKILL it is repeated: a process in an uninterruptible wait dies only when that wait ends. */
const killAgainMs = 5_000;
/** Maximum time between the inspection of a worker and its SIGKILL; os/process/evidence.ts takes no longer. */
const inspectMaxMs = 300;
/** Kills for these reasons concern workers that may hang, so they are inspected first. */
const inspectedReasons: ReadonlySet<Reason> = new Set(['hung', 'overdue', 'start_timeout', 'link_lost']);

/**
 * Marks a worker for a planned replacement. The worker keeps serving until its turn comes. A more pressing reason moves
 * it forward in the order.
 */
export function becomeDue(draft: Draft, worker: Worker, reason: Reason, message: string): void {
  const { due } = worker;
  if (due !== null) {
    if (rank(reason) < rank(due.mostPressing)) putWorker(draft, worker, { due: { ...due, mostPressing: reason } });
    return;
  }
  putWorker(draft, worker, { due: { reason, atMs: draft.facts.nowMs, mostPressing: reason } });
  record(draft, { kind: 'worker_due', pool: worker.pool, workerId: worker.id, reason, message });
}

/** Stops new requests; running ones may end within the pool's drain.timeout, counted from `sinceMs`. */
export function beginDrain(draft: Draft, worker: Worker, pool: Pool, reason: Reason, sinceMs?: number): void {
  if (worker.phase !== 'ready') return;
  const deadlineMs = (sinceMs ?? draft.facts.nowMs) + pool.config.drain.timeoutMs;
  const ending = worker.ending ?? reason;
  putWorker(draft, worker, { phase: 'draining', ending, deadlineMs });
  draft.actions.push({ type: 'pause', workerId: worker.id }, { type: 'send-drain', workerId: worker.id });
  record(draft, {
    kind: 'worker_draining',
    pool: pool.name,
    workerId: worker.id,
    reason: ending,
    message: 'no new requests',
  });
}

/**
 * The worker leaves on its own request or because of an external SIGTERM. This is a planned end, and its slot is filled
 * at once. It counts as a failure only if the worker served nothing, so that an application that always leaves is not
 * restarted without a back-off.
 */
export function leaveByItself(draft: Draft, worker: Worker, leavingReason: string): void {
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined || worker.phase !== 'ready') return;
  const message =
    leavingReason === ''
      ? 'it leaves: it received a SIGTERM that the agent did not send'
      : `it asks to be replaced: ${leavingReason}`;
  record(draft, { kind: 'worker_due', pool: worker.pool, workerId: worker.id, reason: 'retired', message });
  const { inFlight, completed, failed } = draft.facts.counters(worker.id) ?? noCounters;
  if (inFlight + completed + failed === 0) countFailure(draft, worker, 'retired', message);
  beginDrain(draft, worker, pool, 'retired');
}

/**
 * Asks the worker to exit: the stop message, half of kill_after later SIGTERM, and another half later SIGKILL. Before the
 * SIGKILL, and within that time, the worker is inspected. A worker without a link gets no stop message, but SIGTERM at
 * once.
 */
export function beginStop(draft: Draft, worker: Worker, pool: Pool, reason: Reason): void {
  if (worker.phase === 'stopping' || worker.phase === 'exited') return;
  const ending = worker.ending ?? reason;
  const stopStage: StopStage = worker.attached ? 'stop' : 'term';
  const halfMs = pool.config.drain.killAfterMs / 2;
  const deadlineMs = draft.facts.nowMs + halfMs - (stopStage === 'term' ? inspectMsOf(pool) : 0);
  const next = putWorker(draft, worker, { phase: 'stopping', ending, stopStage, deadlineMs });
  if (worker.phase === 'ready') draft.actions.push({ type: 'pause', workerId: worker.id });
  if (stopStage === 'stop') {
    draft.actions.push({ type: 'send-stop', workerId: worker.id, graceMs: halfMs });
  } else {
    terminate(draft, next);
  }
  record(draft, {
    kind: 'worker_stopping',
    pool: pool.name,
    workerId: worker.id,
    reason: ending,
    message: `asked to stop (${stopStage})`,
  });
}

/** Moves a stopping worker to its next stop stage when the deadline of the last one has passed. */
export function escalate(draft: Draft, worker: Worker, pool: Pool): void {
  if (worker.phase !== 'stopping') return;
  const { nowMs } = draft.facts;
  const inspectMs = inspectMsOf(pool);
  if (worker.stopStage === 'stop') {
    const deadlineMs = nowMs + pool.config.drain.killAfterMs / 2 - inspectMs;
    terminate(draft, putWorker(draft, worker, { stopStage: 'term', deadlineMs }));
    return;
  }
  if (worker.stopStage === 'term' && inspectMs > 0) {
    putWorker(draft, worker, { stopStage: 'inspect', deadlineMs: nowMs + inspectMs });
    if (worker.pid > 0)
      draft.actions.push({ type: 'inspect', workerId: worker.id, because: 'did not exit when asked' });
    return;
  }
  kill(
    draft,
    worker,
    pool,
    worker.ending ?? 'operator',
    worker.stopStage === 'kill' ? 'still alive after SIGKILL' : 'did not exit when asked',
  );
}

/** The inspection takes part of the grace time, so that it does not delay the SIGKILL. */
function inspectMsOf(pool: Pool): number {
  return Math.min(inspectMaxMs, pool.config.drain.killAfterMs / 4);
}

export function kill(draft: Draft, worker: Worker, pool: Pool, reason: Reason, detail: string): void {
  if (worker.phase === 'exited') return;
  const ending = worker.ending ?? reason;
  if (worker.phase === 'ready') draft.actions.push({ type: 'pause', workerId: worker.id });
  const killedBecause = worker.killedBecause || detail;
  const deadlineMs = draft.facts.nowMs + killAgainMs;
  putWorker(draft, worker, { phase: 'stopping', ending, stopStage: 'kill', deadlineMs, killedBecause });
  // Counted at the kill, not at the exit: the slot may be filled from now on.
  if (worker.ending === null && unplannedReasons.has(reason)) countFailure(draft, worker, reason, detail);
  // A worker without a known pid cannot be signalled yet; `spawned` catches up on that.
  const inspectBecause = worker.phase !== 'stopping' && inspectedReasons.has(reason) ? detail : '';
  if (worker.pid > 0) draft.actions.push({ type: 'kill', workerId: worker.id, inspectBecause });
  record(draft, { kind: 'worker_killed', pool: pool.name, workerId: worker.id, reason: ending, message: detail });
}

function terminate(draft: Draft, worker: Worker): void {
  if (worker.pid > 0) draft.actions.push({ type: 'terminate', workerId: worker.id });
}

/** What a worker left that explains its end. */
interface Traces {
  readonly lastLines: readonly string[];
  readonly place?: string;
}

/** The worker's process has ended, or never existed. The rest of its tree is swept. */
export function exited(draft: Draft, worker: Worker, reported: Exit, traces: Traces, failed?: Reason): void {
  if (worker.phase === 'exited') return;
  // The kernel may have killed one of its children earlier; this SIGKILL was the agent's.
  const exit = worker.stopStage === 'kill' ? { code: reported.code, signal: reported.signal } : reported;
  const ending = worker.ending ?? failed ?? reasonOf(exit);
  const unplanned = unplannedReasons.has(ending);
  putWorker(draft, worker, { phase: 'exited', ending, exit, stopStage: null, deadlineMs: 0, attached: false });
  const message = exitMessage(worker, exit, traces, unplanned);
  draft.actions.push(
    { type: 'release', workerId: worker.id, reason: ending, message, crashed: unplanned },
    { type: 'sweep', workerId: worker.id },
    { type: 'keep-exit', exit: exitRecord(draft, worker, { reason: ending, exit, message, unplanned }) },
  );
  record(draft, {
    kind: 'worker_exited',
    pool: worker.pool,
    workerId: worker.id,
    reason: ending,
    message,
    exit,
    unplanned,
  });
  if (!unplanned) return;
  if (worker.ending === null) countFailure(draft, worker, exit.outOfMemory === true ? 'memory_hard' : ending, message);
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined) return;
  putPool(draft, pool, { lastFailure: { message: `${worker.id}: ${message}`, atMs: draft.facts.nowMs } });
}

/** Neither code nor signal is known if an earlier agent was the parent: only the parent learns the exit status. */
function reasonOf(exit: Exit): Reason {
  if (exit.signal !== null) return 'signal';
  return exit.code === null ? 'exit_unknown' : 'exit_code';
}

function exitRecord(
  draft: Draft,
  worker: Worker,
  how: Pick<ExitRecord, 'reason' | 'exit' | 'message' | 'unplanned'>,
): ExitRecord {
  const { inFlight, completed, failed } = draft.facts.counters(worker.id) ?? noCounters;
  return {
    ...how,
    workerId: worker.id,
    pool: worker.pool,
    slot: worker.slot,
    generation: worker.generation,
    pid: worker.pid,
    startedAtMs: worker.startedAtMs,
    spawnedAtMs: worker.spawnedAtMs,
    readyAtMs: worker.readyAtMs,
    exitedAtMs: draft.facts.nowMs,
    inFlight,
    completed,
    failed,
    memoryBytes: memoryBytes(worker.usage),
    cpuMs: worker.usage.cpuMs,
    start: worker.hello?.start ?? null,
  };
}

function exitMessage(worker: Worker, exit: Exit, { lastLines, place = '' }: Traces, unplanned: boolean): string {
  const how =
    exit.signal !== null
      ? exit.outOfMemory === true
        ? `killed by the kernel (${exit.signal}), which was out of memory`
        : `ended by ${exit.signal}`
      : exit.code !== null
        ? `exited with code ${exit.code}`
        : worker.pid === 0
          ? 'was not started'
          : 'ended; its exit status is unknown, because an earlier agent started it';
  const late = worker.ending === 'start_timeout' ? `: ${worker.killedBecause}` : ' before it was ready';
  const when = worker.readyAtMs === 0 && unplanned ? late : '';
  const where = place === '' ? '' : `, in ${place}`;
  const output = unplanned && lastLines.length > 0 ? `${lastLinesHeading}${newestText(lastLines)}` : '';
  return `${how}${when}${where}${output}`;
}

/** The end of its output. Every view, event and log line about the exit contains it, so it is bounded. */
function newestText(lines: readonly string[]): string {
  const text = lines.join('\n');
  return text.length <= lastLinesMaxLength ? text : `…${text.slice(-lastLinesMaxLength)}`.toWellFormed();
}

/** Counts a failure of the worker's slot, and sets how long the slot waits before it is filled again. */
function countFailure(draft: Draft, worker: Worker, reason: Reason, message: string): void {
  noteRollFailure(draft, worker, message);
  if (worker.readyAtMs === 0) noteFailedStart(draft, worker, message);
  const pool = draft.pools.get(worker.pool);
  const slot = pool?.slots.get(worker.slot);
  if (pool === undefined || slot === undefined) return;
  const { nowMs, random } = draft.facts;
  const life = { wasReady: worker.readyAtMs > 0, livedMs: worker.readyAtMs > 0 ? nowMs - worker.readyAtMs : 0 };
  const kind: FailureKind = reason === 'memory_hard' ? 'memory' : worker.readyAtMs === 0 ? 'start' : 'crash';
  const { failures, delayMs } = nextRestart(slot.failures, kind, life, pool.config.restart, random);
  const nextStartAtMs = delayMs === 0 ? slot.nextStartAtMs : Math.max(slot.nextStartAtMs, nowMs + delayMs);
  const slots = new Map(pool.slots).set(slot.index, { ...slot, failures, nextStartAtMs });
  const failedStarts = pool.failedStarts + (worker.readyAtMs === 0 && worker.launch === pool.launch ? 1 : 0);
  putPool(draft, pool, { slots, failedStarts });
  if (delayMs > 0) {
    const how = `${failures[kind]} failures in a row (${kind})`;
    const waits = `slot ${slot.index} waits ${Math.round(delayMs)} ms after ${how}`;
    record(draft, { kind: 'slot_backing_off', pool: pool.name, workerId: worker.id, message: waits });
  }
}

/** If no worker becomes ready with a changed config, the config is abandoned for the last good one. */
function noteFailedStart(draft: Draft, worker: Worker, message: string): void {
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined || pool.lastGoodConfig === null || pool.quarantine !== '') return;
  if (worker.launch !== pool.launch || pool.lastGoodConfig.launch === pool.launch) return;
  const startFailures = pool.startFailures + 1;
  const isAbandoned = startFailures >= pool.config.restart.quarantineAfter;
  const quarantine = isAbandoned ? `${startFailures} starts failed with the new config; the last one: ${message}` : '';
  const next = putPool(draft, pool, { startFailures, quarantine });
  if (!isAbandoned) return;
  endRoll(draft, next, 'failed', quarantine);
  const summary = `its last good config is used until the config changes again or a roll begins: ${quarantine}`;
  record(draft, { kind: 'pool_quarantined', pool: pool.name, reason: 'config', message: summary, unplanned: true });
}

/** A worker became ready, so its config works. */
export function noteGoodStart(draft: Draft, worker: Worker): void {
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined) return;
  const current = forgiveStarts(draft, pool, worker.slot);
  if (worker.launch !== current.launch) return;
  const { config, fingerprint, launch } = current;
  const isNew = current.lastGoodConfig?.config !== config || current.quarantine !== '';
  if (isNew)
    putPool(draft, current, { lastGoodConfig: { config, fingerprint, launch }, startFailures: 0, quarantine: '' });
  if (current.quarantine === '') return;
  const message = 'a worker became ready with the newest config, so that is used again';
  record(draft, { kind: 'pool_changed', pool: current.name, reason: 'config', message });
}

function forgiveStarts(draft: Draft, pool: Pool, index: number): Pool {
  const slot = pool.slots.get(index);
  if (slot === undefined || slot.failures.start === 0) {
    return pool.failedStarts === 0 ? pool : putPool(draft, pool, { failedStarts: 0 });
  }
  const failures = { ...slot.failures, start: 0 };
  return putPool(draft, pool, { slots: new Map(pool.slots).set(index, { ...slot, failures }), failedStarts: 0 });
}

/** Resizes the pool to `size` slots: adds the lowest free numbers, removes the highest. */
export function resize(draft: Draft, pool: Pool, size: number): Pool {
  const indices = [...pool.slots.keys()].sort((a, b) => a - b);
  const slots = new Map(pool.slots);
  for (const index of indices.slice(size)) slots.delete(index);
  for (let index = 0; slots.size < size; index += 1) {
    if (!slots.has(index)) slots.set(index, { index, failures: noFailures, nextStartAtMs: 0 });
  }
  return putPool(draft, pool, { size, slots });
}
