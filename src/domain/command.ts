import type { Draft } from './draft.ts';
import { putNode, putPool, record } from './draft.ts';
import type { Command } from './event.ts';
import { applyIntent, noteForced, releaseIntent } from './intent.ts';
import { becomeDue, beginDrain, beginStop, kill, resize } from './lifecycle.ts';
import { endRoll, pauseRoll, resumeRoll, startRoll } from './roll.ts';
import type { Pool, Worker } from './state.ts';

/** Applies a command. Commands for missing pools or workers change nothing: the caller has already been refused. */
export function applyCommand(draft: Draft, command: Command): void {
  switch (command.type) {
    case 'scale':
      return withPool(draft, command.pool, (pool) => scale(draft, pool, command.size));
    case 'stop-worker':
      return withWorker(draft, command.workerId, (worker, pool) => {
        if (!command.replace) leaveSlot(draft, worker, pool);
        beginStop(draft, worker, pool, 'operator');
      });
    case 'drain-worker':
      return withWorker(draft, command.workerId, (worker, pool) => {
        leaveSlot(draft, worker, pool);
        if (worker.phase === 'starting') beginStop(draft, worker, pool, 'operator');
        else beginDrain(draft, worker, pool, 'operator');
      });
    case 'recycle-worker':
      return withWorker(draft, command.workerId, (worker, pool) => recycle(draft, worker, pool));
    case 'roll':
      return withPool(draft, command.pool, (pool) => startRoll(draft, pool, command.maxFailures));
    case 'pause-roll':
      return withPool(draft, command.pool, (pool) => pauseRoll(draft, pool));
    case 'resume-roll':
      return withPool(draft, command.pool, (pool) => resumeRoll(draft, pool));
    case 'abort-roll':
      return withPool(draft, command.pool, (pool) => void endRoll(draft, pool, 'aborted', 'requested by an operator'));
    case 'drain-pool':
      return withPool(draft, command.pool, (pool) => {
        if (pool.phase !== 'running') return;
        putPool(draft, pool, { phase: 'draining' });
        record(draft, { kind: 'pool_draining', pool: pool.name, message: 'no new requests' });
      });
    case 'resume-pool':
      return withPool(draft, command.pool, (pool) => {
        if (pool.phase !== 'draining') return;
        putPool(draft, pool, { phase: 'running' });
        record(draft, { kind: 'pool_resumed', pool: pool.name, message: 'takes requests again' });
      });
    case 'drain-node':
      if (draft.node.phase !== 'running') return;
      putNode(draft, { phase: 'draining' });
      return record(draft, { kind: 'node_draining', message: 'no new requests' });
    case 'resume-node':
      if (draft.node.phase !== 'draining') return;
      putNode(draft, { phase: 'running' });
      return record(draft, { kind: 'node_resumed', message: 'takes requests again' });
    case 'set-intent':
      return applyIntent(draft, command.intent);
    case 'release-intent':
      return releaseIntent(draft, command.by);
    case 'note-forced':
      return noteForced(draft, command.pool, command.message);
    case 'shutdown':
      return shutdown(draft, command.how);
  }
}

function withPool(draft: Draft, name: string, use: (pool: Pool) => void): void {
  const pool = draft.pools.get(name);
  if (pool !== undefined && pool.phase !== 'removed') use(pool);
}

function withWorker(draft: Draft, workerId: string, use: (worker: Worker, pool: Pool) => void): void {
  const worker = draft.workers.get(workerId);
  const pool = worker === undefined ? undefined : draft.pools.get(worker.pool);
  if (worker !== undefined && pool !== undefined) use(worker, pool);
}

/**
 * Resizing a drained pool takes effect at once, since its workers stay ready; it takes no requests until it is resumed.
 */
function scale(draft: Draft, pool: Pool, size: number): void {
  resize(draft, pool, size);
  if (size !== pool.size)
    record(draft, { kind: 'pool_scaled', pool: pool.name, message: `from ${pool.size} to ${size} workers` });
}

/** Removes the worker's slot from the pool. A worker that is already ending has no slot to remove. */
function leaveSlot(draft: Draft, worker: Worker, pool: Pool): void {
  const active = worker.phase === 'starting' || worker.phase === 'ready';
  if (!active || !pool.slots.has(worker.slot)) return;
  const slots = new Map(pool.slots);
  slots.delete(worker.slot);
  putPool(draft, pool, { slots, size: slots.size });
  record(draft, {
    kind: 'pool_scaled',
    pool: pool.name,
    reason: 'operator',
    message: `from ${pool.size} to ${slots.size} workers`,
  });
}

function recycle(draft: Draft, worker: Worker, pool: Pool): void {
  if (worker.phase === 'starting') return beginStop(draft, worker, pool, 'operator');
  if (worker.phase !== 'ready') return;
  becomeDue(draft, worker, 'operator', 'requested by an operator');
}

function shutdown(draft: Draft, how: 'drain' | 'now'): void {
  const { nowMs } = draft.facts;
  if (draft.node.phase === 'running' || draft.node.phase === 'draining') {
    putNode(draft, { phase: 'stopping', stoppingSinceMs: nowMs });
    record(draft, {
      kind: 'node_stopping',
      reason: 'shutdown',
      message: how === 'now' ? 'killing all workers' : 'draining all workers',
    });
    for (const pool of draft.pools.values()) {
      const rest = endRoll(draft, pool, 'aborted', 'the agent stops');
      if (rest.closingSinceMs === 0) putPool(draft, rest, { closingSinceMs: nowMs });
    }
  }
  if (how === 'drain') return;
  for (const worker of draft.workers.values()) {
    const pool = draft.pools.get(worker.pool);
    if (pool !== undefined) kill(draft, worker, pool, 'shutdown', 'the agent was asked to end at once');
  }
}
