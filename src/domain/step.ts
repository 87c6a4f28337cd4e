import type { Action } from './action.ts';
import { adopt, leftoverSwept, ordersOf, recallOrders } from './adopt.ts';
import { applyConfig } from './apply-config.ts';
import { entryWritten, startBlocked } from './blocked-starts.ts';
import { applyCommand } from './command.ts';
import type { MemoryLimits } from './config.ts';
import type { Draft } from './draft.ts';
import { draftOf, putNode, putWorker, record } from './draft.ts';
import type { Event, Facts, Sample } from './event.ts';
import { nodeDrift, recallIntent } from './intent.ts';
import { exited, kill, leaveByItself, noteGoodStart } from './lifecycle.ts';
import { guardHost, hostSampled } from './memory-floor.ts';
import { heldMemory, memoryBytes, rememberMemory } from './policies/memory.ts';
import { reconcile } from './reconcile.ts';
import type { Hello, State, Usage, Worker } from './state.ts';

export interface Step {
  readonly state: State;
  readonly actions: readonly Action[];
  /** When to step again if nothing happens before; infinite: never. */
  readonly wakeAtMs: number;
}

/** A delay of this length is lag of the agent's own loop, for which no worker is blamed. */
const lagForgivenMs = 200;
/**
 * A worker is active if one of its threads used this share of a core since the last sample. The CPU time of its processes says less:
 * in a deadlock that holds the GIL, the threads that wait for the GIL use CPU time all the time (os/process/thread-times.ts).
 */
const advancingCpu = 0.05;

/**
 * The only place where anything is decided: takes events, and returns the next state and the actions. Time and
 * randomness come from `facts` alone.
 */
export function step(state: State, events: readonly Event[], facts: Facts): Step {
  const draft = draftOf(state, facts);
  forgiveLag(draft, state);
  for (const event of events) apply(draft, event);
  let wakeAtMs = Number.POSITIVE_INFINITY;
  for (const name of [...draft.pools.keys()]) wakeAtMs = Math.min(wakeAtMs, reconcile(draft, name));
  wakeAtMs = Math.min(wakeAtMs, guardHost(draft));
  forgetRemovedPools(draft);
  finishWhenEmpty(draft);
  noteOrders(draft, state, events);
  return { state: finishStep(draft, state, wakeAtMs), actions: draft.actions, wakeAtMs };
}

function forgiveLag(draft: Draft, state: State): void {
  const lagMs = draft.facts.nowMs - state.wakeAtMs;
  if (lagMs < lagForgivenMs) return;
  for (const worker of draft.workers.values()) {
    const unanswered = worker.heartbeat.unanswered.map((ping) => ({ ...ping, sentAtMs: ping.sentAtMs + lagMs }));
    const deadlineMs = worker.phase === 'starting' ? worker.deadlineMs + lagMs : worker.deadlineMs;
    const linkLostAtMs = worker.linkLostAtMs === 0 ? 0 : worker.linkLostAtMs + lagMs;
    const forgivenMs = worker.heartbeat.forgivenMs + (unanswered.length > 0 ? lagMs : 0);
    putWorker(draft, worker, {
      deadlineMs,
      linkLostAtMs,
      heartbeat: { ...worker.heartbeat, unanswered, forgivenMs },
    });
  }
}

function apply(draft: Draft, event: Event): void {
  switch (event.type) {
    case 'config':
      return applyConfig(draft, event.config, event.restartNeeded ?? []);
    case 'config-refused':
      putNode(draft, { configError: event.message });
      return record(draft, { kind: 'config_refused', message: event.message });
    case 'adopt':
      return adopt(draft, event.workers, event.leftovers);
    case 'leftover-swept':
      return leftoverSwept(draft, event.workerId);
    case 'recall-orders':
      return recallOrders(draft, event.orders);
    case 'recall-intent':
      return recallIntent(draft, event.intent, event.orders);
    case 'intent-lost':
      return record(draft, { kind: 'intent_lost', message: event.message, unplanned: true });
    case 'start-blocked':
      return withWorker(draft, event.workerId, (worker) => startBlocked(draft, worker, event.message));
    case 'spawned':
      return withWorker(draft, event.workerId, (worker) => spawned(draft, worker, event.pid));
    case 'spawn-failed':
      return withWorker(draft, event.workerId, (worker) => spawnFailed(draft, worker, event.message));
    case 'attached':
      return withWorker(draft, event.workerId, (worker) => attached(draft, worker, event.hello));
    case 'warmed':
      return withWorker(draft, event.workerId, (worker) => warmed(draft, worker, event.error));
    case 'link-closed':
      return withWorker(draft, event.workerId, (worker) => linkClosed(draft, worker));
    case 'leaving':
      return withWorker(draft, event.workerId, (worker) => leaveByItself(draft, worker, event.leavingReason));
    case 'pong':
      return withWorker(draft, event.workerId, (worker) => pong(draft, worker, event));
    case 'sampled':
      return withWorker(draft, event.workerId, (worker) => sampled(draft, worker, event.sample));
    case 'host-sampled':
      return hostSampled(draft, event.availableBytes);
    case 'idle':
    case 'budget-spent':
      // `reconcile` reads these facts from the counters; the event only triggers it.
      return;
    case 'overdue':
      return withWorker(draft, event.workerId, (worker) => overdue(draft, worker, event.message));
    case 'poisoned':
      return record(draft, {
        kind: 'request_poisoned',
        pool: event.pool,
        message: event.message,
        unplanned: true,
      });
    case 'link-refused':
      return record(draft, {
        kind: 'link_refused',
        ...(event.worker === null ? {} : { pool: event.worker.pool, workerId: event.worker.id }),
        message: event.message,
        unplanned: true,
      });
    case 'tls':
      return record(draft, event.record);
    case 'exited':
      return withWorker(draft, event.workerId, (worker) => exited(draft, worker, event.exit, event));
    case 'gone':
      return withWorker(draft, event.workerId, (worker) => gone(draft, worker, event.survivors));
    default:
      return applyCommand(draft, event);
  }
}

/** A fact about an unknown worker is late, not wrong. */
function withWorker(draft: Draft, workerId: string, use: (worker: Worker) => void): void {
  const worker = draft.workers.get(workerId);
  if (worker !== undefined) use(worker);
}

function spawned(draft: Draft, worker: Worker, pid: number): void {
  if (worker.phase === 'exited' || worker.pid > 0) return;
  entryWritten(draft);
  const next = putWorker(draft, worker, { pid, spawnedAtMs: draft.facts.nowMs });
  if (next.phase !== 'stopping') return;
  if (next.stopStage === 'kill') draft.actions.push({ type: 'kill', workerId: next.id, inspectBecause: '' });
  else draft.actions.push({ type: 'terminate', workerId: next.id });
}

function spawnFailed(draft: Draft, worker: Worker, message: string): void {
  exited(draft, worker, { code: null, signal: null }, { lastLines: [message] }, 'start_failed');
}

function attached(draft: Draft, worker: Worker, hello: Hello): void {
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined || worker.phase === 'exited') return;
  if (worker.phase === 'stopping') {
    putWorker(draft, worker, { attached: true, hello });
    draft.actions.push({ type: 'send-stop', workerId: worker.id, graceMs: pool.config.drain.killAfterMs / 2 });
    return;
  }
  if (worker.attached) return;
  if (worker.phase !== 'starting') return attachedAgain(draft, worker, hello);
  const next = putWorker(draft, worker, { attached: true, hello });
  if (next.warmUp === null) return becomeReady(draft, next);
  draft.actions.push({ type: 'warm-up', workerId: next.id, ...next.warmUp });
}

/** Continues to serve after its link was lost: with its requests, and draining if it was told to while away. */
function attachedAgain(draft: Draft, worker: Worker, hello: Hello): void {
  const { nowMs } = draft.facts;
  const lostMs = Math.round(nowMs - worker.linkLostAtMs);
  const heartbeat = { ...worker.heartbeat, unanswered: [], missed: 0, busySinceMs: 0, nextPingAtMs: nowMs };
  const next = putWorker(draft, worker, { attached: true, hello, linkLostAtMs: 0, health: 'well', heartbeat });
  const drains = next.phase === 'draining';
  draft.actions.push({
    ...{ type: 'admit', workerId: next.id, pool: next.pool, maxRequests: next.limits.maxRequests },
    paused: drains,
  });
  if (drains) draft.actions.push({ type: 'send-drain', workerId: next.id });
  const message = `attached again after ${lostMs} ms`;
  record(draft, { kind: 'worker_attached', pool: next.pool, workerId: next.id, message });
}

function warmed(draft: Draft, worker: Worker, error: string): void {
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined || worker.phase !== 'starting' || !worker.attached) return;
  if (error === '') return becomeReady(draft, worker);
  kill(draft, worker, pool, 'start_failed', `its warm-up failed: ${error}`);
}

function becomeReady(draft: Draft, worker: Worker): void {
  const { nowMs } = draft.facts;
  const heartbeat = { ...worker.heartbeat, nextPingAtMs: nowMs };
  const ready = putWorker(draft, worker, {
    phase: 'ready',
    readyAtMs: nowMs,
    deadlineMs: 0,
    health: 'well',
    heartbeat,
    // Earlier samples measured a bare interpreter or a peak of its start.
    usage: {
      ...worker.usage,
      samples: 0,
      nextSampleAtMs: 0,
      overSoftBits: 0,
      overHard: false,
      history: [],
      firstBytes: 0,
    },
  });
  noteGoodStart(draft, ready);
  draft.actions.push({ type: 'note-ready', workerId: ready.id, readyAtMs: nowMs });
  draft.actions.push({
    ...{ type: 'admit', workerId: ready.id, pool: ready.pool, maxRequests: ready.limits.maxRequests },
    paused: false,
  });
  const seconds = ((nowMs - worker.startedAtMs) / 1000).toFixed(2);
  record(draft, { kind: 'worker_ready', pool: worker.pool, workerId: worker.id, message: `ready in ${seconds} s` });
}

function linkClosed(draft: Draft, worker: Worker): void {
  if (!worker.attached) return;
  const linkLostAtMs = worker.phase === 'ready' || worker.phase === 'draining' ? draft.facts.nowMs : 0;
  putWorker(draft, worker, { attached: false, linkLostAtMs });
  if (worker.phase === 'ready') draft.actions.push({ type: 'pause', workerId: worker.id });
}

function pong(draft: Draft, worker: Worker, { sequence, atMs, reported }: Event & { readonly type: 'pong' }): void {
  const answered = worker.heartbeat.unanswered.find((ping) => ping.sequence === sequence);
  if (answered === undefined || worker.phase === 'exited') return;
  // After lag was forgiven, the ping's time may be later than the pong's.
  const roundTripMs = Math.max(0, atMs - answered.sentAtMs);
  const unanswered = worker.heartbeat.unanswered.filter((ping) => ping.sequence > sequence);
  putWorker(draft, worker, {
    heartbeat: { ...worker.heartbeat, unanswered, lastPongAtMs: atMs, roundTripMs, reported },
  });
  draft.actions.push({ type: 'round-trip', pool: worker.pool, ms: roundTripMs });
}

function sampled(draft: Draft, worker: Worker, sample: Sample): void {
  const pool = draft.pools.get(worker.pool);
  if (pool === undefined || worker.phase === 'exited') return;
  putWorker(draft, worker, { usage: nextUsage(worker.usage, sample, pool.config.recycle.memory, draft.facts.nowMs) });
}

function nextUsage(usage: Usage, sample: Sample, limits: MemoryLimits, nowMs: number): Usage {
  const bytes = memoryBytes(sample);
  const elapsedMs = nowMs - usage.sampledAtMs;
  const measurable = usage.sampledAtMs > 0 && elapsedMs > 0;
  // When a child exits, its CPU time leaves the sum; that must not count as negative work.
  const cpu = measurable ? Math.max(0, sample.cpuMs - usage.cpuMs) / elapsedMs : 0;
  const shares = sharesOf(usage, sample);
  const heldBytes = heldMemory({ ...sample, ...shares });
  return {
    ...usage,
    sampledAtMs: nowMs,
    rssBytes: sample.rssBytes,
    cgroupBytes: sample.cgroupBytes,
    ...shares,
    cpuMs: sample.cpuMs,
    cpu,
    cpuAdvancedAtMs: (sample.busiestThread ?? cpu) >= advancingCpu ? nowMs : usage.cpuAdvancedAtMs,
    state: sample.state,
    ...rememberMemory(usage, { bytes, heldBytes }, limits, nowMs),
  };
}

/**
 * PSS is read rarely. In between it is scaled down with RSS: when forked children exit, RSS loses every page that they
 * shared, but PSS only what was theirs alone.
 */
function sharesOf(usage: Usage, sample: Sample): Pick<Usage, 'pssBytes' | 'readPssBytes' | 'rssAtPssBytes'> {
  if (sample.pssBytes > 0) {
    return { pssBytes: sample.pssBytes, readPssBytes: sample.pssBytes, rssAtPssBytes: sample.rssBytes };
  }
  const { readPssBytes, rssAtPssBytes } = usage;
  const left = rssAtPssBytes === 0 ? 1 : Math.min(1, sample.rssBytes / rssAtPssBytes);
  return { pssBytes: Math.ceil(readPssBytes * left), readPssBytes, rssAtPssBytes };
}

function overdue(draft: Draft, worker: Worker, message: string): void {
  const pool = draft.pools.get(worker.pool);
  if (pool !== undefined && worker.phase !== 'stopping') kill(draft, worker, pool, 'overdue', message);
}

function gone(draft: Draft, worker: Worker, survivors: readonly number[]): void {
  if (worker.phase !== 'exited') return;
  draft.workers.delete(worker.id);
  draft.changed.workersGone.set(worker.id, worker.pool);
  draft.changed.workers.delete(worker.id);
  draft.changed.pools.add(worker.pool);
  draft.actions.push({ type: 'forget', workerId: worker.id });
  const message =
    survivors.length === 0 ? 'its process tree is gone' : `processes that could not be killed: ${survivors.join(', ')}`;
  const reason = worker.ending ?? 'exit_code';
  record(draft, {
    kind: 'worker_gone',
    pool: worker.pool,
    workerId: worker.id,
    reason,
    message,
    unplanned: survivors.length > 0,
  });
}

function forgetRemovedPools(draft: Draft): void {
  for (const pool of draft.pools.values()) {
    if (pool.phase !== 'removed') continue;
    let empty = true;
    for (const worker of draft.workers.values()) if (worker.pool === pool.name) empty = false;
    if (!empty) continue;
    draft.pools.delete(pool.name);
    draft.changed.poolsGone.add(pool.name);
    draft.changed.pools.delete(pool.name);
    draft.actions.push({ type: 'remove-pool', pool: pool.name });
    record(draft, { kind: 'pool_removed', pool: pool.name, message: 'its last worker is gone' });
  }
}

/** Orders depend on pools and the node alone, which most steps do not change. */
function noteOrders(draft: Draft, before: State, events: readonly Event[]): void {
  if (
    draft.changed.pools.size === 0 &&
    draft.node.phase === before.node.phase &&
    draft.node.intent === before.node.intent
  )
    return;
  // Orders of an earlier agent that no longer hold must not come back later.
  const recalled = events.find((event) => event.type === 'recall-orders');
  const orders = ordersOf(draft);
  if (draft.node.phase === 'stopping' || draft.node.phase === 'stopped') return;
  if (JSON.stringify(orders) === JSON.stringify(recalled?.orders ?? ordersOf(before))) return;
  draft.actions.push({ type: 'note-orders', orders });
}

function finishWhenEmpty(draft: Draft): void {
  if (draft.node.phase !== 'stopping' || draft.workers.size > 0) return;
  putNode(draft, { phase: 'stopped' });
  draft.actions.push({ type: 'finish' });
}

/** Whether the node's view has changed, except for the host's measured memory. */
function hasNodeChanged(draft: Draft, before: State): boolean {
  const { node, changed } = draft;
  if (
    node.phase !== before.node.phase ||
    node.intent !== before.node.intent ||
    node.configError !== before.node.configError ||
    node.restartNeeded !== before.node.restartNeeded ||
    node.blockedStarts.because !== before.node.blockedStarts.because ||
    node.host.floorBytes !== before.node.host.floorBytes ||
    draft.pools.size !== before.pools.size
  ) {
    return true;
  }
  if (changed.pools.size > 0 && nodeDrift(draft) !== nodeDrift(before)) return true;
  if (changed.workers.size + changed.workersGone.size === 0) return false;
  return draft.workers.size !== before.workers.size || countReady(draft) !== countReady(before);
}

function countReady({ workers }: Pick<State, 'workers'>): number {
  let ready = 0;
  for (const worker of workers.values()) if (worker.phase === 'ready') ready += 1;
  return ready;
}

function finishStep(draft: Draft, before: State, wakeAtMs: number): State {
  const { changed } = draft;
  const node = hasNodeChanged(draft, before);
  const any =
    changed.workers.size + changed.workersGone.size + changed.pools.size + changed.poolsGone.size > 0 ||
    node ||
    draft.actions.some((action) => action.type === 'record');
  const revision = any ? before.revision + 1 : before.revision;
  if (any) {
    draft.actions.push({
      type: 'publish',
      changes: {
        revision,
        workers: [...changed.workers],
        workersGone: [...changed.workersGone].map(([id, pool]) => ({ id, pool })),
        pools: [...changed.pools].filter((name) => draft.pools.has(name)),
        poolsGone: [...changed.poolsGone],
        node,
      },
    });
  }
  return { node: draft.node, pools: draft.pools, workers: draft.workers, revision, wakeAtMs };
}
