/** Numbers that dispatch counts for one worker. The object is shared: dispatch writes it, the domain and the views only read it. */
export interface WorkerCounters {
  inFlight: number;
  /** Answers that the worker keeps until they are acknowledged. */
  kept: number;
  completed: number;
  failed: number;
  /** Monotonic time of the last proof of progress (result, chunk, progress report); 0: none yet. */
  lastEvidenceAtMs: number;
}

export function newCounters(): WorkerCounters {
  return { inFlight: 0, kept: 0, completed: 0, failed: 0, lastEvidenceAtMs: 0 };
}
