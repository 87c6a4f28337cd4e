/** What dispatch counts for one worker. Mutable and shared: dispatch writes, the domain and the views only read. */
export interface WorkerCounters {
  inFlight: number;
  /** Answers that it keeps for callers who lost their connection. */
  kept: number;
  completed: number;
  failed: number;
  /** Monotonic time of the last proof of progress (result, chunk, progress report); 0: none yet. */
  lastEvidenceAtMs: number;
}

export function newCounters(): WorkerCounters {
  return { inFlight: 0, kept: 0, completed: 0, failed: 0, lastEvidenceAtMs: 0 };
}
