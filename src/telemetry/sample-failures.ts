import type { Log } from './log.ts';

/** If samples fail for lack of descriptors, those of all workers fail every second. */
const reportEveryMs = 60_000;

/** Logs failed samples, of a worker's processes or the host's memory: at most one line a minute. */
export function createSampleFailures(log: Pick<Log, 'error'>, nowMs: () => number): (error: unknown) => void {
  let silentUntilMs = Number.NEGATIVE_INFINITY;
  let unlogged = 0;
  return (error) => {
    if (nowMs() < silentUntilMs) {
      unlogged += 1;
      return;
    }
    const more = unlogged === 0 ? '' : ` (${unlogged} more samples failed since the last report)`;
    log.error(`memory and cpu time could not be measured: ${error instanceof Error ? error.message : error}${more}`);
    silentUntilMs = nowMs() + reportEveryMs;
    unlogged = 0;
  };
}
