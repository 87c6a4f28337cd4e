import type { ExitRecord } from './action.ts';
import type { Draft } from './draft.ts';
import { putPool, putWorker, record } from './draft.ts';
import { memoryBytes } from './policies/memory.ts';
import { noCounters } from './policies/policy.ts';
import { nextRestart } from './policies/restart.ts';
import type { Reason } from './reason.ts';
import { rank, unplannedReasons } from './reason.ts';
import { endRoll, noteRollFailure } from './roll.ts';
import type { Budget, Exit, Pool, Rung, Worker } from './state.ts';
import { noFailures } from './state.ts';
import { lastLinesMaxLength } from './text-bounds.ts';
import { saidAfter } from './why-nothing-starts.ts';

/** How long after a SIGKILL the kill is repeated: a process in an uninterruptible wait dies only when it leaves it. */
const killAgainMs = 5_000;
/** How long before the SIGKILL of a stop the worker is inspected, at most; os/process/evidence.ts takes no longer. */
const inspectMaxMs = 300;
/** Kills of workers that may hang: what they are doing is worth knowing. */
const inspectedReasons: ReadonlySet<Reason> = new Set(['hung', 'overdue', 'start_timeout', 'link_lost']);

/** A planned replacement is wanted: the worker goes on serving until its turn comes, which a more pressing reason hastens. */
export function becomeDue(draft: Draft, worker: Worker, reason: Reason, message: string): void {
  const { due } = worker;
  if (due !== null) {
    if (rank(reason) < rank(due.pressing)) putWorker(draft, worker, { due: { ...due, pressing: reason } });
    return;
  }
  putWorker(draft, worker, { due: { reason, atMs: draft.facts.nowMs, pressing: reason } });
  record(draft, { kind: 'worker_due', pool: worker.pool, workerId: worker.id, reason, message });
}

/** No new requests; what runs may end until the pool's drain.timeout, counted from `sinceMs`. */
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
 * The worker leaves by its own wish, or by a SIGTERM from elsewhere: a planned end, and its slot is filled at once. Only a
 * worker that served nothing counts as a failure, so that an application that always leaves does not start for ever.
 */
export function retire(draft: Draft, worker: Worker, asked: string): void {
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined || worker.phase !== 'ready') return;
  const message = asked === '' ? 'it leaves by itself: SIGTERM from elsewhere' : `it asks to be replaced: ${asked}`;
  record(draft, { kind: 'worker_due', pool: worker.pool, workerId: worker.id, reason: 'retired', message });
  const { inFlight, completed, failed } = draft.facts.counters(worker.id) ?? noCounters;
  if (inFlight + completed + failed === 0) countFailure(draft, worker, 'retired', message);
  beginDrain(draft, worker, pool, 'retired');
}

/** Asks it to go: the stop message, half of kill_after later SIGTERM, and another half later SIGKILL. */
export function beginStop(draft: Draft, worker: Worker, pool: Pool, reason: Reason): void {
  if (worker.phase === 'stopping' || worker.phase === 'exited') return;
  const ending = worker.ending ?? reason;
  const rung: Rung = worker.attached ? 'stop' : 'term';
  const halfMs = pool.config.drain.killAfterMs / 2;
  const deadlineMs = draft.facts.nowMs + halfMs - (rung === 'term' ? inspectMsOf(pool) : 0);
  const next = putWorker(draft, worker, { phase: 'stopping', ending, rung, deadlineMs });
  if (worker.phase === 'ready') draft.actions.push({ type: 'pause', workerId: worker.id });
  if (rung === 'stop') {
    draft.actions.push({ type: 'send-stop', workerId: worker.id, graceMs: halfMs });
  } else {
    terminate(draft, next);
  }
  record(draft, {
    kind: 'worker_stopping',
    pool: pool.name,
    workerId: worker.id,
    reason: ending,
    message: `asked to go (${rung})`,
  });
}

/** The next rung of the ladder, its time having come. */
export function climb(draft: Draft, worker: Worker, pool: Pool): void {
  if (worker.phase !== 'stopping') return;
  const { nowMs } = draft.facts;
  const inspectMs = inspectMsOf(pool);
  if (worker.rung === 'stop') {
    const deadlineMs = nowMs + pool.config.drain.killAfterMs / 2 - inspectMs;
    terminate(draft, putWorker(draft, worker, { rung: 'term', deadlineMs }));
    return;
  }
  if (worker.rung === 'term' && inspectMs > 0) {
    putWorker(draft, worker, { rung: 'inspect', deadlineMs: nowMs + inspectMs });
    if (worker.pid > 0) draft.actions.push({ type: 'inspect', workerId: worker.id, because: 'did not go when asked' });
    return;
  }
  kill(
    draft,
    worker,
    pool,
    worker.ending ?? 'operator',
    worker.rung === 'kill' ? 'did not die of SIGKILL yet' : 'did not go when asked',
  );
}

/** It is inspected within its grace time, so that its SIGKILL comes no later for it. */
function inspectMsOf(pool: Pool): number {
  return Math.min(inspectMaxMs, pool.config.drain.killAfterMs / 4);
}

export function kill(draft: Draft, worker: Worker, pool: Pool, reason: Reason, detail: string): void {
  if (worker.phase === 'exited') return;
  const ending = worker.ending ?? reason;
  if (worker.phase === 'ready') draft.actions.push({ type: 'pause', workerId: worker.id });
  const killedBecause = worker.killedBecause || detail;
  const deadlineMs = draft.facts.nowMs + killAgainMs;
  putWorker(draft, worker, { phase: 'stopping', ending, rung: 'kill', deadlineMs, killedBecause });
  // Counted now and not when it is seen to be dead: its slot is free to be filled from now on.
  if (worker.ending === null && unplannedReasons.has(reason)) countFailure(draft, worker, reason, detail);
  // Before it is known to be spawned there is nothing to signal; `spawned` comes back here.
  const stuck = worker.phase !== 'stopping' && inspectedReasons.has(reason) ? detail : '';
  if (worker.pid > 0) draft.actions.push({ type: 'kill', workerId: worker.id, stuck });
  record(draft, { kind: 'worker_killed', pool: pool.name, workerId: worker.id, reason: ending, message: detail });
}

function terminate(draft: Draft, worker: Worker): void {
  if (worker.pid > 0) draft.actions.push({ type: 'terminate', workerId: worker.id });
}

/** What a worker that has ended left to say how. */
interface Traces {
  readonly lastLines: readonly string[];
  readonly place?: string;
}

/** Its process is seen to have ended, or was never there. What remains of its tree is swept. */
export function exited(draft: Draft, worker: Worker, told: Exit, traces: Traces, failed?: Reason): void {
  if (worker.phase === 'exited') return;
  // The kernel may have killed a child of it some time ago; this SIGKILL was the agent's.
  const exit = worker.rung === 'kill' ? { code: told.code, signal: told.signal } : told;
  const ending = worker.ending ?? failed ?? reasonOf(exit);
  const unplanned = unplannedReasons.has(ending);
  putWorker(draft, worker, { phase: 'exited', ending, exit, rung: null, deadlineMs: 0, attached: false });
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

/** Neither code nor signal: its parent was an earlier agent, and only a parent is told. */
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
      ? `ended by ${exit.signal}${exit.outOfMemory === true ? ', by the kernel, which was out of memory' : ''}`
      : exit.code !== null
        ? `exited with code ${exit.code}`
        : worker.pid === 0
          ? 'was not started'
          : 'ended; its exit status is not known, because an earlier agent was its parent';
  const late = worker.ending === 'start_timeout' ? `: ${worker.killedBecause}` : ' before it was ready';
  const when = worker.readyAtMs === 0 && unplanned ? late : '';
  const where = place === '' ? '' : `, in ${place}`;
  const said = unplanned && lastLines.length > 0 ? `${saidAfter}${newestText(lastLines)}` : '';
  return `${how}${when}${where}${said}`;
}

/** The end of what it wrote: every view, event and log line that tells of the end carries it. */
function newestText(lines: readonly string[]): string {
  const text = lines.join('\n');
  return text.length <= lastLinesMaxLength ? text : `…${text.slice(-lastLinesMaxLength)}`.toWellFormed();
}

/** One more failure of its slot, and how long the slot waits before it is filled again. */
function countFailure(draft: Draft, worker: Worker, reason: Reason, message: string): void {
  noteRollFailure(draft, worker, message);
  if (worker.readyAtMs === 0) noteFailedStart(draft, worker, message);
  const pool = draft.pools.get(worker.pool);
  const slot = pool?.slots.get(worker.slot);
  if (pool === undefined || slot === undefined) return;
  const { nowMs, random } = draft.facts;
  const life = { wasReady: worker.readyAtMs > 0, livedMs: worker.readyAtMs > 0 ? nowMs - worker.readyAtMs : 0 };
  const budget: Budget = reason === 'memory_hard' ? 'memory' : worker.readyAtMs === 0 ? 'start' : 'crash';
  const { failures, delayMs } = nextRestart(slot.failures, budget, life, pool.config.restart, random);
  const nextStartAtMs = delayMs === 0 ? slot.nextStartAtMs : Math.max(slot.nextStartAtMs, nowMs + delayMs);
  const slots = new Map(pool.slots).set(slot.index, { ...slot, failures, nextStartAtMs });
  const failedStarts = pool.failedStarts + (worker.readyAtMs === 0 && worker.launch === pool.launch ? 1 : 0);
  putPool(draft, pool, { slots, failedStarts });
  if (delayMs > 0) {
    const how = `${failures[budget]} failures in a row (${budget})`;
    const waits = `slot ${slot.index} waits ${Math.round(delayMs)} ms after ${how}`;
    record(draft, { kind: 'slot_backing_off', pool: pool.name, workerId: worker.id, message: waits });
  }
}

/** A changed config with which no worker comes up is given up, for the last one with which some did. */
function noteFailedStart(draft: Draft, worker: Worker, message: string): void {
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined || pool.lastGoodConfig === null || pool.quarantine !== '') return;
  if (worker.launch !== pool.launch || pool.lastGoodConfig.launch === pool.launch) return;
  const startFailures = pool.startFailures + 1;
  const given = startFailures >= pool.config.restart.quarantineAfter;
  const quarantine = given ? `${startFailures} starts failed with the new config; the last one: ${message}` : '';
  const next = putPool(draft, pool, { startFailures, quarantine });
  if (!given) return;
  endRoll(draft, next, 'failed', quarantine);
  const told = `its last good config is used until the config changes again or a roll begins: ${quarantine}`;
  record(draft, { kind: 'pool_quarantined', pool: pool.name, reason: 'config', message: told, unplanned: true });
}

/** A worker came up: with what it was started with others will too. */
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
  const message = 'a worker started with the newest config after all: it is used again';
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

/** Makes the pool have `size` slots: the lowest free numbers are added, the highest are taken away. */
export function resize(draft: Draft, pool: Pool, size: number): Pool {
  const indices = [...pool.slots.keys()].sort((a, b) => a - b);
  const slots = new Map(pool.slots);
  for (const index of indices.slice(size)) slots.delete(index);
  for (let index = 0; slots.size < size; index += 1) {
    if (!slots.has(index)) slots.set(index, { index, failures: noFailures, nextStartAtMs: 0 });
  }
  return putPool(draft, pool, { size, slots });
}
