import type { Changes, NodeRecord } from '../../domain/action.ts';
import { watchResponse } from '../proto.ts';
import { viewPool, viewWorker } from './lists.ts';
import type { ControlSource } from './source.ts';
import { eventView, nodeView } from './view.ts';
import { boundTexts } from './view-bounds.ts';

/**
 * The last changes of the node as encoded messages of Watch. Each message is made once, however many watch, and a watcher that comes
 * back goes on where it was. What does not fit any more is forgotten, oldest first.
 */
export interface ChangeLog {
  /** Position after the newest message. Each message takes one position, and positions never come back. */
  end(): number;
  /** Position of the first message after this revision; null: some of those messages are forgotten, or do not exist yet. */
  after(revision: number): number | null;
  /** Undefined: forgotten, or not written yet. */
  at(position: number): LoggedChange | undefined;
  /** The revision from which on `after` finds everything. */
  oldestRevision(): number;
  /** Calls `listener` after each step that changed something, until the returned function is called. */
  follow(listener: () => void): () => void;
}

export interface LoggedChange {
  readonly revision: number;
  /** The pool whose watchers it is for; '*': for all; '': only for those who watch the whole node. */
  readonly scope: string;
  /** WatchResponse, encoded with `more`. Without its last two bytes it is the same message without `more`. */
  readonly encoded: Buffer;
}

/** Bytes of all messages together, with what Node needs for each. docs/internals/memory.md counts them. */
export const changeLogMaxBytes = 8 * 1024 * 1024;
/** A Buffer of its own, its place in the log, and the allocator's share. */
const messageOverheadBytes = 512;
/** The field `more` of WatchResponse, as the last one of a message. */
const moreBytes = Buffer.from([0x58, 1]);
/** Forgotten messages are cut off the array in large pieces: moving it for each one would be slow. */
const forgottenMax = 1_024;

type Planned = Pick<LoggedChange, 'scope'> & { view(): object };

export function createChangeLog(source: ControlSource): ChangeLog {
  const listeners = new Set<() => void>();
  let log: (LoggedChange | undefined)[] = [];
  /** Position of the first entry of `log`, and how many of its first entries are forgotten. */
  let base = 0;
  let forgotten = 0;
  let bytes = 0;
  let oldestRevision = source.state().revision;

  const forgetOldest = (): void => {
    const oldest = log[forgotten];
    if (oldest === undefined) return;
    bytes -= oldest.encoded.length + messageOverheadBytes;
    oldestRevision = oldest.revision;
    log[forgotten] = undefined;
    forgotten += 1;
    if (forgotten < forgottenMax) return;
    log = log.slice(forgotten);
    base += forgotten;
    forgotten = 0;
  };

  source.subscribe((changes, records) => {
    const { agentId } = source.node();
    for (const { scope, view } of messagesOf(source, changes, records)) {
      const message = boundTexts({ revision: changes.revision, agent_id: agentId, ...view() });
      const encoded = withMore(watchResponse.encode(message));
      log.push({ revision: changes.revision, scope, encoded });
      bytes += encoded.length + messageOverheadBytes;
      while (bytes > changeLogMaxBytes) forgetOldest();
    }
    for (const listener of listeners) listener();
  });

  return {
    end: () => base + log.length,
    after: (revision) => {
      if (revision < oldestRevision || revision > source.state().revision) return null;
      for (let index = log.length; index > forgotten; index -= 1) {
        if ((log[index - 1]?.revision ?? 0) <= revision) return base + index;
      }
      return base + forgotten;
    },
    at: (position) => log[position - base],
    oldestRevision: () => oldestRevision,
    follow: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** The copy has memory of its own: a slice of Node's shared pool would keep the whole pool. */
function withMore(encoded: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(encoded.length + moreBytes.length);
  encoded.copy(copy);
  moreBytes.copy(copy, encoded.length);
  return copy;
}

export function encodedWith(more: boolean, { encoded }: LoggedChange): Buffer {
  return more ? encoded : encoded.subarray(0, -moreBytes.length);
}

export function isWanted({ scope }: Pick<LoggedChange, 'scope'>, pool: string): boolean {
  return pool === '' || scope === '*' || scope === pool;
}

/** The messages of one step. A view is made only when its turn comes, so that not all of a large step are held at once. */
function* messagesOf(source: ControlSource, changes: Changes, records: readonly NodeRecord[]): Generator<Planned> {
  const { workers, pools } = source.state();
  for (const record of records) {
    yield { scope: record.pool ?? '', view: () => ({ event: eventView(record, source.toUnixMs) }) };
  }
  for (const id of changes.workers) {
    const worker = workers.get(id);
    if (worker !== undefined) yield { scope: worker.pool, view: () => ({ worker: viewWorker(source, worker) }) };
  }
  for (const { id, pool } of changes.workersGone) yield { scope: pool, view: () => ({ worker_gone: id }) };
  for (const name of changes.pools) {
    if (pools.has(name)) yield { scope: name, view: () => ({ pool: viewPool(source, name) }) };
  }
  for (const name of changes.poolsGone) yield { scope: name, view: () => ({ pool_gone: name }) };
  if (changes.node) yield { scope: '*', view: () => ({ node: nodeView(source.state(), source.node()) }) };
}
