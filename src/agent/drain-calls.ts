import { setTimeout as delay } from 'node:timers/promises';

/** The parts whose work must end before an agent exits and leaves its workers to the next one. */
export interface CallsToDrain {
  /** Resolves when every connection is closed, which happens after its last call. */
  readonly retired: Promise<void>;
  /** How long running requests may take. */
  readonly timeoutMs: number;
  /** How long a caller may take to read its answer. */
  readonly readMs: number;
  /** Whether requests are waiting or running. */
  isBusy(): boolean;
  /** Whether the agent was told to stop meanwhile: then there is nothing left to wait for. */
  isStopping(): boolean;
}

const lookEveryMs = 20;
/** How long the last answers may take to be sent. */
const leaveMs = 100;

/** Waits until all calls have ended, except those that take too long and those whose callers do not read. */
export async function drainCalls({ retired, timeoutMs, readMs, isBusy, isStopping }: CallsToDrain): Promise<void> {
  let isOver = false;
  void retired.then(() => {
    isOver = true;
  });
  const endsAtMs = performance.now() + timeoutMs;
  let busyAtMs = performance.now();
  while (!isStopping()) {
    const nowMs = performance.now();
    if (isBusy()) busyAtMs = nowMs;
    // Node 24 does not always wait for connections that were passed in as descriptors, so running requests count as
    // well.
    if (isOver && nowMs >= busyAtMs + leaveMs) return;
    if (nowMs >= endsAtMs || nowMs >= busyAtMs + readMs) return;
    await delay(lookEveryMs);
  }
}
