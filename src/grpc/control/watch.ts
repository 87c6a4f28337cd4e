import type { ServerWritableStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import type { Changes, NodeRecord } from '../../domain/action.ts';
import { failedStatus } from '../error-details.ts';
import { writerOf } from './control-answers.ts';
import { listedWorkers, viewPool, viewWorker } from './lists.ts';
import { sorted, takeFitting } from './paging.ts';
import { findPool, refusalStatus, text } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { eventView, nodeView } from './view.ts';

/** Bytes of the pools of a snapshot, and of its workers. */
const snapshotPartBytes = 1.5 * 1024 * 1024;

/** How many messages a watcher may leave unread. */
const maxUnreadMessages = 10_000;

/** Sends a snapshot, then every change. Both begin in one turn of the event loop, so no change falls between them. */
export function watch(source: ControlSource, call: ServerWritableStream<ControlRequest, object>): void {
  const only = text(call.request, 'pool');
  try {
    if (only !== '') findPool(source, only);
  } catch (error) {
    call.emit('error', refusalStatus(error));
    return;
  }
  const agentId = source.node().agentId;
  let unread = 0;
  const end = (): void => unsubscribe();
  const write = writerOf(call);
  const send = (revision: number, change: object): void => {
    if (!write({ revision, agent_id: agentId, ...change })) return end();
    if (!call.writableNeedDrain) return;
    unread += 1;
    if (unread <= maxUnreadMessages) return;
    end();
    call.emit(
      'error',
      failedStatus(
        status.RESOURCE_EXHAUSTED,
        `expected fewer than ${maxUnreadMessages} unread messages: watch again`,
        'READS_TOO_SLOWLY',
      ),
    );
  };
  const unsubscribe = source.subscribe((changes, records) => sendChanges(source, only, changes, records, send));
  call.on('drain', () => {
    unread = 0;
  });
  endWhenLeaving(source, call, end);
  sendSnapshot(source, only, send);
}

/** Pools and workers that do not fit into one message follow as changes. */
function sendSnapshot(source: ControlSource, only: string, send: (revision: number, change: object) => void): void {
  const { revision, pools } = source.state();
  const names = [...pools.keys()].filter((name) => only === '' || name === only).sort();
  const shown = takeFitting(names, (name) => viewPool(source, name), snapshotPartBytes);
  const listed = listedWorkers(source, only);
  const fitting = takeFitting(sorted(listed), listed.view, snapshotPartBytes);
  const node = nodeView(source.state(), source.node());
  send(revision, { snapshot: { node, pools: shown.views, workers: fitting.views } });
  for (const name of shown.rest) send(revision, { pool: viewPool(source, name) });
  for (const worker of fitting.rest) send(revision, { worker: viewWorker(source, worker) });
}

function sendChanges(
  source: ControlSource,
  only: string,
  changes: Changes,
  records: readonly NodeRecord[],
  send: (revision: number, change: object) => void,
): void {
  const wanted = (pool: string | undefined): boolean => only === '' || pool === only;
  const { workers, pools } = source.state();
  for (const record of records)
    if (wanted(record.pool)) send(changes.revision, { event: eventView(record, source.toUnixMs) });
  for (const id of changes.workers) {
    const worker = workers.get(id);
    if (worker !== undefined && wanted(worker.pool)) send(changes.revision, { worker: viewWorker(source, worker) });
  }
  for (const gone of changes.workersGone) if (wanted(gone.pool)) send(changes.revision, { worker_gone: gone.id });
  for (const name of changes.pools)
    if (pools.has(name) && wanted(name)) send(changes.revision, { pool: viewPool(source, name) });
  for (const name of changes.poolsGone) if (wanted(name)) send(changes.revision, { pool_gone: name });
  if (changes.node) send(changes.revision, { node: nodeView(source.state(), source.node()) });
}

/** Calls `end` when the call is over. A shutdown of the agent ends the call. */
export function endWhenLeaving(
  { leaving }: ControlSource,
  call: ServerWritableStream<ControlRequest, object>,
  end: () => void,
): void {
  const leave = (): void => {
    call.emit(
      'error',
      failedStatus(status.UNAVAILABLE, 'the agent is shutting down; retry with its successor', 'AGENT_STOPPING'),
    );
  };
  const over = (): void => {
    leaving.removeEventListener('abort', leave);
    end();
  };
  leaving.addEventListener('abort', leave);
  call.on('cancelled', over);
  call.on('close', over);
  call.on('error', over);
}
