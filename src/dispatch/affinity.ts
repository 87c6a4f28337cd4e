import type { DispatchWorker } from './worker.ts';

/** Remembers which worker got the last request of each session. */
export interface Affinity {
  workerOf(sessionId: string): DispatchWorker | undefined;
  remember(sessionId: string, worker: DispatchWorker): void;
  forget(sessionId: string): void;
}

/** How many sessions are remembered. The session that has been quiet longest is forgotten first. */
const sessionsMax = 10_000;

export function createAffinity(): Affinity {
  const workers = new Map<string, DispatchWorker>();
  return {
    workerOf: (sessionId) => workers.get(sessionId),
    remember: (sessionId, worker) => {
      workers.delete(sessionId);
      workers.set(sessionId, worker);
      if (workers.size <= sessionsMax) return;
      for (const oldest of workers.keys()) {
        workers.delete(oldest);
        return;
      }
    },
    forget: (sessionId) => workers.delete(sessionId),
  };
}
