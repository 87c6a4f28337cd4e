import type { Draft } from './draft.ts';
import { putNode, record } from './draft.ts';
import type { Worker } from './state.ts';

/**
 * A worker counts once the ledger has it. While no entry can be made, or the host has no room for a process, nothing is started;
 * all that runs goes on.
 */

/** How often it is tried again. */
const tryEveryMs = 5_000;

/** It was not started, and neither the worker nor its config is to blame. */
export function startBlocked(draft: Draft, worker: Worker, message: string): void {
  if (worker.pid > 0) return;
  draft.workers.delete(worker.id);
  draft.changed.workers.delete(worker.id);
  draft.changed.workersGone.set(worker.id, worker.pool);
  draft.changed.pools.add(worker.pool);
  draft.actions.push({ type: 'forget', workerId: worker.id });
  const isNew = draft.node.ledger.error === '';
  putNode(draft, { ledger: { error: message, nextTryAtMs: draft.facts.nowMs + tryEveryMs } });
  if (!isNew) return;
  const told = `no worker can be started (tried again every ${tryEveryMs / 1000} s; running workers go on): ${message}`;
  record(draft, { kind: 'starts_blocked', message: told, unplanned: true });
}

/** The start that is about to be made is the try; the next one has to wait for what comes of it. */
export function putLedgerTry(draft: Draft): void {
  const { ledger } = draft.node;
  putNode(draft, { ledger: { ...ledger, nextTryAtMs: draft.facts.nowMs + tryEveryMs } });
}

/** An entry was made. */
export function entered(draft: Draft): void {
  if (draft.node.ledger.error === '') return;
  putNode(draft, { ledger: { error: '', nextTryAtMs: 0 } });
  record(draft, { kind: 'starts_resumed', message: 'workers can be started again' });
}
