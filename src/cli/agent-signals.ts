import type { Agent } from '../agent/agent.ts';
import type { Service } from '../agent/systemd.ts';
import type { Log } from '../telemetry/log.ts';

/**
 * One Ctrl-C may arrive twice: as SIGINT from the terminal, and as SIGINT or SIGTERM from the program that runs the
 * agent (npm, foreman, honcho, overmind). A signal this soon after the first counts as the same request.
 */
const relayedMs = 500;

export interface HeldSignals {
  /** Returns the signals that arrived, in order, and stops holding further ones. */
  release(): readonly NodeJS.Signals[];
}

/**
 * Holds signals that arrive while the agent starts. By default they would kill it, and whatever it had already taken
 * over would live on without an agent. A second request to end does kill it.
 */
export function holdSignals(): HeldSignals {
  const names = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;
  const held: NodeJS.Signals[] = [];
  let askedAtMs: number | null = null;
  const release = (): readonly NodeJS.Signals[] => {
    for (const name of names) process.off(name, hold);
    return held;
  };
  const hold = (signal: NodeJS.Signals): void => {
    held.push(signal);
    if (signal === 'SIGHUP') return;
    const nowMs = performance.now();
    askedAtMs ??= nowMs;
    if (nowMs - askedAtMs < relayedMs) return;
    release();
    process.kill(process.pid, signal);
  };
  for (const name of names) process.on(name, hold);
  return { release };
}

/** SIGTERM and SIGINT stop the agent; SIGHUP reloads its configuration. */
export function obeySignals(running: Agent, service: Service, log: Log): void {
  let askedAtMs: number | null = null;
  const stop = (signal: NodeJS.Signals): void => {
    const nowMs = performance.now();
    if (askedAtMs === null) {
      askedAtMs = nowMs;
      log.info(
        `${signal}: no new requests; waiting for those that run (again, after ${relayedMs / 1000} s or more: kill at once)`,
      );
      service.stopping();
      return running.stop('drain');
    }
    if (nowMs - askedAtMs < relayedMs) return;
    log.warn(`${signal} again: killing all workers`);
    running.stop('now');
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  process.on('SIGHUP', () => {
    service.reloading();
    void running.reload().then(() => service.ready());
  });
}
