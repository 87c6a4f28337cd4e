import type { DispatchWorker } from './worker.ts';

/** Which worker had a session's last request. */
export interface Affinity {
  workerOf(sessionId: string): DispatchWorker | undefined;
  remember(sessionId: string, worker: DispatchWorker): void;
  forget(sessionId: string): void;
}

/** Sessions that are remembered; those that were quiet longest are forgotten first. */
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
