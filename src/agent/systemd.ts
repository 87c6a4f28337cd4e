import type { State } from '../domain/state.ts';
import { isStopping } from '../domain/state.ts';
import type { ServiceManager } from '../os/systemd.ts';
import { setWakeUp } from '../os/timer.ts';
import type { Log } from '../telemetry/log.ts';
import type { Agent } from './agent.ts';
import { lateMaxMs } from './loop.ts';

/** The notifications that the service manager gets while the agent runs. */
export interface Service {
  /** A reload has begun. */
  reloading(): void;
  ready(): void;
  stopping(): void;
  /** Stops all notifications. */
  close(): void;
}

/** Status changes are sent at most this often, because each costs a process. */
const statusEveryMs = 1_000;
/** How soon a late loop is checked again, as a share of the watchdog's timeout. */
const againShare = 0.05;
/** Time in addition to the drain: for sweeping processes that cannot be killed, and for the last answers. */
const stopExtraMs = 20_000;

export function serveManager(manager: ServiceManager, agent: Agent, log: Log): Service {
  const status = followStatus(manager, agent);
  const watchdog = keepAlive(manager, agent, log);
  return {
    reloading: () => {
      const nowUs = process.hrtime.bigint() / 1000n;
      void manager.notify('RELOADING=1', `MONOTONIC_USEC=${nowUs}`);
    },
    // After the step that applies the config.
    ready: () => void setImmediate(() => manager.notify('READY=1', `STATUS=${statusOf(agent.state())}`)),
    stopping: () => void manager.notify('STOPPING=1', `EXTEND_TIMEOUT_USEC=${longestStopMs(agent.state()) * 1000}`),
    close: () => {
      status.close();
      watchdog.close();
    },
  };
}

interface Closable {
  close(): void;
}

function followStatus(manager: ServiceManager, agent: Agent): Closable {
  let lastStatus = '';
  let timer: NodeJS.Timeout | null = null;
  const sendStatus = (): void => {
    timer = null;
    const status = statusOf(agent.state());
    if (status === lastStatus) return;
    lastStatus = status;
    void manager.notify(`STATUS=${status}`);
  };
  const unsubscribe = agent.subscribe(() => {
    timer ??= setTimeout(sendStatus, statusEveryMs).unref();
  });
  return {
    close: () => {
      unsubscribe();
      if (timer !== null) clearTimeout(timer);
    },
  };
}

/** One line for `systemctl status`. */
export function statusOf({ node, pools, workers }: State): string {
  if (isStopping(node)) return `stopping: ${workers.size} workers are left`;
  let size = 0;
  for (const pool of pools.values()) if (pool.phase !== 'removed') size += pool.size;
  let ready = 0;
  for (const worker of workers.values()) if (worker.phase === 'ready') ready += 1;
  const draining = node.phase === 'draining' ? ', draining: no new requests' : '';
  const refused = node.configError === '' ? '' : ', the last reload was refused';
  return `${ready} of ${size} workers ready${draining}${refused}`;
}

/**
 * Feeds the watchdog only while the loop is on time: an agent that is stuck, stopped, or throws in every step gets
 * killed.
 */
function keepAlive(manager: ServiceManager, agent: Agent, log: Log): Closable {
  const { watchdogMs } = manager;
  if (watchdogMs === 0) return { close: () => undefined };
  let wasLate = false;
  const tick = (): void => {
    const lateMs = agent.lateMs();
    const isLate = lateMs > lateMaxMs;
    if (isLate && !wasLate)
      log.error(`the loop is ${Math.round(lateMs)} ms late: systemd's watchdog gets no sign of life`);
    wasLate = isLate;
    if (!isLate) void manager.notify('WATCHDOG=1');
    // After the process was stopped and continued, this timer may fire first.
    timer = setWakeUp(tick, watchdogMs * (isLate ? againShare : 0.5));
  };
  let timer = setWakeUp(tick, watchdogMs / 2);
  return { close: () => clearTimeout(timer) };
}

/** How long draining all pools may take, which may exceed the unit's TimeoutStopSec. */
function longestStopMs({ pools }: State): number {
  const drains = [...pools.values()].map(({ config }) => config.drain.timeoutMs + config.drain.killAfterMs);
  return Math.max(0, ...drains) + stopExtraMs;
}
