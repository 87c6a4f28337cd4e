import type { Dispatch } from '../dispatch/dispatch.ts';
import type { State } from '../domain/state.ts';
import { isStopping } from '../domain/state.ts';
import type { Log } from '../telemetry/log.ts';
import { drainCalls } from './drain-calls.ts';
import type { Loop } from './loop.ts';
import type { Opened } from './opened.ts';
import type { Servers } from './servers.ts';

/** How long the last answers may take to reach their callers. */
export const lastAnswersMs = 2_000;

export interface HandoverParts {
  readonly loop: Loop;
  readonly dispatch: Pick<Dispatch, 'poolStats'>;
  readonly servers: Servers;
  readonly opened: Opened;
  readonly leaving: AbortController;
  readonly log: Log;
  /** The workers are left to the next agent. */
  finish(): void;
}

/**
 * Starts a handover: this agent leaves its workers, alive, to the next one. It refuses new calls, waits for running ones, closes
 * the workers' links, and exits by agent/shutdown.ts. Its service manager starts the next agent, which adopts the workers
 * (workers/restore.ts) and, once they dial, their requests (dispatch/takeover.ts). Returns the longest `drain.timeout` of all
 * pools in ms: running requests may take that long.
 */
export function handOver({ loop, dispatch, servers, opened, leaving, log, finish }: HandoverParts): number {
  const timeoutMs = longestDrainMs(loop.state());
  if (leaving.signal.aborted) return timeoutMs;
  log.info('handing over: accepting no new calls, waiting for running ones', { timeout_ms: timeoutMs });
  leaving.abort();
  // Stops the watch, or it would recreate the sockets that the servers' close removes.
  opened.runtimeWatch?.close();
  const isBusy = (): boolean =>
    [...loop.state().pools.keys()].some((pool) => {
      const { queued, inFlight } = dispatch.poolStats(pool);
      return queued + inFlight > 0;
    });
  const calls = {
    retired: servers.api.retire(),
    timeoutMs,
    readMs: lastAnswersMs,
    isBusy,
    isStopping: () => isStopping(loop.state().node),
  };
  void drainCalls(calls).then(async () => {
    if (isStopping(loop.state().node)) return;
    loop.close();
    // Before the last calls are cut off: their cancellation must not reach the workers, which continue to run.
    await servers.link.stop(0);
    finish();
  });
  return timeoutMs;
}

function longestDrainMs({ pools }: State): number {
  return Math.max(0, ...[...pools.values()].map(({ config }) => config.drain.timeoutMs));
}
