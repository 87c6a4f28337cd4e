import { noteStartAttempt } from './blocked-starts.ts';
import type { Draft } from './draft.ts';
import { putPool, putWorker, record, workersOf } from './draft.ts';
import { idSuffix } from './id.ts';
import { beginDrain, beginStop, escalate, kill } from './lifecycle.ts';
import { mayStartBeside } from './memory-floor.ts';
import { markDue, replace, replaced } from './planner.ts';
import { assess, nextHealthChangeAtMs, observe, watchEveryMs, watchesFromMs } from './policies/health.ts';
import { drawLimits } from './policies/limits.ts';
import { killPolicies } from './policies/list.ts';
import { mayPing, missedPings, nextPingAtMs, suppressedUntilMs } from './policies/ping-schedule.ts';
import { noCounters } from './policies/policy.ts';
import { slotsBackingOff } from './policies/restart.ts';
import type { Reason } from './reason.ts';
import { isActive, reviewRoll } from './roll.ts';
import type { Pool, Slot, Worker } from './state.ts';
import { newWorker } from './state.ts';
import { Wake } from './wake.ts';
import { whyNothingStarts } from './why-nothing-starts.ts';

/** How often a worker's process tree is measured, with and without a memory limit. Each process costs 20 µs. */
const sampleEveryMs = { limited: 1_000, unlimited: 2_000 } as const;
/**
 * PSS costs a millisecond per process. It is read once in this many samples, unless RSS has moved or is over a limit.
 */
const pssEverySamples = 60;
/** How far RSS must be from its value at the last PSS reading to count as moved. */
const moved = { factor: 1.1, bytes: 4 * 1024 * 1024 } as const;
/** How often a closing pool checks whether its queue is empty. */
const queueCheckMs = 50;

/** Moves one pool closer to its desired state. Returns when it must be checked again. */
export function reconcile(draft: Draft, name: string): number {
  const wake = new Wake(draft.facts.nowMs);
  for (const worker of workersOf(draft, name)) reviewWorker(draft, worker, wake);
  endBackOffs(draft, name, wake);
  const pool = draft.pools.get(name);
  if (pool === undefined) return wake.atMs;
  if (isClosing(draft, pool)) close(draft, pool, wake);
  else fill(draft, pool, wake);
  setAdmission(draft, name, wake);
  return wake.atMs;
}

/**
 * A back-off ends when its time is over, even if no worker can start then, because views count the slots that back off.
 */
function endBackOffs(draft: Draft, name: string, wake: Wake): void {
  const pool = draft.pools.get(name);
  if (pool === undefined || slotsBackingOff(pool) === 0) return;
  const slots = new Map(pool.slots);
  for (const slot of pool.slots.values()) {
    if (slot.nextStartAtMs > draft.facts.nowMs) wake.at(slot.nextStartAtMs);
    else if (slot.nextStartAtMs > 0) slots.set(slot.index, { ...slot, nextStartAtMs: 0 });
  }
  putPool(draft, pool, { slots });
}

/** Applies the timers and policies of one worker. */
function reviewWorker(draft: Draft, before: Worker, wake: Wake): void {
  const pool = draft.pools.get(before.pool);
  if (pool === undefined || before.phase === 'exited') return;
  let worker = before;
  if (worker.attached && (worker.phase === 'ready' || worker.phase === 'draining'))
    worker = heartbeat(draft, worker, pool, wake);
  if (worker.pid > 0) worker = sample(draft, worker, pool, wake);
  if (worker.phase === 'stopping') return stopping(draft, worker, pool, wake);
  if (killIfAsked(draft, worker, pool, wake)) return;
  if (worker.phase === 'starting') return starting(draft, worker, pool, wake);
  if (worker.phase === 'draining') return draining(draft, worker, pool, wake);
  if (worker.phase === 'ready') markDue(draft, worker, pool, wake);
}

function heartbeat(draft: Draft, before: Worker, pool: Pool, wake: Wake): Worker {
  const { nowMs } = draft.facts;
  const config = pool.config.heartbeat;
  const counters = draft.facts.counters(before.id) ?? noCounters;
  let { heartbeat: beat } = before;
  if (nowMs >= beat.nextPingAtMs) {
    const suppressedUntil = suppressedUntilMs(beat, counters.lastEvidenceAtMs, config, nowMs);
    if (suppressedUntil !== null) {
      beat = { ...beat, nextPingAtMs: suppressedUntil, suppressedPings: beat.suppressedPings + 1 };
    } else if (mayPing(beat, config)) {
      const sequence = beat.sequence + 1;
      const unanswered = [...beat.unanswered, { sequence, sentAtMs: nowMs }];
      beat = {
        ...beat,
        sequence,
        unanswered,
        suppressedPings: 0,
        nextPingAtMs: nextPingAtMs(nowMs, config.intervalMs),
      };
      draft.actions.push({ type: 'ping', workerId: before.id, sequence });
    } else {
      beat = { ...beat, nextPingAtMs: nextPingAtMs(nowMs, config.intervalMs) };
    }
  }
  const missed = missedPings(beat, config.timeoutMs, nowMs);
  if (missed > beat.missed) draft.actions.push({ type: 'missed-pings', pool: pool.name, count: missed - beat.missed });
  if (missed !== beat.missed) beat = { ...beat, missed };
  // Usually no ping is missed, and no assessment is needed.
  const answers = missed === 0 && beat.reported.loopLagMs < config.timeoutMs;
  const verdict = answers ? null : assess(observe({ ...before, heartbeat: beat }, pool.config, counters, nowMs));
  // `exited` cannot be: only attached workers are assessed here.
  const health = verdict === null || verdict.health === 'exited' ? 'well' : verdict.health;
  if (health === 'busy' && beat.busySinceMs === 0) beat = { ...beat, busySinceMs: nowMs };
  if (health !== 'busy' && health !== 'hung' && beat.busySinceMs > 0) beat = { ...beat, busySinceMs: 0 };
  const worker =
    beat === before.heartbeat && health === before.health
      ? before
      : putWorker(draft, before, { heartbeat: beat, health });
  if (health !== before.health) healthChanged(draft, before, worker, verdict?.because ?? 'its pings are answered');
  wake.at(beat.nextPingAtMs);
  wake.at(nextHealthChangeAtMs(worker, config, nowMs));
  return worker;
}

function healthChanged(draft: Draft, before: Worker, worker: Worker, because: string): void {
  if (worker.phase === 'ready' && worker.health === 'busy') draft.actions.push({ type: 'pause', workerId: worker.id });
  if (worker.phase === 'ready' && before.health === 'busy' && worker.health !== 'hung') {
    draft.actions.push({ type: 'resume', workerId: worker.id });
  }
  if (before.health === 'unknown') return;
  const message = `${before.health} → ${worker.health}: ${because}`;
  record(draft, { kind: 'worker_health', pool: worker.pool, workerId: worker.id, message });
}

function sample(draft: Draft, before: Worker, pool: Pool, wake: Wake): Worker {
  const { nowMs } = draft.facts;
  let worker = before;
  const watchFromMs = watchesFromMs(before, pool.config.heartbeat);
  const watchAtMs = Math.max(watchFromMs, before.usage.askedAtMs + watchEveryMs(pool.config.heartbeat));
  if (nowMs >= before.usage.nextSampleAtMs || nowMs >= watchAtMs) {
    const { softBytes, hardBytes } = pool.config.recycle.memory;
    const limits = [softBytes, hardBytes].filter((bytes) => bytes > 0);
    const everyMs = limits.length > 0 ? sampleEveryMs.limited : sampleEveryMs.unlimited;
    const { rssAtPssBytes } = before.usage;
    const movedBytes = rssAtPssBytes * moved.factor + moved.bytes;
    const pssBelowBytes = rssAtPssBytes / moved.factor - moved.bytes;
    const pssAboveBytes = before.usage.samples % pssEverySamples === 0 ? 0 : Math.min(movedBytes, ...limits);
    const usage = {
      ...before.usage,
      samples: before.usage.samples + 1,
      askedAtMs: nowMs,
      nextSampleAtMs: (Math.floor(nowMs / everyMs) + 1) * everyMs,
    };
    worker = putWorker(draft, before, { usage });
    const watched = nowMs >= watchFromMs;
    draft.actions.push({ type: 'sample', workerId: before.id, pssAboveBytes, pssBelowBytes, watched });
  }
  wake.at(worker.usage.nextSampleAtMs);
  if (watchAtMs < Number.POSITIVE_INFINITY)
    wake.at(worker === before ? watchAtMs : nowMs + watchEveryMs(pool.config.heartbeat));
  return worker;
}

function killIfAsked(draft: Draft, worker: Worker, pool: Pool, wake: Wake): boolean {
  const counters = draft.facts.counters(worker.id) ?? noCounters;
  for (const policy of killPolicies) {
    const verdict = policy(worker, pool.config, counters, draft.facts.nowMs);
    if ('now' in verdict) {
      // The reason for a planned replacement is dropped; the reason for an end that has already begun stays.
      kill(draft, worker, pool, verdict.now, verdict.detail);
      wakeAtStopDeadline(draft, worker.id, wake);
      return true;
    }
    wake.verdict(verdict);
  }
  return false;
}

function stopping(draft: Draft, worker: Worker, pool: Pool, wake: Wake): void {
  if (draft.facts.nowMs >= worker.deadlineMs) escalate(draft, worker, pool);
  wakeAtStopDeadline(draft, worker.id, wake);
}

function wakeAtStopDeadline(draft: Draft, workerId: string, wake: Wake): void {
  const worker = draft.workers.get(workerId);
  if (worker?.phase === 'stopping') wake.at(worker.deadlineMs);
}

function starting(draft: Draft, worker: Worker, pool: Pool, wake: Wake): void {
  if (draft.facts.nowMs < worker.deadlineMs) return wake.at(worker.deadlineMs);
  const seconds = Math.round((worker.deadlineMs - worker.startedAtMs) / 100) / 10;
  const what = worker.attached ? 'its warm-up has not ended' : 'its import or a start hook has not ended';
  kill(draft, worker, pool, 'start_timeout', `not ready within ${seconds} s (start.timeout): ${what}`);
  wakeAtStopDeadline(draft, worker.id, wake);
}

function draining(draft: Draft, worker: Worker, pool: Pool, wake: Wake): void {
  const { inFlight, kept } = draft.facts.counters(worker.id) ?? noCounters;
  // Callers could not fetch kept answers from an agent that is shutting down, so those are not waited for.
  const idle = inFlight + (worker.ending === 'shutdown' ? 0 : kept) === 0;
  if (idle || draft.facts.nowMs >= worker.deadlineMs) {
    beginStop(draft, worker, pool, worker.ending ?? 'operator');
    wakeAtStopDeadline(draft, worker.id, wake);
  } else {
    wake.at(worker.deadlineMs);
  }
}

function isClosing(draft: Draft, pool: Pool): boolean {
  return pool.phase === 'removed' || draft.node.phase === 'stopping' || draft.node.phase === 'stopped';
}

/** Closes a pool: queued requests are still served, then its workers drain, all within one drain.timeout. */
function close(draft: Draft, pool: Pool, wake: Wake): void {
  const { nowMs } = draft.facts;
  const reason: Reason = draft.node.phase === 'running' || draft.node.phase === 'draining' ? 'scale_down' : 'shutdown';
  const workers = workersOf(draft, pool.name);
  const serving = workers.some((worker) => worker.phase === 'ready');
  const deadlineMs = pool.closingSinceMs + pool.config.drain.timeoutMs;
  const waits = serving && draft.facts.queued(pool.name) > 0 && nowMs < deadlineMs;
  if (waits) wake.at(nowMs + queueCheckMs);
  for (const worker of workers) {
    if (worker.phase === 'starting') beginStop(draft, worker, pool, reason);
    if (worker.phase === 'ready' && !waits) {
      beginDrain(draft, worker, pool, reason, pool.closingSinceMs);
      const drained = draft.workers.get(worker.id);
      if (drained !== undefined) draining(draft, drained, pool, wake);
    }
    wakeAtStopDeadline(draft, worker.id, wake);
  }
}

/** Fills empty slots, replaces workers that are due, and ends workers without a slot. */
function fill(draft: Draft, pool: Pool, wake: Wake): void {
  endUnwanted(draft, pool, wake);
  const bySlot = groupBySlot(workersOf(draft, pool.name));
  const room = roomOf(draft, pool.name);
  for (const slot of [...pool.slots.values()].sort((a, b) => a.index - b.index)) {
    const workers = bySlot.get(slot.index) ?? [];
    if (!workers.some(isActive)) {
      if (workers.every((worker) => worker.phase === 'exited' || mayStartBeside(draft, worker)))
        start(draft, pool.name, slot.index, room, wake);
    } else if (drainReplaced(draft, pool, workers, wake)) room.recount();
  }
  replace(
    draft,
    pool.name,
    (slot) => start(draft, pool.name, slot, room, wake),
    (worker) => {
      drainNow(draft, worker, pool, whyReplaced(worker, pool), wake);
      room.recount();
    },
    wake,
  );
  const replacing = draft.pools.get(pool.name);
  if (replacing !== undefined) reviewRoll(draft, replacing);
}

interface Counts {
  total: number;
  starting: number;
  /** Workers that are not gone yet, and leftovers of an earlier agent's workers, by slot. */
  readonly bySlot: Map<number, number>;
}

/** How many workers a pool has: counted once and then kept up to date, instead of once per slot. */
interface Room {
  counts(): Counts;
  /** Another worker was started. */
  take(slot: number): void;
  /** Something else changed. */
  recount(): void;
}

function roomOf(draft: Draft, pool: string): Room {
  let counted: Counts | undefined;
  const counts = (): Counts => {
    counted ??= countWorkers(draft, pool);
    return counted;
  };
  return {
    counts,
    take: (slot) => {
      counts().total += 1;
      counts().starting += 1;
      addOne(counts().bySlot, slot);
    },
    recount: () => {
      counted = undefined;
    },
  };
}

function countWorkers(draft: Draft, pool: string): Counts {
  const counts: Counts = { total: 0, starting: 0, bySlot: new Map() };
  for (const worker of draft.workers.values()) {
    if (worker.pool !== pool) continue;
    counts.total += 1;
    if (worker.phase === 'starting') counts.starting += 1;
    addOne(counts.bySlot, worker.slot);
  }
  for (const leftover of draft.node.leftovers.values()) {
    if (leftover.pool === pool) addOne(counts.bySlot, leftover.slot);
  }
  return counts;
}

function addOne(bySlot: Map<number, number>, slot: number): void {
  bySlot.set(slot, (bySlot.get(slot) ?? 0) + 1);
}

function groupBySlot(workers: readonly Worker[]): Map<number, Worker[]> {
  const bySlot = new Map<number, Worker[]>();
  for (const worker of workers) {
    const group = bySlot.get(worker.slot);
    if (group === undefined) bySlot.set(worker.slot, [worker]);
    else group.push(worker);
  }
  return bySlot;
}

function endUnwanted(draft: Draft, pool: Pool, wake: Wake): void {
  for (const worker of workersOf(draft, pool.name)) {
    if (pool.slots.has(worker.slot) || !isActive(worker)) continue;
    if (worker.phase === 'starting') beginStop(draft, worker, pool, 'scale_down');
    else drainNow(draft, worker, pool, 'scale_down', wake);
    wakeAtStopDeadline(draft, worker.id, wake);
  }
}

function drainNow(draft: Draft, worker: Worker, pool: Pool, reason: Reason, wake: Wake): void {
  beginDrain(draft, worker, pool, reason);
  const drained = draft.workers.get(worker.id);
  if (drained !== undefined) draining(draft, drained, pool, wake);
}

/** Drains the workers that a newer ready worker of the slot has replaced. False if there are none. */
function drainReplaced(draft: Draft, pool: Pool, workers: readonly Worker[], wake: Wake): boolean {
  const older = replaced(workers);
  for (const worker of older) drainNow(draft, worker, pool, whyReplaced(worker, pool), wake);
  return older.length > 0;
}

/** If an adopted worker became due under its earlier agent, only that agent knew the reason. */
function whyReplaced({ id, due }: Worker, { roll }: Pool): Reason {
  return due?.reason ?? (roll?.old.has(id) === true ? 'roll' : 'operator');
}

/**
 * Starts a worker in a slot, unless the slot backs off, too many workers are starting, or the pool or the slot has no
 * room.
 */
function start(draft: Draft, poolName: string, index: number, room: Room, wake: Wake): boolean {
  const pool = draft.pools.get(poolName);
  const slot = pool?.slots.get(index);
  if (pool === undefined || slot === undefined) return false;
  const { nowMs } = draft.facts;
  if (nowMs < slot.nextStartAtMs) {
    wake.at(slot.nextStartAtMs);
    return false;
  }
  if (!mayTryStart(draft, wake)) return false;
  const { maxSurge } = pool.config.recycle;
  const { total, starting, bySlot } = room.counts();
  if (starting >= pool.config.start.parallel) return false;
  if (total >= pool.size + maxSurge) return false;
  // Workers of one slot share what `{slot}` names (a GPU, a port), so at most `max_surge` others may still be there. When one of
  // them is gone, this is checked again.
  if ((bySlot.get(index) ?? 0) > maxSurge) return false;
  if (draft.node.blockedStarts.because !== '') noteStartAttempt(draft);
  const worker = specify(draft, pool, slot);
  draft.workers.set(worker.id, worker);
  room.take(index);
  draft.changed.workers.add(worker.id);
  putPool(draft, pool, { generations: new Map(pool.generations).set(index, worker.generation) });
  draft.changed.pools.add(poolName);
  draft.actions.push({ type: 'spawn', pool: launchOf(pool).config, worker });
  record(draft, {
    kind: 'worker_started',
    pool: poolName,
    workerId: worker.id,
    message: `slot ${index}, generation ${worker.generation}`,
  });
  wake.at(worker.deadlineMs);
  return true;
}

/** While starts are blocked, one start at a time is tried, every few seconds. */
function mayTryStart(draft: Draft, wake: Wake): boolean {
  const { because, nextTryAtMs } = draft.node.blockedStarts;
  if (because === '') return true;
  wake.at(Math.max(nextTryAtMs, draft.facts.nowMs + 1));
  return draft.facts.nowMs >= nextTryAtMs;
}

/** The config that workers are started with: the pool's own, or the last good one while the pool's is quarantined. */
function launchOf(pool: Pool): Pick<Pool, 'config' | 'fingerprint' | 'launch'> {
  return pool.quarantine !== '' && pool.lastGoodConfig !== null ? pool.lastGoodConfig : pool;
}

function specify(draft: Draft, pool: Pool, slot: Slot): Worker {
  const { nowMs, random } = draft.facts;
  const launch = launchOf(pool);
  const rank = [...pool.slots.keys()].filter((index) => index < slot.index).length;
  return newWorker({
    id: `${pool.name}-${slot.index}-${idSuffix(random)}`,
    pool: pool.name,
    slot: slot.index,
    generation: (pool.generations.get(slot.index) ?? 0) + 1,
    fingerprint: launch.fingerprint,
    launch: launch.launch,
    startedAtMs: nowMs,
    concurrency: launch.config.concurrency,
    limits: drawLimits(pool.config, rank, pool.size, random),
    deadlineMs: nowMs + launch.config.start.timeoutMs,
    warmUp: launch.config.start.warmUp,
  });
}

/** Tells dispatch whether the pool accepts requests, if that changed. */
function setAdmission(draft: Draft, name: string, wake: Wake): void {
  const pool = draft.pools.get(name);
  if (pool === undefined) return;
  const closed = whyClosed(draft, pool);
  const failing = closed === '' ? whyNothingStarts(draft.node, pool, workersOf(draft, name), draft.facts.nowMs) : null;
  if (failing !== null) wake.at(failing.untilMs);
  const why = failing?.why ?? closed;
  const open = why === '';
  if (why === pool.closedBecause) return;
  putPool(draft, pool, { open, closedBecause: why });
  // Without a worker nobody would serve the queue.
  const refuseQueued = failing !== null || (!open && pool.size === 0 && pool.phase !== 'removed');
  draft.actions.push({ type: 'set-admission', pool: name, open, why: open ? '' : `pool ${name} ${why}`, refuseQueued });
}

function whyClosed(draft: Draft, pool: Pool): string {
  if (pool.phase === 'removed') return 'is removed';
  if (draft.node.phase === 'stopping' || draft.node.phase === 'stopped') return 'closes: the agent stops';
  if (pool.phase === 'draining' || draft.node.phase === 'draining') return 'is draining';
  return pool.size === 0 ? 'has no workers: its size is 0' : '';
}
