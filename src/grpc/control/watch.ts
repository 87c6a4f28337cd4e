import type { ServerWritableStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { failedStatus } from '../error-details.ts';
import type { ChangeLog } from './change-log.ts';
import { encodedWith, isWanted } from './change-log.ts';
import { writerOf } from './control-answers.ts';
import { intervalOf } from './interval.ts';
import { listedWorkers, viewPool, viewWorker } from './lists.ts';
import { sorted, takeFitting } from './paging.ts';
import { findPool, Refusal, refusalStatus, text } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { nodeView } from './view.ts';

/** Bytes of the pools of a snapshot, and of its workers. */
const snapshotPartBytes = 1.5 * 1024 * 1024;

/** How much a watcher may leave unread before the next messages stay in the log for it. */
const maxUnread = { messages: 1_000, bytes: 256 * 1024 };

const bookmarkIntervals = { defaultMs: 10_000, leastMs: 100, mostMs: 600_000 };

type Call = ServerWritableStream<ControlRequest, object>;

/**
 * Sends a snapshot or what the caller has missed, and then every change. Both begin in one turn of the event loop, so no change falls
 * between them.
 */
export function watch(source: ControlSource, log: ChangeLog, call: Call): void {
  let start: Start;
  try {
    start = startOf(source, log, call.request);
  } catch (error) {
    call.emit('error', refusalStatus(error));
    return;
  }
  const write = writerOf(call);
  const watcher = createWatcher(source, log, start, { write, fail: (error) => call.emit('error', error) });
  endWhenLeaving(source, call, watcher.end);
  watcher.begin();
}

interface Start {
  readonly pool: string;
  readonly bookmarkMs: number;
  /** The position in the log to go on from; null: from a snapshot. */
  readonly resumeAt: number | null;
}

function startOf(source: ControlSource, log: ChangeLog, request: ControlRequest): Start {
  const pool = text(request, 'pool');
  const bookmarkMs = intervalOf(request, 'bookmark_interval_ms', bookmarkIntervals);
  const resumeAt = resumePosition(source, log, request);
  // A resumed watcher may still have to learn that its pool is gone.
  if (pool !== '' && (resumeAt === null || !isInLog(log, resumeAt, pool))) findPool(source, pool);
  return { pool, bookmarkMs, resumeAt };
}

function resumePosition(source: ControlSource, log: ChangeLog, request: ControlRequest): number | null {
  const from = request['from_revision'];
  const wanted = text(request, 'agent_id');
  if (typeof from !== 'number') {
    if (wanted === '') return null;
    throw new Refusal(status.INVALID_ARGUMENT, 'from_revision: expected a revision of agent_id, got none');
  }
  if (wanted === '') {
    throw new Refusal(
      status.INVALID_ARGUMENT,
      'agent_id: expected the agent whose revision from_revision is, got none',
    );
  }
  const { agentId } = source.node();
  const position = wanted === agentId ? log.after(from) : null;
  if (position !== null) return position;
  const kept = `expected ${log.oldestRevision()} to ${source.state().revision} of agent ${agentId}`;
  throw new Refusal(
    status.OUT_OF_RANGE,
    `from_revision: ${kept}, got ${from} of agent ${wanted}; watch without from_revision to begin again with a snapshot`,
  );
}

function isInLog(log: ChangeLog, from: number, pool: string): boolean {
  for (let position = from; position < log.end(); position += 1) if (log.at(position)?.scope === pool) return true;
  return false;
}

interface Sink {
  write: ReturnType<typeof writerOf>;
  fail(error: { readonly code: number; readonly details: string }): void;
}

/** Reads the log at the pace of its caller. */
function createWatcher(source: ControlSource, log: ChangeLog, { pool, bookmarkMs, resumeAt }: Start, sink: Sink) {
  const { agentId } = source.node();
  const unread = { messages: 0, bytes: 0 };
  let position = resumeAt ?? log.end();
  let lastSentAtMs = source.nowMs();
  let timer: NodeJS.Timeout | null = null;
  let isOver = false;
  /** Whether a resumed watcher was told that it has everything that it missed. */
  let isCaughtUp = resumeAt === null;

  const end = (): void => {
    isOver = true;
    unfollow();
    if (timer !== null) clearTimeout(timer);
  };

  const send = (message: object, bytes: number): void => {
    lastSentAtMs = source.nowMs();
    unread.messages += 1;
    unread.bytes += bytes;
    const onTaken = (): void => {
      unread.messages -= 1;
      unread.bytes -= bytes;
      // Most often there is nothing more to send.
      if (!isOver && position < log.end()) pump();
    };
    if (!sink.write(message, onTaken)) end();
  };

  const pump = (): void => {
    while (!isOver && position < log.end() && unread.messages < maxUnread.messages && unread.bytes < maxUnread.bytes) {
      const change = log.at(position);
      if (change === undefined) return endTooSlow();
      position += 1;
      if (!isWanted(change, pool)) continue;
      const encoded = encodedWith(goesOn(log, position, change.revision, pool), change);
      send(encoded, encoded.length);
    }
    if (position < log.end() && log.at(position) === undefined) return endTooSlow();
    if (isOver || isCaughtUp || position < log.end()) return;
    isCaughtUp = true;
    bookmark();
  };

  const endTooSlow = (): void => {
    if (isOver) return;
    end();
    const details = 'expected the caller to read as fast as the node changes: watch again';
    sink.fail(failedStatus(status.RESOURCE_EXHAUSTED, details, 'READS_TOO_SLOWLY'));
  };

  const bookmark = (): void => send({ revision: source.state().revision, agent_id: agentId, bookmark: {} }, 0);

  /** Whoever has not read everything yet needs no sign that nothing happens. */
  const bookmarkWhenQuiet = (): void => {
    const quietMs = source.nowMs() - lastSentAtMs;
    if (quietMs >= bookmarkMs && position === log.end() && unread.messages === 0) bookmark();
    if (isOver) return;
    const dueMs = lastSentAtMs + bookmarkMs - source.nowMs();
    timer = setTimeout(bookmarkWhenQuiet, dueMs > 0 ? Math.ceil(dueMs) : bookmarkMs);
  };

  const unfollow = log.follow(pump);
  return {
    end,
    begin: () => {
      if (resumeAt === null) sendSnapshot(source, pool, (message) => sink.write(message) || end());
      else pump();
      if (!isOver) bookmarkWhenQuiet();
    },
  };
}

/** Whether another message for the pool's watchers with this revision stands at `position` or later. */
function goesOn(log: ChangeLog, position: number, revision: number, pool: string): boolean {
  for (let at = position; ; at += 1) {
    const next = log.at(at);
    if (next === undefined || next.revision !== revision) return false;
    if (isWanted(next, pool)) return true;
  }
}

/** Pools and workers that do not fit into one message follow as changes. */
function sendSnapshot(source: ControlSource, only: string, send: (message: object) => void): void {
  const { revision, pools } = source.state();
  const names = [...pools.keys()].filter((name) => only === '' || name === only).sort();
  const shown = takeFitting(names, (name) => viewPool(source, name), snapshotPartBytes);
  const listed = listedWorkers(source, only);
  const fitting = takeFitting(sorted(listed), listed.view, snapshotPartBytes);
  const head = { revision, agent_id: source.node().agentId };
  let left = shown.rest.length + fitting.rest.length;
  const node = nodeView(source.state(), source.node());
  send({ ...head, more: left > 0, snapshot: { node, pools: shown.views, workers: fitting.views } });
  const sendRest = (change: object): void => {
    left -= 1;
    send({ ...head, more: left > 0, ...change });
  };
  for (const name of shown.rest) sendRest({ pool: viewPool(source, name) });
  for (const worker of fitting.rest) sendRest({ worker: viewWorker(source, worker) });
}

/** Calls `end` when the call is over. A shutdown of the agent ends the call. */
export function endWhenLeaving({ leaving }: ControlSource, call: Call, end: () => void): void {
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
