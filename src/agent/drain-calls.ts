import { setTimeout as delay } from 'node:timers/promises';

/** What there is to wait for before an agent may go and leave its workers to the next one. */
export interface CallsToDrain {
  /** Every connection is closed, which each is after its last call. */
  readonly retired: Promise<void>;
  /** How long requests may run. */
  readonly timeoutMs: number;
  /** How long an answer may take to be read by its caller. */
  readonly readMs: number;
  /** Requests wait or run. */
  isBusy(): boolean;
  /** The agent was told to stop meanwhile: there is nothing left to wait for. */
  isStopping(): boolean;
}

const lookEveryMs = 20;
/** How long the last answers take to leave. */
const leaveMs = 100;

/** Until all calls have ended, but for those that take too long and those whose callers do not read. */
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
    // Connections that were handed in are not always waited for (Node 24): what runs still counts.
    if (isOver && nowMs >= busyAtMs + leaveMs) return;
    if (nowMs >= endsAtMs || nowMs >= busyAtMs + readMs) return;
    await delay(lookEveryMs);
  }
}
