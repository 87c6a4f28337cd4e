import type { Draft } from './draft.ts';
import { putNode, record } from './draft.ts';
import type { Worker } from './state.ts';

/**
 * A worker is only started once the ledger has an entry for it. While entries cannot be written, or the host lacks a
 * resource for another process, no worker is started; running workers continue.
 */

/** Interval between attempts. */
const tryEveryMs = 5_000;

/** The worker was not started; neither the worker nor its config is at fault. */
export function startBlocked(draft: Draft, worker: Worker, message: string): void {
  if (worker.pid > 0) return;
  draft.workers.delete(worker.id);
  draft.changed.workers.delete(worker.id);
  draft.changed.workersGone.set(worker.id, worker.pool);
  draft.changed.pools.add(worker.pool);
  draft.actions.push({ type: 'forget', workerId: worker.id });
  const isNew = draft.node.blockedStarts.because === '';
  putNode(draft, { blockedStarts: { because: message, nextTryAtMs: draft.facts.nowMs + tryEveryMs } });
  if (!isNew) return;
  const summary = `no worker can be started (retrying every ${tryEveryMs / 1000} s; running workers continue): ${message}`;
  record(draft, { kind: 'starts_blocked', message: summary, unplanned: true });
}

/** The start that follows is the attempt; the next start waits for its outcome. */
export function noteStartAttempt(draft: Draft): void {
  const { blockedStarts } = draft.node;
  putNode(draft, { blockedStarts: { ...blockedStarts, nextTryAtMs: draft.facts.nowMs + tryEveryMs } });
}

/** The ledger took an entry. */
export function entryWritten(draft: Draft): void {
  if (draft.node.blockedStarts.because === '') return;
  putNode(draft, { blockedStarts: { because: '', nextTryAtMs: 0 } });
  record(draft, { kind: 'starts_resumed', message: 'workers can be started again' });
}
