import type { Dispatch } from '../dispatch/dispatch.ts';
import { limitsOf } from '../dispatch/limits.ts';
import type { Action, NodeRecord } from '../domain/action.ts';
import type { KeptExit } from '../domain/evidence.ts';
import type { AppMetrics } from '../telemetry/app-metrics.ts';
import type { EventHistory } from '../telemetry/event-history.ts';
import { logRecord } from '../telemetry/event-log.ts';
import type { ExitCounts } from '../telemetry/exit-counts.ts';
import type { Exits } from '../telemetry/exit-history.ts';
import type { Log } from '../telemetry/log.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { noteOrders } from '../workers/ledger-notes.ts';
import type { WorkerParts } from '../workers/parts.ts';
import { sampleHost } from '../workers/sample.ts';
import type { Workers } from '../workers/workers.ts';
import type { Subscribers } from './subscribers.ts';

export interface EffectParts {
  readonly workers: Workers;
  readonly workerParts: WorkerParts;
  readonly dispatch: Dispatch;
  readonly metrics: Metrics;
  readonly apps: AppMetrics;
  readonly log: Log;
  readonly exits: Exits;
  readonly exitCounts: ExitCounts;
  readonly history: Pick<EventHistory, 'append'>;
  readonly subscribers: Subscribers;
  /** Logs the stacks of workers that had to be killed at a shutdown. */
  logStacks(exit: KeptExit): void;
  /** Called when all workers are gone after a shutdown. */
  finish(): void;
}

/**
 * Carries out the actions of one step in order. If an effect throws, the others are still carried out, and then the
 * error is thrown.
 */
export function carryOut(parts: EffectParts, actions: readonly Action[]): void {
  const records: NodeRecord[] = [];
  const errors: unknown[] = [];
  for (const action of actions) {
    try {
      carryOutOne(parts, action, records);
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

/** Which part carries out which action. `records`: the records of this step so far. */
function carryOutOne(parts: EffectParts, action: Action, records: NodeRecord[]): void {
  const { workers, dispatch, metrics, apps } = parts;
  switch (action.type) {
    case 'spawn':
      return workers.spawn(action.pool, action.worker);
    case 'note-ready':
      return workers.noteReady(action.workerId, action.readyAtMs);
    case 'note-orders':
      return noteOrders(parts.workerParts, action.orders);
    case 'warm-up':
      return workers.warmUp(action);
    case 'sample-host':
      return sampleHost(parts.workerParts);
    case 'admit':
      return workers.admit(action);
    case 'pause':
      return workers.setPaused(action.workerId, true);
    case 'resume':
      return workers.setPaused(action.workerId, false);
    case 'ping':
      return workers.ping(action.workerId, action.sequence);
    case 'sample':
      return workers.sample(action);
    case 'send-drain':
      return workers.sendDrain(action.workerId);
    case 'send-stop':
      return workers.sendStop(action.workerId, action.graceMs);
    case 'terminate':
      return workers.terminate(action.workerId);
    case 'inspect':
      return workers.inspect(action.workerId, action.because);
    case 'kill':
      return workers.kill(action);
    case 'sweep':
      return workers.sweep(action);
    case 'release':
      return workers.release(action);
    case 'forget':
      apps.workerGone(action.workerId);
      return workers.forget(action.workerId);
    case 'set-pool':
      metrics.addPool(action.pool.name);
      apps.setPool(action.pool.name, { maxSeries: action.pool.telemetry.maxSeries, size: action.pool.size });
      dispatch.setPool(action.pool.name, limitsOf(action.pool));
      return workers.setPool(action.pool);
    case 'set-admission':
      return dispatch.setPoolOpen(action.pool, {
        open: action.open,
        reason: action.why,
        refuseQueued: action.refuseQueued,
      });
    case 'remove-pool':
      dispatch.removePool(action.pool);
      parts.exitCounts.forgetPool(action.pool);
      // Its last requests have ended, so nothing about the pool is counted any more.
      apps.forgetPool(action.pool);
      return metrics.forgetPool(action.pool);
    case 'missed-pings':
      return metrics.missedPings(action.pool, action.count);
    case 'round-trip':
      return metrics.ping(action.pool, action.ms / 1000);
    case 'record':
      records.push(action.record);
      logRecord(parts.log, action.record);
      parts.history.append(action.record);
      return metrics.record(action.record);
    case 'keep-exit':
      return keepExit(parts, action.exit);
    case 'publish':
      return parts.subscribers.publish(action.changes, records);
    case 'finish':
      return parts.finish();
  }
}

function keepExit(
  { workers, exits, exitCounts, logStacks }: EffectParts,
  ended: Omit<KeptExit, 'evidence' | 'account'>,
): void {
  const { evidence = null, account = null } = workers.handles.get(ended.workerId) ?? {};
  const exit = { ...ended, evidence, account };
  exits.keep(exit);
  exitCounts.count(exit.pool, exit.reason);
  logStacks(exit);
}
