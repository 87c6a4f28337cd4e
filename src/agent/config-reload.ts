import type { Config, Loaded } from '../config/load.ts';
import { changedSince } from '../config/next-start.ts';
import { formatProblems } from '../config/problem.ts';
import { planConfig } from '../domain/plan.ts';
import type { ControlSource } from '../grpc/control/source.ts';
import { systemClock } from '../os/clock.ts';
import type { AgentCore } from './core.ts';
import type { Reload } from './reload.ts';
import { createReload } from './reload.ts';

/** A slower read of the configuration may never end. */
const reloadTimeoutMs = 10_000;

/** How many problems of a configuration are reported to a caller of Handover. */
const problemsShown = 10;

/** What reads the configuration of a running agent again. */
export interface ConfigReload {
  readonly reload: Reload;
  readonly checkConfig: ControlSource['checkConfig'];
}

/** `start`: the configuration that the agent started with. */
export function configReload(start: Config, { loop, metrics }: AgentCore, load: () => Promise<Loaded>): ConfigReload {
  const restartNeededBy = (config: Config) => changedSince(start.nextStart, config.nextStart);
  const reload = createReload({
    file: start.path,
    load,
    plan: (config) => ({
      plan: planConfig(loop.state(), config.node, systemClock.nowMs()),
      restartNeeded: restartNeededBy(config),
    }),
    apply: (config) => {
      loop.applyNow({ type: 'config', config: config.node, restartNeeded: restartNeededBy(config) });
      metrics.configApplied(Date.now());
    },
    refuse: (message) => loop.applyNow({ type: 'config-refused', message }),
    timeoutMs: reloadTimeoutMs,
  });
  const checkConfig = async (): Promise<string> => {
    const loaded = await load();
    return loaded.ok ? '' : formatProblems(loaded.problems.slice(0, problemsShown));
  };
  return { reload, checkConfig };
}
