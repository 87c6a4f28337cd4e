import type { Changes, NodeRecord } from '../domain/action.ts';
import type { Listener } from '../grpc/control/source.ts';

/** Tells listeners what each step changed: watchers at Control, and parts of the agent. */
export interface Subscribers {
  /** Calls `listener` after every step that changed something, until the returned function is called. */
  subscribe(listener: Listener): () => void;
  publish(changes: Changes, records: readonly NodeRecord[]): void;
  /** The revision that last changed a worker; 0 if the worker is gone. */
  revisionOf(workerId: string): number;
}

export function createSubscribers(): Subscribers {
  const listeners = new Set<Listener>();
  const revisions = new Map<string, number>();
  return {
    subscribe: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    publish: (changes, records) => {
      for (const id of changes.workers) revisions.set(id, changes.revision);
      for (const { id } of changes.workersGone) revisions.delete(id);
      for (const listener of listeners) listener(changes, records);
    },
    revisionOf: (workerId) => revisions.get(workerId) ?? 0,
  };
}
